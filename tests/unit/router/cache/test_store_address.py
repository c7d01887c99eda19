"""The URL of a shared store: its parts, and that its password is never shown."""

from __future__ import annotations

import pytest

from capamesh.protocol.errors import ConfigError
from capamesh.router.cache.store_address import address_of


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("valkey://h", "StoreAddress(h:6379/0)"),
        ("redis://h/", "StoreAddress(h:6379/0)"),
        ("rediss://u:p%40s@h:1/7", "StoreAddress(h:1/7)"),
        ("redis://[::1]:2", "StoreAddress(::1:2/0)"),
    ],
)
def test_url_is_read_and_its_password_never_shown(url: str, shown: str) -> None:
    assert repr(address_of(url)) == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "h:6379",
        "redis://",
        "redis://h/x",
        "redis://h/-1",
        "redis://h/1024",
        "redis://h/\u0661",
        "redis://h:p",
        "redis://h:0",
        "redis://h:99999",
        "redis://h?a=1",
        "redis://h#f",
        "redis://[::1",
        "redis://:secret@h/x",
    ],
)
def test_url_that_is_none_is_refused_without_a_password(url: str) -> None:
    with pytest.raises(ConfigError, match="valkey://HOST:PORT/DB") as caught:
        address_of(url)
    assert "secret" not in caught.value.message
    assert caught.value.__cause__ is None
