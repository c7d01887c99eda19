"""The bytes of a part: results as JSON lines, Parquet or numpy's arrays, and bad rows. Pure.

Each row has its name as text, whatever it was in the input, and its number. The same results are the same bytes.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from capamesh.protocol.errors import InvalidRequest
from capamesh.router.jobs.inputs.row_numbers import NumberNames, number_array, text_array
from capamesh.router.jobs.outputs.answers import answer_lines
from capamesh.router.jobs.outputs.arrow_parts import parquet_bytes
from capamesh.router.jobs.outputs.results import Results, free_name, in_order, joined
from capamesh.router.jobs.spec import OutputFormat
from capamesh.router.jobs.values import BadRow

LINES: Final = 1000
"""The lines that are written at a time."""


def part_chunks(results: Sequence[Results], form: OutputFormat) -> Iterator[bytes]:
    """Yield the bytes of the results of a shard, one row or more.

    Raises:
        InvalidRequest: the form cannot hold them: the outputs of `npz` have one shape.
        ConfigError: the form needs a library that is missing.
    """
    match form:
        case OutputFormat.JSONL:
            yield from _lines(
                {"id": row.id, "row": row.number, "outputs": _plain_outputs(row.outputs)}
                for row in in_order(results)
            )
        case OutputFormat.PARQUET:
            yield parquet_bytes(results)
        case OutputFormat.NPZ:
            yield _npz_bytes(results)
        case OutputFormat.BATCH:
            yield from answer_lines(results)


def bad_chunks(bad: Sequence[BadRow]) -> Iterator[bytes]:
    """Yield the bytes of bad rows, as JSON lines."""
    yield from _lines(asdict(row) for row in bad)


def _lines(values: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    lines: list[str] = []
    for value in values:
        lines.append(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
        if len(lines) == LINES:
            yield ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
            lines.clear()
    if lines:
        yield ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _plain_outputs(outputs: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    return {name: plain_tensor(each) for name, each in outputs.items()}


def plain_tensor(array: npt.NDArray[Any] | bytes | np.generic) -> Any:  # noqa: ANN401 - a value of JSON
    """Return a tensor as values of JSON, of its shape: what JSON has no number for is a text, and bytes that are none are base64."""
    if isinstance(array, bytes):
        return _plain_bytes(array)
    if array.dtype.kind in "OS":
        return _each(array.tolist(), _plain_bytes)
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        return _each(array.tolist(), _plain_float)
    return array.tolist()


def plain_values(value: Any) -> Any:  # noqa: ANN401 - values of JSON, bytes, floats that are none
    """Return a value, or a list of them, likewise."""
    return _each(value, _plain_value)


def _plain_value(value: object) -> Any:  # noqa: ANN401 - a value of JSON
    if isinstance(value, bytes):
        return _plain_bytes(value)
    return _plain_float(value) if isinstance(value, float) else value


def _each(value: Any, change: Any) -> Any:  # noqa: ANN401 - values of JSON
    if isinstance(value, list):
        return [_each(each, change) for each in cast("list[object]", value)]
    return change(value)


def _plain_float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _plain_bytes(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _npz_bytes(results: Sequence[Results]) -> bytes:
    whole = joined(results)
    if whole is None:
        raise InvalidRequest(
            "the outputs of the rows have other shapes, which npz cannot hold; choose jsonl or parquet"
        )
    arrays = {free_name(name): _fixed_size(name, each) for name, each in whole.outputs.items()}
    numbers = number_array(whole.numbers)
    ids = text_array(numbers) if isinstance(whole.ids, NumberNames) else np.array(whole.ids)
    named = {"id": ids, "row": numbers}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **named, **arrays)
    return buffer.getvalue()


def _fixed_size(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array of any shape without Python's objects: bytes are of dtype `S`, which cannot hold a zero byte at their end."""
    if array.dtype.kind != "O":
        return array
    values = [bytes(each) for each in array.ravel()]
    if any(each.endswith(b"\0") for each in values):
        raise InvalidRequest(
            f"output {name!r} has bytes that end in a zero byte, which npz cannot hold; choose jsonl or parquet"
        )
    return np.array(values, "S").reshape(array.shape)
