"""The place of keys as it is named, and as logs may show it."""

from __future__ import annotations

import pytest

from capamesh.router.access.engines.location import DatabaseLocation


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://db/keys", "postgresql://db/keys"),
        ("postgres://me:secret@db:5433/keys", "postgresql://db:5433/keys"),
        ("postgresql://me:secret@a:1,b:2/keys?password=secret", "postgresql://a:1,b:2/keys"),
        ("postgresql://me:sec@ret@db/keys", "postgresql://db/keys"),
        ("postgresql://me:se/cret@db/keys", "the database"),
        ("postgresql://me:se?cret@db/keys", "the database"),
        ("postgresql://me:se#cret@db/keys", "the database"),
        ("postgresql://me:secret@[db/keys", "the database"),
        ("postgresql:///keys", "postgresql:///keys"),
    ],
)
def test_url_is_shown_without_user_and_password(url: str, shown: str) -> None:
    location = DatabaseLocation.of(url, "keys")
    assert (location.file, location.url, str(location)) == (None, url, shown)
    assert "secret" not in repr(location)
