from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.client.address import RouterAddress
from capamesh.protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("router:8000", "http://router:8000"),
        ("https://host/mesh/", "https://host:443/mesh"),
        (" http://[::1]:8000 ", "http://[::1]:8000"),
    ],
)
def test_url_is_taken_apart_and_shown_whole(url: str, whole: str) -> None:
    assert RouterAddress.parse(url).url == whole
    assert RouterAddress.parse(whole).url == whole


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "names no host"),
        ("ftp://host", "'ftp' is neither http nor https"),
        ("http://host:99999", "range"),
        ("http://user@host", "a user name and password do not belong in it: give them as a header"),
        ("http://host/?a=1", "query"),
        ("http://ho st", "blanks"),
    ],
)
def test_invalid_url_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        RouterAddress.parse(url)


@given(st.text())
def test_any_text_is_an_address_or_refused(url: str) -> None:
    try:
        address = RouterAddress.parse(url)
    except ConfigError:
        return
    assert RouterAddress.parse(address.url) == address


def test_password_in_a_url_is_shown_in_no_error() -> None:
    for url in (
        "https://me:s3cret@host/mesh",
        "me:s3cret@host",
        "http://s3cret@",
        "http://a:s3cret@b@host?c",
    ):
        with pytest.raises(ConfigError) as caught:
            RouterAddress.parse(url)
        assert "s3cret" not in caught.value.message
