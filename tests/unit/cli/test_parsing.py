from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.cli.parsing import columns, deadline, duration, host_and_port, mebibytes, seconds
from capamesh.cli.router import worker_count


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("localhost:0", ("localhost", 0)),
        ("[::]:65535", ("::", 65535)),
    ],
)
def test_place_is_a_host_and_a_port(text: str, place: tuple[str, int]) -> None:
    assert host_and_port(text, "--http") == place


@pytest.mark.parametrize("text", ["", "8000", ":8000", "host:", "host:70000", "::1:80", "h:-1"])
def test_invalid_place_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"127\.0\.0\.1:8000"):
        host_and_port(text, "--http")


@pytest.mark.parametrize(
    ("text", "lasts_s"),
    [
        ("30", 30.0),
        ("0.25", 0.25),
        ("5m", 300.0),
        ("500ms", 0.5),
        (" 1.5h ", 5400.0),
    ],
)
def test_time_is_seconds_or_a_number_and_its_unit(text: str | float, lasts_s: float) -> None:
    assert seconds()(text) == lasts_s


@given(st.text(max_size=20))
def test_any_text_is_read_or_a_usage_error(text: str) -> None:
    with suppress(typer.BadParameter):
        host_and_port(text, "--http")
    with suppress(typer.BadParameter):
        duration(text, "--expires")
    with suppress(typer.BadParameter):
        assert seconds(1.0)(text) >= 1.0
    with suppress(typer.BadParameter):
        assert mebibytes(1)(text) >= 1


@pytest.mark.parametrize(("text", "count"), [(1, 1), ("1", 1), (" 4 ", 4), ("15", 15), ("auto", 3)])
def test_workers_are_their_number_or_one_for_each_core(
    text: str | int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capamesh.node.devices.host.usable_cores", lambda: 3)
    assert worker_count(text) == count


@pytest.mark.parametrize("text", ["0", "16", "-1", "two", "", "1.5", "9" * 5000, "٣"])
def test_number_of_workers_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="give 1 to 15, or auto"):
        worker_count(text)


def test_deadline_is_how_long_or_a_time_by_utc() -> None:
    assert deadline("2h", "--deadline") == timedelta(hours=2)
    assert deadline("2026-12-01T10:00", "--deadline") == datetime(2026, 12, 1, 10, tzinfo=UTC)
    zoned = deadline("2026-12-01T10:00+02:00", "--deadline")
    assert zoned == datetime(2026, 12, 1, 8, tzinfo=UTC)
    for wrong in ("", "soon", "2026-13-01", "0s", "-2h"):
        with pytest.raises(typer.BadParameter):
            deadline(wrong, "--deadline")


def test_columns_are_by_input() -> None:
    assert columns(["X=a, b", "Y=c=d"], "--column") == {"X": ["a", "b"], "Y": ["c=d"]}
    for wrong in (["X"], ["=a"], ["X=,"], ["X=a", "X=b"]):
        with pytest.raises(typer.BadParameter):
            columns(wrong, "--column")


def test_duration_is_a_count_and_a_unit() -> None:
    for text, lasts_s in (
        ("30d", 2_592_000),
        ("12h", 43_200),
        ("90m", 5400),
        ("45s", 45),
        ("2w", 1_209_600),
    ):
        assert duration(text, "--expires") == timedelta(seconds=lasts_s)
    for text in ("", "30", "d", "0d", "-1d", "1.5h", "1y", "999999999w", "\u0661d"):
        with pytest.raises(typer.BadParameter, match="30d"):
            duration(text, "--expires")


def test_time_keeps_its_bounds_and_another_text_is_refused_with_an_example() -> None:
    assert seconds(1.0, 3000.0)("50m") == 3000.0
    with pytest.raises(typer.BadParameter, match="1 s at least and 3000 at most"):
        seconds(1.0, 3000.0)("999ms")
    with pytest.raises(typer.BadParameter, match="out of range"):
        seconds(1.0, 3000.0)("1h")
    for text in ("", "s", "-1", "1e3", "nan", "inf", "5 m", "1d", "\u0661s"):
        with pytest.raises(typer.BadParameter, match="30s"):
            seconds()(text)


def test_size_in_mebibytes_is_their_number_or_a_size() -> None:
    for size, size_mib in (("64", 64), (64, 64), ("64MiB", 64), ("1GiB", 1024), ("2097152B", 2)):
        assert mebibytes(1, 2048)(size) == size_mib
    for text in ("0", "2049", "3GiB", "1MB", "-1", "512KiB", "x", ""):
        with pytest.raises(typer.BadParameter, match="MiB"):
            mebibytes(1, 2048)(text)
