"""Rows come over from the process that reads them as they were, and what is none is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from capamesh.protocol.channel.framing import MAX_MESSAGE_BYTES
from capamesh.protocol.errors import ProtocolViolation
from capamesh.router.jobs.inputs.row_numbers import NumberNames
from capamesh.router.jobs.inputs.rows import RowBatch, RowWindow
from capamesh.router.jobs.readers.wire import packed, unpacked
from capamesh.router.jobs.values import BadRow


def over(window: RowWindow) -> list[RowWindow]:
    """Return a window as it comes over, in its parts."""
    found: list[RowWindow] = []
    for head, blobs in packed(window):
        assert len(head) < MAX_MESSAGE_BYTES - 1000
        data = np.frombuffer(b"".join(bytes(blob) for blob in blobs), np.uint8)
        found.append(unpacked(head, lambda at, size, data=data: data[at : at + size].copy()))
    return found


def texts(*values: bytes) -> npt.NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_window_comes_over_as_it_was() -> None:
    numbers = RowBatch(
        range(5, 8),
        NumberNames(range(5, 8)),
        {"x": np.arange(6, dtype="<f4").reshape(3, 2), "is": np.array([True, False, True])},
    )
    named = RowBatch(
        [1, 9], ["a", "\ud800"], {"t": texts(b"", b"\xff\0"), "n": np.zeros((2, 0), "<i8")}
    )
    bad = [BadRow(2, "2", "input_invalid", "no number"), BadRow(3, "\ud800", "input_invalid", "é")]
    first, second, third = over(RowWindow([numbers, named], bad, "ab"))
    assert (first.bad, first.batches, first.sha256) == (bad, [], "ab")
    (batch,) = second.batches
    assert (batch.numbers, batch.rows, list(batch.ids)) == (range(5, 8), 3, ["5", "6", "7"])
    for name, array in numbers.inputs.items():
        assert batch.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(batch.inputs[name], array)
    (batch,) = third.batches
    assert (list(batch.numbers), list(batch.ids)) == ([1, 9], ["a", "\ud800"])
    assert batch.inputs["t"].tolist() == [b"", b"\xff\0"]
    assert batch.inputs["n"].shape == (2, 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"size_bytes": -1},
        {"size_bytes": 2**40},
        {"shape": [3]},
        {"shape": []},
        {"shape": [2, -1]},
        {"shape": "x"},
        {"dtype": "V4"},
        {"dtype": "object"},
        {"dtype": "no dtype"},
        {"dtype": "<f8"},
    ],
)
def test_tensor_that_is_none_is_refused(changed: dict[str, Any]) -> None:
    ((text, _),) = packed(
        RowWindow([RowBatch(range(2), NumberNames(range(2)), {"x": np.ones(2, "<f4")})], [], "")
    )
    head = json.loads(text)
    head["batches"][0]["inputs"][0] |= changed
    with pytest.raises(ProtocolViolation, match="no window"):
        unpacked(
            json.dumps(head).encode(), lambda _, size: np.zeros(max(0, min(size, 100)), np.uint8)
        )
