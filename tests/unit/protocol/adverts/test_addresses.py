"""Addresses in adverts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.adverts import parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:7001", ("10.0.0.1", 7001)),
        ("gpu_1.example.org:1", ("gpu_1.example.org", 1)),
        ("a:65535", ("a", 65535)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("a" * 253 + ":80", ("a" * 253, 80)),
    ],
)
def test_address_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":80",
        "host:0",
        "host:00080",
        "host:+80",
        "host:65536",
        "host:٨٠",
        "host:80\n",
        "2001:db8::1:443",
        "[2001:db8::1]",
        "[fe80::1%eth0]:80",
        "[host]:80",
        "http://host:80",
        "a b:80",
        "-host:80",
        "hôte:80",
        "a" * 254 + ":80",
        "a" * 100_000,
    ],
)
def test_other_texts_are_refused_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|port|address|interface|limit"):
        parse_address(text)


@given(st.text(max_size=40))
def test_junk_is_an_address_or_a_value_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert host
    assert 1 <= port <= 65_535
