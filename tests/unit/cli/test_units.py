from __future__ import annotations

from contextlib import suppress

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.cli.units import size_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512MiB", 512 * 2**20),
        (" 2 GiB ", 2 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("1.5GB", 1_500_000_000),
        ("8KiB", 8192),
        ("1TiB", 2**40),
        ("7B", 7),
    ],
)
def test_size_is_bytes_or_a_number_and_its_unit(text: str, size: int) -> None:
    assert size_bytes(text, "--memory-limit") == size


@pytest.mark.parametrize("text", ["", "2G", "MiB", "-1", "1e9", "0x10", "1 000", "٣MiB"])
def test_invalid_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="512MiB"):
        size_bytes(text, "--memory-limit")


@given(st.text())
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    with suppress(typer.BadParameter):
        assert size_bytes(text, "--memory-limit") >= 0
