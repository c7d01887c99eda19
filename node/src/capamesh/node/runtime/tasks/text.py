"""Tasks of texts: tokens for a model of texts, and one vector for each of them of its outputs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from typing_extensions import override

from capamesh.node.repository.task_rules import EmbeddingRules, Pooling, TextRules
from capamesh.node.runtime.tasks.task import ModelTask, TaskRequest, only_input
from capamesh.protocol.errors import InvalidRequest, RunFailed, TooLarge
from capamesh.protocol.tasks import DIMENSIONS, EMBEDDING, TEXT, TOKEN_IDS, TOKENS, Task
from capamesh.protocol.tensors import Datatype, Tensor, split_elements

if TYPE_CHECKING:
    import numpy.typing as npt

    from capamesh.node.runtime.tasks.tokenizers import TextTokenizer
    from capamesh.protocol.tensors import TensorSpec

MAX_REQUEST_CHARS: Final = 2**21
"""The most characters of all texts of a request (measured: so many are 0.6 s of a thread)."""
MAX_REQUEST_TOKENS: Final = 2**21
"""The most numbers of one of the model's inputs, padding included (guess: 16 MiB each)."""
_MAX_UTF8: Final = 4
"""The most bytes of a character."""
_LEAST_NORM: Final = 1e-12


@dataclass(frozen=True, slots=True)
class TextInputs:
    """The model's inputs of tokens; all [rows, tokens]."""

    ids: TensorSpec
    mask: TensorSpec | None
    types: TensorSpec | None

    @property
    def width(self) -> int:
        """Return how many tokens each row must have; -1: any number."""
        return self.ids.shape[1]


@dataclass(frozen=True, slots=True)
class Vectors:
    """The output that becomes one vector for each text."""

    output: str
    rules: EmbeddingRules


class TextTask(ModelTask):
    """A model of texts. Its requests bring texts, or the tokens of texts."""

    def __init__(
        self,
        task: Task,
        tokenizer: TextTokenizer,
        rules: TextRules,
        inputs: TextInputs,
        vectors: Vectors | None,
        first_output: str,
    ) -> None:
        """`vectors` is None but for embeddings. `first_output` is asked for where nothing else of the model is wanted."""
        super().__init__(task)
        self._tokenizer = tokenizer
        self._rules = rules
        self._of_model = inputs
        self._vectors = vectors
        self._first_output = first_output

    @override
    def request(self, inputs: Sequence[Tensor], outputs: tuple[str, ...]) -> TextRequest:
        optional = DIMENSIONS if self._vectors is not None else ""
        tensor = only_input(inputs, (TEXT, TOKEN_IDS), optional)
        dimensions = 0
        for other in inputs:
            if other is not tensor:
                dimensions = self._dimensions(other)
        own = [name for name in outputs if name != TOKENS and not self._is_vectors(name)]
        if self._vectors is not None and EMBEDDING in outputs and self._vectors.output not in own:
            own.append(self._vectors.output)
        if outputs and not own:
            own.append(self._first_output)
        return TextRequest(self, tensor, outputs, tuple(own), dimensions)

    def _is_vectors(self, name: str) -> bool:
        return self._vectors is not None and name == EMBEDDING

    def _dimensions(self, tensor: Tensor) -> int:
        """Return how many dimensions a request asks for. Raises `InvalidRequest`."""
        if tensor.datatype is not Datatype.INT32 or tensor.shape != (1,):
            raise InvalidRequest(
                f"input {DIMENSIONS!r} is {tensor.datatype}{list(tensor.shape)}; it must be INT32[1]"
            )
        wanted = int(tensor.to_numpy()[0])
        if wanted < 1:
            raise InvalidRequest(f"{wanted} dimensions are asked for; ask for 1 or more")
        if self._vectors is not None and not self._vectors.rules.may_be_shortened:
            raise InvalidRequest(
                "this model's embeddings have one length: leave out dimensions (its manifest may say embedding.shorten)"
            )
        return wanted

    # in a thread

    def tokens(self, tensor: Tensor) -> list[list[int]]:
        """Return the tokens of each row of a request, whose shape is [rows]. Raises `InvalidRequest` or `TooLarge`."""
        elements = split_elements(tensor.data, tensor.shape[0])
        rows = (
            self._tokenizer.encode(self._texts(elements))
            if tensor.name == TEXT
            else [self._given(index, raw) for index, raw in enumerate(elements)]
        )
        most = self._most_tokens
        for index, row in enumerate(rows):
            if len(row) > most:
                raise TooLarge(
                    f"text {index} has {len(row)} tokens; this model takes {most}: send it in parts"
                )
            if not row:
                raise InvalidRequest(f"text {index} has no tokens; send one that is not empty")
        return rows

    @property
    def _most_tokens(self) -> int:
        width = self._of_model.width
        return self._rules.max_tokens if width < 0 else min(width, self._rules.max_tokens)

    def _texts(self, elements: Sequence[bytes]) -> list[str]:
        most, total = self._rules.max_chars, 0
        texts: list[str] = []
        for index, raw in enumerate(elements):
            if len(raw) > most * _MAX_UTF8:  # before it is made text
                raise _too_long(index, f"{len(raw)} bytes", most)
            try:
                text = raw.decode()
            except UnicodeDecodeError as exc:
                raise InvalidRequest(f"text {index} is not UTF-8: {exc}") from exc
            if len(text) > most:
                raise _too_long(index, f"{len(text)} characters", most)
            total += len(text)
            if total > MAX_REQUEST_CHARS:
                raise TooLarge(
                    f"the texts of the request have more than {MAX_REQUEST_CHARS} characters: send fewer at once"
                )
            texts.append(text)
        return texts

    def _given(self, index: int, raw: bytes) -> list[int]:
        """Return the tokens that a request brings as their numbers."""
        if len(raw) % 4:
            raise InvalidRequest(
                f"text {index} has {len(raw)} bytes of tokens, which are 4 bytes each"
            )
        most, count = self._most_tokens, len(raw) // 4
        if count > most and self._rules.is_truncated:
            raw = raw[: most * 4]
        elif count > most:
            raise TooLarge(
                f"text {index} has {count} tokens; this model takes {most}: send it in parts"
            )
        row = np.frombuffer(raw, "<i4")
        known = self._tokenizer.vocabulary
        if row.size and not 0 <= int(row.min()) <= int(row.max()) < known:
            raise InvalidRequest(f"text {index} has a token that is not one of 0 to {known - 1}")
        given: list[int] = row.tolist()
        return given

    def tensors(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
        """Return the model's inputs for the tokens of each text, of the shape [rows, tokens], as many as the longest text has."""
        width = self._of_model.width
        if width < 0:
            width = max(map(len, rows))
        if len(rows) * width > MAX_REQUEST_TOKENS:
            raise TooLarge(
                f"{len(rows)} texts of which the longest has {width} tokens; at most {MAX_REQUEST_TOKENS} are taken at"
                " once, padding included: send fewer texts at once"
            )
        ids = np.full((len(rows), width), self._tokenizer.pad_id, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        of_model = self._of_model
        made = [_tensor(of_model.ids, ids)]
        if of_model.mask is not None:
            made.append(_tensor(of_model.mask, mask))
        if of_model.types is not None:
            made.append(_tensor(of_model.types, np.zeros_like(ids)))
        return tuple(made)

    def vectors(
        self, outputs: dict[str, Tensor], lengths: npt.NDArray[np.int32], dimensions: int
    ) -> Tensor:
        """Return one vector for each text, in the shape [rows, dimensions], of the model's outputs by their names."""
        assert self._vectors is not None  # noqa: S101 - only embeddings have that output
        found = outputs[self._vectors.output].to_numpy()
        pooled = _pooled(found, lengths, self._vectors.rules.pooling)
        if dimensions > pooled.shape[1]:
            raise InvalidRequest(
                f"{dimensions} dimensions are asked for; this model's embeddings have {pooled.shape[1]}"
            )
        if dimensions:
            pooled = pooled[:, :dimensions]
        if self._vectors.rules.is_normalized:
            norms = np.linalg.norm(pooled, axis=1, keepdims=True)
            pooled = pooled / np.maximum(norms, np.float32(_LEAST_NORM))
        return Tensor.from_numpy(EMBEDDING, np.ascontiguousarray(pooled, np.float32))


class TextRequest(TaskRequest):
    """One request of texts."""

    def __init__(
        self,
        task: TextTask,
        tensor: Tensor,
        wanted: tuple[str, ...],
        outputs: tuple[str, ...],
        dimensions: int,
    ) -> None:
        super().__init__(outputs)
        self._task = task
        self._tensor = tensor
        self._wanted = wanted
        self._dimensions = dimensions
        self._lengths: npt.NDArray[np.int32] = np.zeros(0, np.int32)

    @override
    def inputs(self) -> tuple[Tensor, ...]:
        rows = self._task.tokens(self._tensor)
        self._lengths = np.array([len(row) for row in rows], np.int32)
        return self._task.tensors(rows)

    @override
    def of(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if not self._wanted:
            return outputs
        given = {output.name: output for output in outputs}
        made: list[Tensor] = []
        for name in self._wanted:
            if name == TOKENS:
                made.append(Tensor.from_numpy(TOKENS, self._lengths))
            elif name == EMBEDDING and self._task.task is Task.TEXT_EMBEDDING:
                made.append(self._task.vectors(given, self._lengths, self._dimensions))
            else:
                made.append(given[name])
        return made


def _pooled(
    found: npt.NDArray[np.generic], lengths: npt.NDArray[np.int32], pooling: Pooling
) -> npt.NDArray[np.float32]:
    """Return [rows, dimensions] of an output [rows, tokens, dimensions], or of one that has one vector a text."""
    rows = len(lengths)
    if pooling is Pooling.NONE:
        if found.ndim != 2 or found.shape[0] != rows:
            raise RunFailed(
                f"the output has the shape {list(found.shape)}, which is not one vector for each of {rows} texts"
            )
        return found.astype(np.float32)
    if found.ndim != 3 or found.shape[0] != rows or found.shape[1] < lengths.max():
        raise RunFailed(
            f"the output has the shape {list(found.shape)}, which is not a vector for each token of {rows} texts"
        )
    if pooling is Pooling.FIRST:
        return found[:, 0].astype(np.float32)
    places: npt.NDArray[np.int32] = np.arange(found.shape[1], dtype=np.int32)
    mask = np.less(places, lengths[:, None]).astype(np.float32)
    summed = np.matmul(mask[:, None], found.astype(np.float32, copy=False))[:, 0]
    mean: npt.NDArray[np.float32] = summed / lengths[:, None].astype(np.float32)
    return mean


def _tensor(spec: TensorSpec, values: npt.NDArray[np.int64]) -> Tensor:
    return Tensor.from_numpy(spec.name, values.astype(spec.datatype.numpy_dtype, copy=False))


def _too_long(index: int, has: str, most: int) -> TooLarge:
    return TooLarge(f"text {index} has {has}; this model takes {most} characters: send it in parts")


def is_of_rows(spec: TensorSpec) -> bool:
    """Return whether an input can be that of tokens, whole numbers of [rows, tokens]."""
    return spec.datatype in {Datatype.INT32, Datatype.INT64} and len(spec.shape) == 2
