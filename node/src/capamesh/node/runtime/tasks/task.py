"""The seam between a worker and the tasks of its models: what a request of a task becomes, and what its outputs do. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from capamesh.protocol.errors import CapameshError, InvalidRequest, RunFailed, TooLarge
from capamesh.protocol.tasks import INPUTS, Task
from capamesh.protocol.tensors import BYTES, Tensor

MAX_TASK_ROWS: Final = 2048
"""The most texts, pictures or files of a request: OpenAI's limit of texts."""


class PackageMissing(Exception):
    """A package that a task needs is not installed on this node, which serves the model by its own tensors alone."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"its task is left out, which needs the package {package!r} on the node: pip install 'capamesh[tasks]'"
        )


class TaskRequest(ABC):
    """One request of a task: what the model is given and asked for, and what its answer becomes."""

    def __init__(self, outputs: tuple[str, ...]) -> None:
        self.outputs = outputs
        """The model's own outputs that it is asked for; empty for all."""

    @abstractmethod
    def inputs(self) -> tuple[Tensor, ...]:
        """Return the inputs as described by the model's own. Blocks; called once, in a thread.

        Raises:
            InvalidRequest: an element is not what the task is of.
            TooLarge: an element is over a limit.
        """

    def of(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the answer's tensors, as described by `tasks.OUTPUTS` and the model's own outputs, where it gave `outputs`."""
        return outputs

    def answer(self, outputs: Sequence[Tensor]) -> Sequence[Tensor] | CapameshError:
        """Return the tensors as described by `of`, or the error why there are none. Blocks for milliseconds where they are large."""
        try:
            return self.of(outputs)
        except CapameshError as error:
            return error.with_traceback(None)
        except Exception as exc:  # noqa: BLE001 - a model's odd output: none goes without an answer
            return RunFailed(f"the outputs could not be made into an answer: {exc!r}")


class ModelTask(ABC):
    """The task of one loaded model. Safe to use from several threads at once."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._inputs = INPUTS[task]

    def takes(self, inputs: Sequence[Tensor]) -> bool:
        """Return whether a request is one of the task, as described by `tasks.INPUTS`; else its tensors are the model's own."""
        return any(tensor.datatype is BYTES and tensor.name in self._inputs for tensor in inputs)

    @abstractmethod
    def request(self, inputs: Sequence[Tensor], outputs: tuple[str, ...]) -> TaskRequest:
        """Return a request that `takes` says is one. Looks at shapes alone.

        Raises:
            InvalidRequest: it has other inputs too, or not one row after the other.
            TooLarge: it has too many rows.
        """


def only_input(inputs: Sequence[Tensor], names: Sequence[str], optional: str = "") -> Tensor:
    """Return the one input of `names`, of the shape [rows], of a request that may have the `optional` one too.

    Raises `InvalidRequest` or `TooLarge`.
    """
    found = [tensor for tensor in inputs if tensor.name != optional or not optional]
    if len(found) != 1:
        given = ", ".join(repr(tensor.name[:80]) for tensor in found)
        raise InvalidRequest(
            f"a request of this task has one input, {' or '.join(map(repr, names))}; it has {given}"
        )
    (tensor,) = found
    if len(tensor.shape) != 1 or tensor.shape[0] < 1:
        raise InvalidRequest(
            f"input {tensor.name!r} has the shape {list(tensor.shape)}; it must be [rows], of one row or more"
        )
    if tensor.shape[0] > MAX_TASK_ROWS:
        raise TooLarge(
            f"a request of {tensor.shape[0]} rows; at most {MAX_TASK_ROWS} are taken at once: split it"
        )
    return tensor
