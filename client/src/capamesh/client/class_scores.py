"""The classes with the largest scores of an output, as a request asks for them and as an answer gives them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from capamesh.protocol.errors import InvalidRequest, ProtocolViolation
from capamesh.protocol.plain_text import plain
from capamesh.protocol.tensors import MAX_CLASSES, Datatype, Tensor, split_elements

NO_CLASSES: Final[Mapping[str, int]] = MappingProxyType({})
"""Classes are asked for of no output."""
_MOST_DIGITS: Final = 18
"""The most digits of a class's number, which fits 64 bits."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """A class with its score, one of the largest of a row."""

    score: float
    """The score that the model gave it; whole numbers beyond 2^53 are rounded."""
    index: int
    """The place of the score in its row, from 0."""
    label: str
    """The class's name; empty: the node has none for it."""


NO_SCORES: Final[Mapping[str, list[list[ClassScore]]]] = MappingProxyType({})
"""Classes have come of no output."""


def checked_classes(classes: Mapping[str, int]) -> Mapping[str, int]:
    """Return how many classes are wanted of each output; raise `InvalidRequest` where that is no such mapping."""
    if not isinstance(classes, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(
            f"classes is {classes!r:.80}; give outputs with how many, such as {{'probabilities': 3}}"
        )
    for name, most in classes.items():
        if type(most) is not int or not 1 <= most <= MAX_CLASSES:
            raise InvalidRequest(
                f"classes of output {name!r} is {most!r:.80}; a whole number from 1 to {MAX_CLASSES} is expected"
            )
    return classes


def read_classes(
    outputs: Sequence[Tensor], classes: Mapping[str, int]
) -> dict[str, list[list[ClassScore]]]:
    """Return the classes of the outputs of which some were asked for: of each row a list, the largest score first.

    Such an output is BYTES of shape [rows, classes], or [classes] where its model has no rows.

    Raises:
        ProtocolViolation: one has not come as texts "score:index:label".
    """
    return {output.name: _rows_of(output) for output in outputs if output.name in classes}


def _rows_of(output: Tensor) -> list[list[ClassScore]]:
    """Return the rows of an output of shape [rows, classes], or the only one of an output of shape [classes]."""
    shape = output.shape
    if output.datatype is not Datatype.BYTES or len(shape) not in {1, 2}:
        raise _malformed(output, f"{output.datatype}{list(shape)[:8]}")
    count = shape[-1]
    rows = shape[0] if len(shape) > 1 else 1
    texts = split_elements(output.data, rows * count)
    return [
        [_class_score(output, text) for text in texts[row * count : (row + 1) * count]]
        for row in range(rows)
    ]


def _class_score(output: Tensor, text: bytes) -> ClassScore:
    try:
        score, index, *label = text.decode("utf-8").split(":", 2)
        if index.isascii() and index.isdigit() and len(index) <= _MOST_DIGITS:
            return ClassScore(float(score), int(index), plain(label[0]) if label else "")
    except ValueError:  # no UTF-8, no two parts, no number
        pass
    raise _malformed(output, repr(text)[:80])


def _malformed(output: Tensor, what: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"malformed answer: output {output.name[:80]!r} is {what}, and texts 'score:index:label' were asked for"
    )
