"""The classes that `capamesh infer --top` asks for and shows: which outputs, the rows of a table, and JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import typer

from capamesh.client import ClassScore, ModelMetadata
from capamesh.protocol.tensors import has_classes

_SHOWN_ROWS: Final = 10
"""The rows of an output that a table shows (guess: with three classes each they are seen at once)."""


def wanted_classes(metadata: ModelMetadata, outputs: Sequence[str], most: int) -> dict[str, int]:
    """Return how many classes to ask for of those of `outputs`, all where it is empty, that can be scores.

    A usage error: there is none.
    """
    chosen = [spec for spec in metadata.outputs if spec.name in outputs or not outputs]
    wanted = {spec.name: most for spec in chosen if has_classes(spec)}
    if not wanted:
        shown = ", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in chosen)
        raise typer.BadParameter(
            f"there are no scores in {shown or 'these outputs'}: classes are of numbers, several of them a row",
            param_hint="--top",
        )
    return wanted


def class_rows(
    classes: Mapping[str, list[list[ClassScore]]], titles: Sequence[str] = ()
) -> list[tuple[object, ...]]:
    """Return the rows of a table with output, row, label, score and class; the first rows of each output.

    Where there are `titles`, a row is shown by its own instead of by its number.
    """
    return [
        (
            name,
            titles[row] if row < len(titles) else row,
            score.label or "-",
            f"{score.score:.6g}",
            score.index,
        )
        for name, rows in classes.items()
        for row, scores in enumerate(rows[:_SHOWN_ROWS])
        for score in scores
    ]


def class_notes(classes: Mapping[str, list[list[ClassScore]]]) -> list[str]:
    """Return what a table does not show, a line for each output."""
    notes = [
        f"{name}: the first {_SHOWN_ROWS} of {len(rows)} rows are shown; give --json for all"
        for name, rows in classes.items()
        if len(rows) > _SHOWN_ROWS
    ]
    return notes + [
        f"{name}: its node has no names for these classes; labels.txt in the model's folder gives them"
        for name, rows in classes.items()
        if any(rows) and not any(score.label for scores in rows for score in scores)
    ]


def classes_json(name: str, rows: Sequence[Sequence[ClassScore]]) -> dict[str, object]:
    """Return the classes of an output as a JSON object, NaN and infinities as texts."""
    return {
        "name": name,
        "classes": [
            [
                {"score": _number(one.score), "index": one.index, "label": one.label}
                for one in scores
            ]
            for scores in rows
        ],
    }


def _number(score: float) -> float | str:
    if math.isfinite(score):
        return score
    return "NaN" if math.isnan(score) else "Infinity" if score > 0 else "-Infinity"
