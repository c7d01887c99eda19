"""The names of a model's classes, in text files beside it: one a line, in the order of the scores. Reads files.

Whatever is wrong with such a file, its model is served: its classes go without names, and a note says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from capamesh.node.repository.file_stamp import FileStamp, opened
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.plain_text import plain
from capamesh.protocol.tensors import has_classes

if TYPE_CHECKING:
    from capamesh.protocol.tensors import TensorSpec

LABELS_FILE: Final = "labels.txt"
EVERY_OUTPUT: Final = ""
"""Stands for all outputs of scores, where no configuration says which output a file is for."""
MAX_LABELS_BYTES: Final = 2**20
"""The most bytes of a file of labels, and of all of one model (guess: the 21,841 classes of ImageNet take 0.7 MB)."""
MAX_LABELS: Final = 2**16
"""The most lines of a file of labels (guess: three times as many as ImageNet has)."""
MAX_LABEL_CHARS: Final = 256
"""The most characters of one label; the rest is cut off (guess)."""


def read_labels(
    files: Sequence[tuple[str, FileStamp]], outputs: Sequence[TensorSpec]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return the labels of those of `outputs` that have some, by the output's name, and notes on what was not read.

    `files` has for each output its file, or one file for `EVERY_OUTPUT` that can be scores. A label has no character
    that could drive a terminal. The labels of each output are in the order of its scores.
    """
    found: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    room_bytes = MAX_LABELS_BYTES
    for output, file in files:
        try:
            labels = _read(file, room_bytes)
        except (ModelInvalid, OSError) as exc:
            reason = exc.message if isinstance(exc, ModelInvalid) else exc.strerror or repr(exc)
            notes.append(f"{file.name} is ignored: {reason}")
            continue
        room_bytes -= file.size_bytes
        names = {spec.name for spec in outputs if has_classes(spec)}
        if any(labels):
            found |= dict.fromkeys(names if output == EVERY_OUTPUT else names & {output}, labels)
    return found, tuple(notes)


def _read(file: FileStamp, room_bytes: int) -> tuple[str, ...]:
    """Return the lines of a file. Raises ModelInvalid: it is too large, no UTF-8, or was changed; OSError."""
    if file.size_bytes > room_bytes:
        raise ModelInvalid(
            f"labels of {file.size_bytes} bytes, {room_bytes} of {MAX_LABELS_BYTES} for one model are left; shorten it"
        )
    with opened(file) as stream:
        raw = stream.read(room_bytes + 1)
    try:
        lines = raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as exc:
        raise ModelInvalid(f"it is not UTF-8: {exc}") from exc
    if not lines[-1].strip():
        lines.pop()
    if len(lines) > MAX_LABELS:
        raise ModelInvalid(f"it has {len(lines)} lines, at most {MAX_LABELS} are read; shorten it")
    return tuple(plain(line.strip()[:MAX_LABEL_CHARS]) for line in lines)
