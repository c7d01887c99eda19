"""Jobs from the caller's side: data that becomes bytes, uploads to routers that lie, rows that come back, and patience with all of it."""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from capamesh.client.answers import Answer
from capamesh.client.asks import Ask, CutOff, Unreachable
from capamesh.client.jobs import asks, values
from capamesh.client.jobs import data as data_module
from capamesh.client.jobs.data import source_of, url_of
from capamesh.client.jobs.patience import PATIENCE_S, Patience
from capamesh.client.jobs.results import read_results, table_of
from capamesh.client.jobs.steps import End, until_given
from capamesh.client.jobs.submission import deadline_of
from capamesh.client.jobs.uploads import MOST_PIECE_BYTES, uploaded
from capamesh.client.jobs.values import FileInfo
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    JobConflict,
    JobsUnavailable,
    LinkLost,
    ModelFailed,
    ModelNotFound,
    Overloaded,
    ProtocolViolation,
)
from capamesh.protocol.tensors import Datatype


def bytes_of(data: Any) -> tuple[bytes, str]:
    source = source_of(data)
    try:
        source.check()
        return source.read(0, source.size_bytes), source.form
    finally:
        source.close()


def lines_of(rows: Any) -> list[Any]:
    written, form = bytes_of(rows)
    assert form == "jsonl"
    return [json.loads(line) for line in written.splitlines()]


def test_urls_are_the_routers() -> None:
    file = FileInfo("file-2", "a", 1, "user_data")
    given = ("s3://bucket/x", "upload:file-1", file, "a.csv", "/a/b.csv", Path("x"), [{}])
    urls = ["s3://bucket/x", "upload:file-1", "upload:file-2", "", "", "", ""]
    assert [url_of(each) for each in given] == urls


def test_rows_are_lines_whatever_numbers_they_have() -> None:
    rows: list[dict[str, Any]] = [
        {"a": np.float32(0.5), "b": np.arange(3), "c": "ü", "d": b"text", "e": None},
        {"a": float("nan"), "b": [float("inf"), {"x": float("-inf")}], "c": (1, 2)},
        {"a": np.array([np.nan, 1])},
    ]
    assert lines_of(iter(rows)) == [
        {"a": 0.5, "b": [0, 1, 2], "c": "ü", "d": "text", "e": None},
        {"a": "NaN", "b": ["Infinity", {"x": "-Infinity"}], "c": [1, 2]},
        {"a": ["NaN", 1.0]},
    ]


def test_object_that_is_no_data_is_told() -> None:
    for rows, said in (
        ([[1, 2]], "row 0 of the data is [1, 2]; a dict of columns is expected"),
        ([{"a": 1}, {"a": object()}], "row 1 of the data cannot be sent: it has a value of object"),
        ([{(1, 2): 1}], "row 0 of the data cannot be sent"),
        (42, "the data is int; give a path, a URL"),
        (b"bytes", "the data is bytes"),
        (np.array([object()]), "Python objects"),
        (np.array(1), "the array is one value"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "other numbers of rows"),
        ({"a": [[1], [2, 3]]}, "not of one shape"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            source_of(rows)
        assert said in caught.value.message


def test_arrays_are_files_of_numpy() -> None:
    array = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    written, form = bytes_of(array)
    read = np.load(io.BytesIO(written), allow_pickle=False)
    assert (form, read.tolist(), read.flags.c_contiguous) == ("npy", array.tolist(), True)
    written, form = bytes_of({"X": array, "file": ["a", "b", "c"]})
    with np.load(io.BytesIO(written), allow_pickle=False) as archive:
        assert form == "npz"
        assert archive["X"].tolist() == array.tolist()
        assert archive["file"].tolist() == ["a", "b", "c"]


class Table:
    """A table of a library that nobody knows, by Arrow's protocol."""

    def __init__(self, table: Any = None) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


class WritesParquet(Table):
    """A table as Polars has it, which needs no pyarrow."""

    def write_parquet(self, file: IO[bytes]) -> None:
        file.write(b"PAR1")


class ToParquet:
    """A table as pandas has it, whose library for Parquet is missing."""

    def to_parquet(self, _: IO[bytes]) -> None:
        raise ImportError("Unable to find a usable engine")


def test_table_is_sent_by_arrows_protocol() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"a": [1, 2, 3], "b": ["x", "y", None]})
    for given in (Table(table), table, pyarrow.RecordBatchReader.from_stream(table)):
        written, form = bytes_of(given)
        assert form == "parquet"
        assert parquet.read_table(io.BytesIO(written)).equals(table)


def test_table_needs_no_pyarrow_where_it_writes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    assert bytes_of(WritesParquet()) == (b"PAR1", "parquet")
    with pytest.raises(ConfigError, match="pip install pyarrow, or give rows as dicts"):
        source_of(ToParquet())
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        source_of(Table())


def test_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(data_module, "_line", full)
    with pytest.raises(ConfigError, match="No space left on device; set TMPDIR"):
        source_of([{"a": 1}])


def test_file_that_was_cut_off_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"0123456789")
    source = source_of(file)
    file.write_bytes(b"01")
    for do in (lambda: source.read(0, 10), source.check):
        with pytest.raises(InvalidRequest, match="was changed while it was uploaded"):
            do()
    source.close()


def test_deadline_is_a_time_or_seconds_from_now() -> None:
    assert deadline_of(90.0, 1000.0) == 1090.0
    assert deadline_of(timedelta(hours=1), 1000.0) == 4600.0
    assert deadline_of(datetime(2026, 12, 1, tzinfo=UTC), 1000.0) == 1796083200.0
    for wrong in (0, -1.0, float("nan"), True, "2h", 1796083200.0 * 10):
        with pytest.raises(InvalidRequest, match="how many seconds from now"):
            deadline_of(wrong, 1000.0)  # type: ignore[arg-type]


def test_file_is_its_bytes_and_its_name_tells_the_form(tmp_path: Path) -> None:
    forms = {"csv": "csv", "JSONL": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
    for ending, form in {**forms, "feather": "arrow", "npz": "npz", "txt": ""}.items():
        file = tmp_path / f"a.{ending}"
        file.write_bytes(b"0123")
        for given in (file, str(file)):
            assert bytes_of(given) == (b"0123", form)
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.csv: No such file"):
        source_of(tmp_path / "absent.csv")
    with pytest.raises(InvalidRequest, match="is a folder, which only the router can read"):
        source_of(tmp_path)


SIZE = 3 * MOST_PIECE_BYTES


class Upload:
    """An upload of a file, in time that passes only while its client waits; `has` says what its router has then."""

    def __init__(self, folder: Path, has: Callable[[Ask[Any]], int]) -> None:
        self.now_s = 0.0
        self._has = has
        self._file = folder / "a.jsonl"
        with self._file.open("wb") as opened:
            opened.truncate(SIZE)

    def _exchange(self, ask: Ask[Any]) -> Any:
        return "file-1" if ask.method == "POST" else self._has(ask)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def run(self) -> None:
        source = source_of(self._file)
        try:
            patience = Patience(lambda: self.now_s, lambda: 0.0)
            course = uploaded(source, "user_data", patience, lambda: self.now_s, None)
            end = until_given(course, self._exchange, self._sleep)
        finally:
            source.close()
        assert isinstance(end, End)
        assert end.result == "file-1"


def test_pieces_become_larger_while_they_are_quick(tmp_path: Path) -> None:
    sizes: list[int] = []

    def has(ask: Ask[Any]) -> int:
        if ask.method == "PATCH":
            sizes.append(ask.size_bytes)
        return sum(sizes)

    Upload(tmp_path, has).run()
    assert [size >> 20 for size in sizes] == [1, 2, 4, 8, 16, 16, 1]
    assert max(sizes) == MOST_PIECE_BYTES


def test_router_that_never_keeps_anything_or_has_more_than_there_is_is_given_up(
    tmp_path: Path,
) -> None:
    for told in ([0], [10, 0]):
        given = itertools.cycle(told)
        upload = Upload(tmp_path, lambda _, given=given: next(given))
        with pytest.raises(LinkLost, match="bytes of the upload after it took"):
            upload.run()
        assert 250 < upload.now_s < 301
    for has in (SIZE + 1, -1):
        with pytest.raises(ProtocolViolation, match="bytes of an upload of"):
            Upload(tmp_path, lambda _, has=has: has).run()


def test_refused_piece_is_the_callers_unless_the_router_has_another_length(tmp_path: Path) -> None:
    kept = 5

    def has(ask: Ask[Any]) -> int:
        nonlocal kept
        if ask.method == "PATCH":
            if int(ask.headers["Upload-Offset"]) != kept:
                raise JobConflict("another place")
            kept += ask.size_bytes
        return kept

    Upload(tmp_path, has).run()

    def refuse(ask: Ask[Any]) -> int:
        if ask.method == "PATCH":
            raise JobConflict("the file is whole")
        return 0

    with pytest.raises(JobConflict, match="the file is whole"):
        Upload(tmp_path, refuse).run()


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


def test_lines_that_are_no_results_that_were_asked_for_are_refused() -> None:
    whole = {"row": 5, "outputs": {}}
    outputs = [{"n": "x"}, {"n": 2**70}, {"n": [1, [2]]}, {"t": [1]}, {"t": {"base64": "*"}}]
    for body in (
        b"<html>",
        b"[]",
        b'{"row": 5}',
        *[lines({**whole, "row": row}) for row in (4, 9, True)],
        lines({**whole, "row": 6}, {**whole, "row": 6}),
        *[lines({**whole, "outputs": each}) for each in ([], *outputs)],
        lines({**whole, "id": 5}),
        b'{"row": 5, "outputs": ' + b"[" * 100_000,
    ):
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


def test_offset_that_is_no_number_is_refused() -> None:
    ask = asks.ask_offset("file-1")
    with pytest.raises(ProtocolViolation, match="does not say how much"):
        ask.read(Answer(200, b""), "http://router")
    for header in ("x", "-1", "1.5", "9" * 30, "", "٣"):
        with pytest.raises(ProtocolViolation, match="whole number is expected"):
            ask.read(Answer(200, b"", upload_offset=header), "http://router")


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


# patience with routers that are away for a while


def test_patience_waits_ever_longer_for_five_minutes_and_anew_after_a_success() -> None:
    now_s = 1000.0
    patience = Patience(lambda: now_s, lambda: 0.0)
    found = [patience.wait_s(CutOff("gone")) for _ in range(8)]
    assert found == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    patience.succeeded()
    assert patience.wait_s(Unreachable("gone")) == 0.2
    now_s += PATIENCE_S - 0.3
    assert patience.wait_s(Unreachable("gone")) is None
    unknown = Patience(lambda: now_s, lambda: 0.0, is_known=False)
    assert unknown.wait_s(Unreachable("gone")) is None
    unknown.succeeded()
    assert unknown.wait_s(Unreachable("gone")) == 0.2
    named = Patience(lambda: now_s, lambda: 1.0)
    assert [named.wait_s(Overloaded("full", hint_s)) for hint_s in (4.0, 1e9)] == [5.0, 150.0]


def test_error_that_passes_is_waited_for_and_another_is_the_callers_at_once() -> None:
    waits: dict[type[CapameshError], float | None] = {
        **dict.fromkeys((JobsUnavailable, DeadlineExceeded, Overloaded), 0.2),
        **dict.fromkeys((InvalidRequest, ModelNotFound, ProtocolViolation, ModelFailed), None),
    }
    found = {kind: Patience(lambda: 0.0, lambda: 0.0).wait_s(kind("x")) for kind in waits}
    assert found == waits
