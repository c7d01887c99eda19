"""The values of options: places, times, sizes, counts, columns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.cli.parsing import (
    columns,
    deadline,
    duration,
    host_and_port,
    mebibytes,
    numbers,
    seconds,
)
from capamesh.cli.router import worker_count
from capamesh.cli.units import size_bytes

READERS: dict[str, Callable[[str], object]] = {
    "place": lambda text: host_and_port(text, "--http"),
    "time": seconds(),
    "bounded": seconds(1.0, 3000.0),
    "mebibytes": mebibytes(1, 2048),
    "size": lambda text: size_bytes(text, "--memory-limit"),
    "duration": lambda text: duration(text, "--expires"),
    "deadline": lambda text: deadline(text, "--deadline"),
    "numbers": lambda text: numbers(text, "--seeds"),
    "workers": worker_count,
}
PLACES = {
    "127.0.0.1:80": ("127.0.0.1", 80),
    "localhost:0": ("localhost", 0),
    "[::]:65535": ("::", 65535),
}
TIMES = {"30": 30.0, "0.25": 0.25, "5m": 300.0, "500ms": 0.5, " 1.5h ": 5400.0}
SIZES = {"0": 0, "512MiB": 2**29, " 2 GiB ": 2**31, "1.5GiB": 3 * 2**29, "1.5GB": 1_500_000_000}
DURATIONS = {"30d": 30 * 1440, "12h": 720, "90m": 90, "2w": 14 * 1440}
ENDS = {
    "2h": timedelta(hours=2),
    "2026-12-01T10:00": datetime(2026, 12, 1, 10, tzinfo=UTC),
    "2026-12-01T10:00+02:00": datetime(2026, 12, 1, 8, tzinfo=UTC),
}


@pytest.mark.parametrize(
    ("read", "values"),
    [
        ("place", PLACES),
        ("time", TIMES),
        ("bounded", {"50m": 3000.0}),
        ("mebibytes", {"64": 64, "64MiB": 64, "1GiB": 1024, "2097152B": 2}),
        ("size", {**SIZES, "8KiB": 8192, "1TiB": 2**40, "7B": 7}),
        ("duration", {"45s": timedelta(seconds=45)}),
        ("duration", {text: timedelta(minutes=minutes) for text, minutes in DURATIONS.items()}),
        ("deadline", ENDS),
        ("numbers", {"3": [3], "1,2,5": [1, 2, 5], "1-3, 9": [1, 2, 3, 9], "0": [0]}),
    ],
)
def test_text_is_read(read: str, values: dict[str, object]) -> None:
    assert {text: READERS[read](text) for text in values} == values


@pytest.mark.parametrize(
    ("read", "said", "texts"),
    [
        ("place", r"127\.0\.0\.1:8000", "|8000|:8000|host:|host:70000|::1:80|h:-1"),
        ("time", "30s", "|s|-1|1e3|nan|inf|5 m|1d|\u0661s"),
        ("bounded", "1 s at least and 3000 at most", "999ms"),
        ("bounded", "out of range", "1h"),
        ("mebibytes", "MiB", "0|2049|3GiB|1MB|-1|512KiB|x|"),
        ("size", "512MiB", "|2G|MiB|-1|1e9|0x10|1 000|٣MiB"),
        ("duration", "30d", "|30|d|0d|-1d|1.5h|1y|999999999w|\u0661d"),
        ("deadline", "is no d(eadline|uration)", "|soon|2026-13-01|0s|-2h"),
        ("numbers", "is no list of up to 1000 numbers", "|x|1,|-1|3-1|1.5|1-1001|0-999,1000"),
        ("workers", "give 1 to 15, or auto", f"0|16|-1|two||1.5|{'9' * 5000}|٣"),
    ],
)
def test_text_that_is_none_is_refused_with_an_example_or_its_bounds(
    read: str, said: str, texts: str
) -> None:
    for text in texts.split("|"):
        with pytest.raises(typer.BadParameter, match=said):
            READERS[read](text)


@given(st.text(max_size=20))
def test_any_text_is_read_or_a_usage_error(text: str) -> None:
    for read in READERS.values():
        with suppress(typer.BadParameter):
            read(text)


def test_workers_are_their_number_or_one_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capamesh.node.devices.host.usable_cores", lambda: 3)
    assert [worker_count(each) for each in (1, "1", " 4 ", "15", "auto")] == [1, 1, 4, 15, 3]


def test_columns_are_by_input() -> None:
    assert columns(["X=a, b", "Y=c=d"], "--column") == {"X": ["a", "b"], "Y": ["c=d"]}
    for wrong in (["X"], ["=a"], ["X=,"], ["X=a", "X=b"]):
        with pytest.raises(typer.BadParameter):
            columns(wrong, "--column")
