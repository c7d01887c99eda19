"""Addresses in adverts."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:7001", ("10.0.0.1", 7001)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
    ],
)
def test_address_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:0",
        "host:65536",
        "host:٨٠",
        "host:80\n",
        "2001:db8::1:443",
        "[fe80::1%eth0]:80",
        "[host]:80",
        "-host:80",
    ],
)
def test_other_texts_are_refused_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|port|address|interface|limit"):
        parse_address(text)


@given(st.text(max_size=40))
def test_junk_is_an_address_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        host, port = parse_address(text)
        assert host
        assert 1 <= port <= 65_535
