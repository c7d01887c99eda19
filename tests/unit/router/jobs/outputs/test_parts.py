"""What is in a part, in each form."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.steps import run_through
from capamesh.router.jobs.endpoints import ENDPOINTS
from capamesh.router.jobs.inputs.row_numbers import NumberNames
from capamesh.router.jobs.outputs.answers import answer_lines, undone_line
from capamesh.router.jobs.outputs.parts import part_chunks
from capamesh.router.jobs.outputs.results import Results
from capamesh.router.jobs.spec import OutputFormat


def objects(*values: object) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def results() -> list[Results]:
    """Return rows that came out of order, and in two runs."""
    first = {"y": np.array([[3.5, 4.0], [1.5, 2.0]], np.float32), "n": np.array([3, 1])}
    second = {"y": np.array([[np.inf, np.nan]], np.float32), "n": np.array([2])}
    return [Results([2, 0], ["c", "a"], first), Results([1], ["9007199254740993"], second)]


def whole(form: OutputFormat, given: list[Results] | None = None) -> bytes:
    return b"".join(part_chunks(results() if given is None else given, form))


def lines(data: bytes) -> list[Any]:
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.decode().splitlines()]


def test_bytes_are_texts_or_base64() -> None:
    outputs = {"t": objects("ü".encode(), b"\xff"), "u": objects(b"a", b"b").reshape(2, 1)}
    found = lines(whole(OutputFormat.JSONL, [Results([0, 1], ["0", "1"], outputs)]))
    assert [each["outputs"] for each in found] == [
        {"t": "ü", "u": ["a"]},
        {"t": {"base64": "/w=="}, "u": ["b"]},
    ]


@pytest.mark.parametrize("form", [OutputFormat.NPZ, OutputFormat.PARQUET, OutputFormat.JSONL])
@pytest.mark.parametrize("starts", [[0, 4, 8], [8, 0, 4], [0, 4, 9], [9, 0, 5]])
def test_rows_that_have_no_names_are_the_same_bytes_as_if_their_numbers_were_given(
    form: OutputFormat, starts: list[int]
) -> None:
    if form is OutputFormat.PARQUET:
        pytest.importorskip("pyarrow")
    unnamed: list[Results] = []
    named: list[Results] = []
    for start in starts:
        rows = range(start, start + 4)
        outputs = {"y": np.arange(8, dtype=np.float32).reshape(4, 2) + start}
        unnamed.append(Results(rows, NumberNames(rows), outputs))
        named.append(Results(list(rows), [str(row) for row in rows], outputs))
    assert whole(form, unnamed) == whole(form, named)


def test_outputs_that_arrays_cannot_hold_are_refused() -> None:
    other = Results([1], ["b"], {"y": np.zeros((1, 3), np.float32)})
    mixed = [Results([0], ["a"], {"y": np.zeros((1, 2), np.float32)}), other]
    with pytest.raises(InvalidRequest, match="other shapes"):
        whole(OutputFormat.NPZ, mixed)
    with pytest.raises(InvalidRequest, match="zero byte"):
        whole(OutputFormat.NPZ, [Results([0], ["a"], {"t": objects(b"a\0")})])
    kept = np.load(
        io.BytesIO(whole(OutputFormat.NPZ, [Results([0], ["a"], {"t": objects(b"\0a")})]))
    )
    assert kept["t"].tolist() == [b"\0a"]


def test_parquet_holds_rows_of_other_shapes_and_bytes() -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    given = [
        Results([1], ["b"], {"y": np.zeros((1, 3)), "t": objects(b"\xff")}),
        Results([0], ["a"], {"y": np.ones((1, 2)), "t": objects(b"x\0")}),
    ]
    table = pq.read_table(io.BytesIO(whole(OutputFormat.PARQUET, given)))
    assert table.column("y").to_pylist() == [[1.0, 1.0], [0.0, 0.0, 0.0]]
    assert table.column("t").to_pylist() == [b"x\0", b"\xff"]


@pytest.mark.parametrize("form", sorted(set(OutputFormat) - {OutputFormat.BATCH}))
def test_equal_results_are_equal_bytes(form: OutputFormat) -> None:
    if form is OutputFormat.PARQUET:
        pytest.importorskip("pyarrow")
    assert whole(form) == whole(form)


def test_answer_that_json_cannot_hold_is_an_error_of_that_request_alone() -> None:
    _, form = run_through(ENDPOINTS["/v1/embeddings"].read({"model": "words", "input": "x"}))
    vectors = np.array([[np.nan], [2.0]], np.float32)
    outputs = {"embedding": vectors, "tokens": np.array([3, 3], np.int32)}
    rows = Results([0, 1], ["r0", "r1"], outputs, [0, 0], form)
    first, second = map(json.loads, b"".join(answer_lines([rows])).splitlines())
    assert first["response"]["status_code"] == 500
    assert first["response"]["body"]["error"]["code"] == "run_failed"
    assert second["response"]["status_code"] == 200


def test_request_that_was_not_done_says_why() -> None:
    line = json.loads(undone_line(3, "r3", "batch_expired", "the time was over"))
    assert line == {
        "id": "batch_req_000000000003",
        "custom_id": "r3",
        "response": None,
        "error": {"code": "batch_expired", "message": "the time was over"},
    }
