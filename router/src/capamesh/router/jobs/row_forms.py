"""The interface of a batch's endpoints: the rows of a request, the form in which they run, and the answer that is made of them. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy.typing as npt

    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.steps import Steps
    from capamesh.protocol.tasks import Task
    from capamesh.protocol.tensors import Tensor


class RowForm(ABC):
    """The things that rows have in common which run as one call; forms that are equal are of such rows."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """The outputs that are asked for."""

    @property
    def least_s(self) -> float:
        """The seconds that a call of a row is given at least, for one may take long that no other has taken; 0: as others take."""
        return 0.0

    @abstractmethod
    def tensors(self, rows: Sequence[bytes]) -> tuple[Tensor, ...]:
        """Return the inputs of a call: BYTES [rows], and what is the same for all rows."""

    def paid_rows(self, rows: Sequence[bytes], answer: InferAnswer) -> int:
        """Return the rows that the answer to these is paid for by; where it is generated, its tokens and those of its prompts."""
        del answer
        return len(rows)

    @abstractmethod
    def answer(self, outputs: Mapping[str, npt.NDArray[Any]]) -> list[bytes]:
        """Return the body of the answer to one request, in pieces, by its outputs of shape [rows of the request, ...].

        Raises `RunFailed`: JSON cannot hold them.
        """


class Endpoint(ABC):
    """One endpoint."""

    path: ClassVar[str]
    """The path of its route."""
    task: ClassVar[Task]
    """The task that its models are for."""
    prompt_field: ClassVar[str | None] = None
    """The field of a request that has its prompts; None: its models have no context that prompts could exceed."""

    @abstractmethod
    def read(self, body: Mapping[str, Any]) -> Steps[tuple[Sequence[bytes], RowForm]]:
        """Return the rows of a request, and their form. Raises `InvalidRequest` for a body that the endpoint does not take."""

    @abstractmethod
    def count(self, body: Mapping[str, Any]) -> int:
        """Return how many rows a request has, without reading all of it; 1 for a body that is wrong."""
