from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.cli.parsing import duration, host_and_port


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


@pytest.mark.parametrize(
    "text", ["", "8000", ":8000", "host", "host:", "host:70000", "::1:80", "h:-1"]
)
def test_invalid_place_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"127\.0\.0\.1:8000"):
        host_and_port(text, "--http")


@pytest.mark.parametrize(
    ("text", "lasts"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("90m", timedelta(minutes=90)),
        ("45s", timedelta(seconds=45)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_duration_is_a_count_and_a_unit(text: str, lasts: timedelta) -> None:
    assert duration(text, "--expires") == lasts


@pytest.mark.parametrize(
    "text", ["", "30", "d", "0d", "-1d", "1.5h", "1y", "999999999w", "\u0661d"]
)
def test_invalid_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="30d"):
        duration(text, "--expires")


@given(st.text(max_size=20))
def test_any_text_is_read_or_a_usage_error(text: str) -> None:
    with suppress(typer.BadParameter):
        host_and_port(text, "--http")
    with suppress(typer.BadParameter):
        duration(text, "--expires")
