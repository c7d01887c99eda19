"""The rows that lines of results hold, and answers that are none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from capamesh.client.answers import Answer
from capamesh.client.jobs import asks, values
from capamesh.client.jobs.results import read_results, table_of
from capamesh.protocol.errors import InvalidRequest, ProtocolViolation
from capamesh.protocol.tensors import Datatype

TYPES = {"n": Datatype.INT64, "f": Datatype.FP16, "b": Datatype.BF16, "t": Datatype.BYTES}


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_outputs_have_the_models_dtypes() -> None:
    outputs = {
        "n": 2**60,
        "f": [[1.5, "NaN"], ["-Infinity", 2]],
        "b": 0.1,
        "t": [["a", {"base64": "/w=="}]],
        "other": [1, 2],
        "words": "x",
    }
    (row,) = read_results(lines({"row": 7, "id": "x", "outputs": outputs}), 5, 9, TYPES)
    found = row.outputs
    assert (row.row, row.id, found["n"].tolist(), found["n"].dtype) == (7, "x", 2**60, np.int64)
    np.testing.assert_array_equal(found["f"], np.array([[1.5, np.nan], [-np.inf, 2]], np.float16))
    assert (found["b"].dtype, found["b"].shape) == (np.float32, ())
    assert (found["t"].shape, found["t"].tolist()) == ((1, 2), [[b"a", b"\xff"]])
    assert found["other"].tolist() == [1, 2]
    assert found["words"].tolist() == b"x"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"row": 5}',
        lines({"row": 4, "outputs": {}}),
        lines({"row": 9, "outputs": {}}),
        lines({"row": True, "outputs": {}}),
        lines({"row": 6, "outputs": {}}, {"row": 6, "outputs": {}}),
        lines({"row": 5, "outputs": []}),
        lines({"row": 5, "outputs": {"n": "x"}}),
        lines({"row": 5, "outputs": {"n": 2**70}}),
        lines({"row": 5, "outputs": {"n": [1, [2]]}}),
        lines({"row": 5, "outputs": {"t": [1]}}),
        lines({"row": 5, "outputs": {"t": {"base64": "*"}}}),
        lines({"row": 5, "id": 5, "outputs": {}}),
        b'{"row": 5, "outputs": ' + b"[" * 100_000,
    ],
)
def test_lines_that_are_no_results_that_were_asked_for_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="is this a router's URL"):
        read_results(body, 5, 9, TYPES)


def test_table_needs_the_same_outputs_in_each_row() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    rows = read_results(
        lines({"row": 0, "outputs": {"id": 1, "v": [[1, 2]]}}, {"row": 1, "outputs": {"w": 1}}),
        0,
        2,
        {"id": Datatype.INT32, "v": Datatype.FP32},
    )
    table = table_of(rows[:1], pyarrow)
    assert table.to_pylist() == [{"row": 0, "id": "0", "id_output": 1, "v": [1.0, 2.0]}]
    assert table_of([], pyarrow).num_rows == 0
    with pytest.raises(InvalidRequest, match="row 1 has the outputs"):
        table_of(rows, pyarrow)


@pytest.mark.parametrize("header", ["x", "-1", "1.5", "9" * 30, "", "٣"])
def test_offset_that_is_no_number_is_refused(header: str) -> None:
    ask = asks.ask_offset("file-1")
    with pytest.raises(ProtocolViolation, match="whole number is expected"):
        ask.read(Answer(200, b"", upload_offset=header), "http://router")
    with pytest.raises(ProtocolViolation, match="does not say how much"):
        ask.read(Answer(200, b""), "http://router")


def test_events_are_read_from_any_stream() -> None:
    body = (
        b": heartbeat\n\nid: 1\r\nevent: running\r\n"
        b'data: {"seq": 1, "at": 5, "kind": "running",\r\ndata: "text": "go"}\r\n\r\n'
        b"event: progress\ndata: {}\n\n: end\n\n"
    )
    (event,) = asks.ask_events("j", 0).read(Answer(200, body), "http://router")
    assert event == values.JobEvent(1, 5.0, "running", "go")
    for wrong in (b"data: {\n\n", b"data: []\n\n", b"\xff"):
        with pytest.raises(ProtocolViolation):
            asks.ask_events("j", 0).read(Answer(200, wrong), "http://router")


def test_job_of_a_router_that_knows_little_is_read_and_what_is_no_job_refused() -> None:
    little = {"id": "j", "model": "m", "state": "planning"}
    job = values.read_job(Answer(200, json.dumps({**little, "done": []}).encode()))
    assert (job.rows, job.done.rows, job.rows_per_s, job.nodes) == (0, 0, None, None)
    assert (job.ends_at, job.is_ended) == (None, False)
    wrong: list[object] = [[], 1, {}, {"id": "j"}, {**little, "state": 1}, {**little, "rows": -1}]
    wrong += [{**little, "done": {"rows": 1.5}}, {**little, "created_at": "x"}]
    wrong += [{**little, "ends_at": ends_at} for ends_at in (float("nan"), 10**400)]
    for body in wrong:
        with pytest.raises(ProtocolViolation, match="is this a router's URL"):
            values.read_job(Answer(200, json.dumps(body).encode()))
