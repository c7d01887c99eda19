"""Makes a loaded model's task by its manifest, and says where the two do not fit. Reads the tokenizer's file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from capamesh.node.repository.task_rules import FileRules, ImageRules, Layout, Pooling, TaskRules
from capamesh.node.runtime.tasks.contents import FileTask, ImageTask
from capamesh.node.runtime.tasks.pictures import check_installed
from capamesh.node.runtime.tasks.text import TextInputs, TextTask, Vectors, is_of_rows
from capamesh.node.runtime.tasks.tokenizers import MAX_TOKENIZER_BYTES, TextTokenizer
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tasks import EMBEDDING, INPUTS, Task
from capamesh.protocol.tensors import BYTES, Datatype

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource
    from capamesh.node.runtime.tasks.task import ModelTask
    from capamesh.protocol.tensors import TensorSpec

_ANY: Final = -1
_FLOATS: Final = frozenset({Datatype.FP16, Datatype.FP32})
_OF_PIXELS: Final = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64, Datatype.UINT8})


def make_task(
    source: ModelSource, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> ModelTask | None:
    """Return what a model is for, by its manifest; None: it takes its own tensors alone. Blocks.

    `inputs` and `outputs` are those that callers of the model give and get.
    Raises `ModelInvalid`: the manifest does not fit the model, or its tokenizer is missing or broken; `PackageMissing`.
    """
    rules = source.manifest.task
    if rules.task is Task.NONE:
        return None
    of_inputs = {spec.name: spec for spec in inputs}
    for name in INPUTS[rules.task]:
        spec = of_inputs.get(name)
        if spec is not None and spec.datatype is BYTES:
            raise ModelInvalid(
                f"task: {rules.task!s} is asked for by an input {name!r}, of which the model has one itself: remove task"
            )
    match rules.task:
        case Task.IMAGE_CLASSIFICATION:
            return _image_task(inputs, rules.image)
        case Task.FILE_TYPE:
            return _file_task(inputs, rules.file)
        case _:
            return _text_task(source, rules, of_inputs, outputs)


def _text_task(
    source: ModelSource,
    rules: TaskRules,
    inputs: dict[str, TensorSpec],
    outputs: Sequence[TensorSpec],
) -> TextTask:
    text = rules.text
    ids = inputs.get(text.ids)
    if ids is None:
        raise ModelInvalid(
            f"text.ids: input {text.ids!r} is not one of the model's: {', '.join(inputs)}"
        )
    mask, types = inputs.get(text.mask), inputs.get(text.types)
    used = [spec for spec in (ids, mask, types) if spec is not None]
    for spec in used:
        if (
            not is_of_rows(spec)
            or spec.shape[0] != _ANY
            or spec.shape[1] not in {_ANY, ids.shape[1]}
        ):
            raise ModelInvalid(
                f"text: input {spec.name!r} is {spec.datatype}{list(spec.shape)}; tokens are INT32 or INT64 of"
                " [rows, tokens], with any number of rows"
            )
    if others := set(inputs) - {spec.name for spec in used}:
        raise ModelInvalid(
            f"text: the model takes {', '.join(sorted(others))} too, which no text gives; name its inputs by text.ids,"
            " text.mask and text.types"
        )
    vectors = _vectors(rules, outputs) if rules.task is Task.TEXT_EMBEDDING else None
    width = ids.shape[1]
    most = text.max_tokens if width == _ANY else min(width, text.max_tokens)
    tokenizer = TextTokenizer(
        _tokenizer_file(source, text.tokenizer), max_tokens=most, is_truncated=text.is_truncated
    )
    return TextTask(
        rules.task, tokenizer, text, TextInputs(ids, mask, types), vectors, outputs[0].name
    )


def _tokenizer_file(source: ModelSource, name: str) -> bytes:
    """Return the tokenizer's file, which the digest of the version is of, too."""
    stamp = next((file for file in source.files if file.name == name), None)
    if stamp is None:
        raise ModelInvalid(
            f"text.tokenizer: {name!r} is not in the folder of version {source.version}; put it beside the model's file"
        )
    if stamp.size_bytes > MAX_TOKENIZER_BYTES:
        raise ModelInvalid(
            f"{name} has {stamp.size_bytes} bytes, at most {MAX_TOKENIZER_BYTES} are allowed"
        )
    try:
        return source.content.read(name)
    except OSError as exc:
        raise ModelInvalid(f"{name} cannot be read: {exc.strerror}") from exc


def _vectors(rules: TaskRules, outputs: Sequence[TensorSpec]) -> Vectors:
    """Return the output of vectors. Raises `ModelInvalid`."""
    named = rules.embedding.output
    found = [spec for spec in outputs if spec.name == named or (not named and len(outputs) == 1)]
    if not found:
        names = ", ".join(spec.name for spec in outputs)
        raise ModelInvalid(
            f"embedding.output: name the output with the vectors, one of {names}"
            if not named
            else f"embedding.output: {named!r} is not one of the model's: {names}"
        )
    (spec,) = found
    dims = 2 if rules.embedding.pooling is Pooling.NONE else 3
    if spec.datatype not in _FLOATS or len(spec.shape) != dims:
        raise ModelInvalid(
            f"embedding: output {spec.name!r} is {spec.datatype}{list(spec.shape)}; with pooling = "
            f"{str(rules.embedding.pooling)!r} it must be FP32 or FP16 of {dims} dimensions"
        )
    for own in outputs:
        if own.name == EMBEDDING and (own.datatype is not Datatype.FP32 or len(own.shape) != 2):
            raise ModelInvalid(
                f"task: the model's own output {EMBEDDING!r} is {own.datatype}{list(own.shape)}, and not one vector a text:"
                " remove task"
            )
    return Vectors(spec.name, rules.embedding)


def _image_task(inputs: Sequence[TensorSpec], rules: ImageRules) -> ImageTask:
    check_installed()
    spec = _only(inputs, rules.input, "image.input")
    width, height, channels = rules.width, rules.height, rules.channels.numbers
    match rules.layout:
        case Layout.NCHW:
            row_shape: tuple[int, ...] = (channels, height, width)
        case Layout.NHWC:
            row_shape = (height, width, channels)
        case Layout.FLAT:
            row_shape = (height * width * channels,)
    _check_rows(spec, row_shape, "image")
    if spec.datatype not in _OF_PIXELS:
        raise ModelInvalid(
            f"image: input {spec.name!r} is {spec.datatype}; pixels are FP16, FP32, FP64 or UINT8"
        )
    return ImageTask(spec, row_shape, rules)


def _file_task(inputs: Sequence[TensorSpec], rules: FileRules) -> FileTask:
    spec = _only(inputs, rules.input, "file.input")
    width = rules.begin_bytes + rules.end_bytes
    if not width:
        raise ModelInvalid("file: begin_bytes and end_bytes are both 0; take some bytes")
    _check_rows(spec, (width,), "file")
    kind = spec.datatype.numpy_dtype
    is_whole = spec.datatype is not Datatype.BOOL and kind.kind in "iu"
    if kind.kind != "f" and not (is_whole and np.iinfo(kind).max >= max(255, rules.padding)):
        raise ModelInvalid(
            f"file: input {spec.name!r} is {spec.datatype}, which cannot hold the bytes and the padding {rules.padding}"
        )
    return FileTask(spec, rules)


def _only(inputs: Sequence[TensorSpec], named: str, key: str) -> TensorSpec:
    """Return the one input that a model has. Raises `ModelInvalid` where it has others too."""
    if len(inputs) != 1 or (named and named != inputs[0].name):
        names = ", ".join(spec.name for spec in inputs)
        raise ModelInvalid(
            f"{key}: the model must have one input{f', {named!r}' if named else ''}; it has {names}"
        )
    return inputs[0]


def _check_rows(spec: TensorSpec, row_shape: tuple[int, ...], key: str) -> None:
    """Raise `ModelInvalid` where an input does not take rows of a shape."""
    fits = len(spec.shape) == len(row_shape) + 1 and all(
        dim in {_ANY, size} for dim, size in zip(spec.shape[1:], row_shape, strict=True)
    )
    if not fits or spec.datatype is BYTES:
        raise ModelInvalid(
            f"{key}: input {spec.name!r} is {spec.datatype}{list(spec.shape)}; the manifest's rows have the shape"
            f" {list(row_shape)}, {math.prod(row_shape)} numbers"
        )
