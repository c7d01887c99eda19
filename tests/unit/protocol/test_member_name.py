"""What a member may be called, and how a name is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import PeerId
from capamesh.protocol.member_name import checked_name, name_of_host, shown_names


@pytest.mark.parametrize("name", ["", "x" * 64, "-a", "_a", "a b", "a\n", "ä", "\x1b[2J"])
def test_text_that_is_no_name_is_refused_with_what_one_is(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"1 to 63 of the characters A-Z a-z 0-9 \. _ - and begins"
    ):
        checked_name(name)
    for good in ("a", "GPU_1.lab-2", "9", "x" * 63):
        assert checked_name(good) == good


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("gpu-1.lab", "gpu-1.lab"),
        ("Anna's MacBook", "Anna-s-MacBook"),
        ("_büro_", "b-ro_"),
        ("-.-", ""),
        ("x" * 100, "x" * 63),
    ],
)
def test_name_of_a_host_is_cleaned(host: str, name: str) -> None:
    assert name_of_host(host) == name


@given(st.text())
def test_name_of_any_host_is_a_name_or_none(host: str) -> None:
    name = name_of_host(host)
    assert name == "" or checked_name(name) == name


def test_names_that_several_have_are_shown_with_the_ends_of_their_peer_ids() -> None:
    names = {
        PeerId("12D3KooWaaaaaaaa"): "gpu",
        PeerId("12D3KooWbbbbbbbb"): "gpu",
        PeerId("12D3KooWcccccccc"): "front",
        PeerId("12D3KooWdddddddd"): "",
    }
    assert shown_names(names) == {
        "12D3KooWaaaaaaaa": "gpu…aaaaaaaa",
        "12D3KooWbbbbbbbb": "gpu…bbbbbbbb",
        "12D3KooWcccccccc": "front",
    }
