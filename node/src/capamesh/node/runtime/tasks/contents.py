"""Tasks of pictures and of files: the numbers that a model takes for each. Pure."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from typing_extensions import override

from capamesh.node.repository.task_rules import FileRules, ImageRules, Layout
from capamesh.node.runtime.tasks.pictures import decoded
from capamesh.node.runtime.tasks.task import ModelTask, TaskRequest, only_input
from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.tasks import FILE, IMAGE, Task
from capamesh.protocol.tensors import Tensor, split_elements

if TYPE_CHECKING:
    import numpy.typing as npt

    from capamesh.protocol.tensors import TensorSpec

MAX_MADE_BYTES: Final = 256 * 2**20
"""The most bytes that a model's input is made to have, as many as one may be sent with."""
_WHITE_SPACE: Final = b" \t\n\r\x0b\x0c"


class RowsTask(ModelTask):
    """A model that takes one tensor, of which each element of a request becomes a row."""

    def __init__(self, task: Task, spec: TensorSpec, row_shape: tuple[int, ...]) -> None:
        super().__init__(task)
        self._spec = spec
        self._row_shape = row_shape

    @override
    def request(self, inputs: Sequence[Tensor], outputs: tuple[str, ...]) -> RowsRequest:
        tensor = only_input(inputs, self._inputs)
        row_bytes = int(np.prod(self._row_shape)) * (self._spec.datatype.itemsize_bytes or 1)
        if tensor.shape[0] * row_bytes > MAX_MADE_BYTES:
            raise TooLarge(
                f"a request of {tensor.shape[0]} rows, which become {tensor.shape[0] * row_bytes} bytes; at most"
                f" {MAX_MADE_BYTES} are taken at once: split it"
            )
        return RowsRequest(self, tensor, outputs)

    @abstractmethod
    def row(self, raw: bytes, index: int) -> npt.NDArray[np.generic]:
        """Return one row, of the shape that the model takes, for the element `index`. Blocks. Raises `InvalidRequest` or `TooLarge`."""

    def tensor(self, elements: Sequence[bytes]) -> Tensor:
        """Return the input, as described by the model's own, for the elements of a request. Raises `InvalidRequest` or `TooLarge`."""
        spec = self._spec
        made = np.empty((len(elements), *self._row_shape), spec.datatype.numpy_dtype)
        for index, raw in enumerate(elements):
            made[index] = self.row(raw, index).reshape(self._row_shape)
        return Tensor.from_numpy(spec.name, made, spec.datatype)


class RowsRequest(TaskRequest):
    """One request of pictures or files."""

    def __init__(self, task: RowsTask, tensor: Tensor, outputs: tuple[str, ...]) -> None:
        super().__init__(outputs)
        self._task = task
        self._tensor = tensor

    @override
    def inputs(self) -> tuple[Tensor, ...]:
        elements = split_elements(self._tensor.data, self._tensor.shape[0])
        return (self._task.tensor(elements),)


class ImageTask(RowsTask):
    """A model of pictures."""

    def __init__(self, spec: TensorSpec, row_shape: tuple[int, ...], rules: ImageRules) -> None:
        super().__init__(Task.IMAGE_CLASSIFICATION, spec, row_shape)
        self._rules = rules
        self._mean = np.array(rules.mean or (0.0,), np.float32)
        self._deviation = np.array(rules.deviation or (1.0,), np.float32)

    @override
    def row(self, raw: bytes, index: int) -> npt.NDArray[np.generic]:
        rules = self._rules
        if len(raw) > rules.max_bytes:
            raise TooLarge(
                f"{IMAGE} {index} has {len(raw)} bytes; this model takes {rules.max_bytes}: send it smaller"
            )
        pixels = decoded(
            raw,
            size=(rules.width, rules.height),
            channels=rules.channels,
            fit=rules.fit,
            formats=rules.formats,
            max_pixels=rules.max_pixels,
            what=f"{IMAGE} {index}",
        )
        if rules.is_inverted:
            pixels = 255 - pixels
        made = (pixels.astype(np.float32) * np.float32(rules.scale) - self._mean) / self._deviation
        return made.transpose(2, 0, 1) if rules.layout is Layout.NCHW else made


class FileTask(RowsTask):
    """A model of files of any kind, by their first and last bytes."""

    def __init__(self, spec: TensorSpec, rules: FileRules) -> None:
        super().__init__(Task.FILE_TYPE, spec, (rules.begin_bytes + rules.end_bytes,))
        self._rules = rules

    @override
    def row(self, raw: bytes, index: int) -> npt.NDArray[np.generic]:
        rules = self._rules
        if not raw:
            raise InvalidRequest(f"{FILE} {index} is empty; a type is of what a file has")
        first = raw[: rules.block_bytes].lstrip(_WHITE_SPACE)[: rules.begin_bytes]
        last = raw[-rules.block_bytes :].rstrip(_WHITE_SPACE)
        last = last[len(last) - min(len(last), rules.end_bytes) :]
        row = np.full(rules.begin_bytes + rules.end_bytes, rules.padding, np.int64)
        row[: len(first)] = np.frombuffer(first, np.uint8)
        row[len(row) - len(last) :] = np.frombuffer(last, np.uint8)
        return row
