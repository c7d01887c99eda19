"""The texts, pictures and files that `capamesh infer` gives to a model that is for them. Reads the files named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from capamesh.client import Datatype, ModelMetadata, Tensor
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tasks import EMBEDDING, FILE, IMAGE, TEXT, TOKENS, Task
from capamesh.protocol.tensors import join_elements

MAX_FILE_BYTES: Final = 64 * 2**20
"""The most bytes of a file that is sent whole: the most that a manifest may allow of a picture."""
END_BYTES: Final = 65_536
"""The bytes of either end of a file whose type is asked for: the most that a model may look at."""
SHOWN_CLASSES: Final = 3
"""The classes of each text, picture or file that are shown where `--top` does not say (guess)."""
_TITLE_CHARS: Final = 40
_TEXT_TASKS: Final = (Task.TEXT_EMBEDDING, Task.TEXT_CLASSIFICATION)
_INPUTS: Final = {
    Task.TEXT_EMBEDDING: TEXT,
    Task.TEXT_CLASSIFICATION: TEXT,
    Task.IMAGE_CLASSIFICATION: IMAGE,
    Task.FILE_TYPE: FILE,
}


@dataclass(frozen=True, slots=True)
class TaskInputs:
    """The input of a model for its task, one row for each text or file."""

    tensors: dict[str, Tensor]
    rows: tuple[str, ...]
    """The text of each row, or the path of its file."""
    titles: tuple[str, ...]
    """The same, as short as a table shows it."""
    outputs: list[str]
    """The outputs to ask for where a person names none; empty: those that can be scores."""

    def top(self, outputs: Sequence[str]) -> int | None:
        """Return how many classes to ask for where a person does not say, and asks for these `outputs`; None: none."""
        return None if outputs else SHOWN_CLASSES


def task_inputs(
    task: str, metadata: ModelMetadata, texts: Sequence[str] | None, files: Sequence[Path] | None
) -> TaskInputs:
    """Return the input of a model that is for `task`: a row for each of `texts`, and then of `files`.

    A usage error: the model is for something else. `InvalidRequest`: a file cannot be read or is too large.
    """
    texts, files = texts or (), files or ()
    known = Task(task) if task in _INPUTS else Task.NONE
    if known is Task.NONE:
        what = (
            f"is for {task!r}, which this command does not know" if task else "takes tensors alone"
        )
        raise typer.BadParameter(
            f"model {metadata.name!r} {what}: give its tensors, --input NAME=VALUE"
        )
    if texts and known not in _TEXT_TASKS:
        raise typer.BadParameter(
            f"model {metadata.name!r} is for {task}: name files instead", param_hint="--text"
        )
    rows = [_encoded(text) for text in texts] + [_content(path, known) for path in files]
    tensor = Tensor(_INPUTS[known], Datatype.BYTES, (len(rows),), join_elements(rows))
    titles = [_title(text) for text in texts] + [_title(path.name) for path in files]
    outputs = [EMBEDDING, TOKENS] if known is Task.TEXT_EMBEDDING else []
    return TaskInputs({tensor.name: tensor}, (*texts, *map(str, files)), tuple(titles), outputs)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise typer.BadParameter(f"it is not UTF-8: {text!r:.80}", param_hint="--text") from exc


def _content(path: Path, task: Task) -> bytes:
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if task is Task.FILE_TYPE and size_bytes > 2 * END_BYTES:
                begin = file.read(END_BYTES)
                file.seek(-END_BYTES, os.SEEK_END)
                return begin + file.read(END_BYTES)
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise InvalidRequest(f"cannot read {path}: {exc.strerror}") from exc
    if len(content) > MAX_FILE_BYTES:
        raise InvalidRequest(
            f"{path} has more than {MAX_FILE_BYTES} bytes, which no model takes: give a smaller one"
        )
    return content


def _title(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TITLE_CHARS else f"{line[: _TITLE_CHARS - 1]}…"
