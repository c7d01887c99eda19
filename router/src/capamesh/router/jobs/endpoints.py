"""The endpoints that a batch can be for: what a request has in rows, how these are asked for, and the answer they make. Pure.

A request may have several rows, as texts of which each gets a vector. The rows of many requests run as one call where their `RowForm`
is the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import numpy as np
from typing_extensions import override

from capamesh.protocol.steps import run_through
from capamesh.protocol.tasks import DIMENSIONS, EMBEDDING, TEXT, TOKEN_IDS, TOKENS, Task
from capamesh.protocol.tensors import Datatype, Tensor, join_elements
from capamesh.router.requests.embedding_answer import written
from capamesh.router.requests.embedding_request import EmbeddingRequest, request_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from capamesh.protocol.steps import Steps

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""The most bytes of an answer's JSON (guess: as of one that is asked for by itself)."""


class RowForm(ABC):
    """The things that rows have in common which run as one call; forms that are equal are of such rows."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """The outputs that are asked for."""

    @abstractmethod
    def tensors(self, rows: Sequence[bytes]) -> tuple[Tensor, ...]:
        """Return the inputs of a call: BYTES [rows], and what is the same for all rows."""

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

    @abstractmethod
    def read(self, body: Mapping[str, Any]) -> Steps[tuple[Sequence[bytes], RowForm]]:
        """Return the rows of a request, and their form. Raises `InvalidRequest` for a body that the endpoint does not take."""

    @abstractmethod
    def count(self, body: Mapping[str, Any]) -> int:
        """Return how many rows a request has, without reading all of it; 1 for a body that is wrong."""


@dataclass(frozen=True, slots=True)
class EmbeddingForm(RowForm):
    """Texts, or the tokens of texts, of which each gets a vector."""

    asked: EmbeddingRequest
    """The request, without its texts."""

    @property
    @override
    def outputs(self) -> tuple[str, ...]:
        return (EMBEDDING, TOKENS)

    @override
    def tensors(self, rows: Sequence[bytes]) -> tuple[Tensor, ...]:
        name = TOKEN_IDS if self.asked.is_tokens else TEXT
        texts = Tensor(name, Datatype.BYTES, (len(rows),), join_elements(rows))
        if not self.asked.dimensions:
            return (texts,)
        return texts, Tensor.from_numpy(DIMENSIONS, np.array([self.asked.dimensions], "<i4"))

    @override
    def answer(self, outputs: Mapping[str, npt.NDArray[Any]]) -> list[bytes]:
        vectors = np.ascontiguousarray(outputs[EMBEDDING], "<f4")
        tokens = int(outputs[TOKENS].sum(dtype=np.int64))
        return run_through(written(self.asked, vectors, tokens, MAX_ANSWER_BYTES))


class Embeddings(Endpoint):
    """`POST /v1/embeddings`."""

    path = "/v1/embeddings"
    task = Task.TEXT_EMBEDDING

    @override
    def read(self, body: Mapping[str, Any]) -> Steps[tuple[Sequence[bytes], RowForm]]:
        asked = yield from request_of(body)
        return asked.rows, EmbeddingForm(replace(asked, rows=()))

    @override
    def count(self, body: Mapping[str, Any]) -> int:
        given = body.get("input")
        if not isinstance(given, list):
            return 1
        items = cast("list[object]", given)
        return 1 if not items or type(items[0]) is int else len(items)


ENDPOINTS: Final[Mapping[str, Endpoint]] = {each.path: each for each in (Embeddings(),)}
"""The endpoints by their paths."""
