"""The place of keys as it is named, and as logs may show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from capamesh.protocol.errors import ConfigError
from capamesh.router.access.engines.location import DatabaseLocation


@pytest.mark.parametrize("text", ["keys.db", "/srv/keys.db", "c:keys.db", "a b/postgresql://x"])
def test_text_that_is_no_url_is_a_file(text: str) -> None:
    location = DatabaseLocation.of(text, "keys")
    assert (location.file, location.url, str(location)) == (Path(text), "", str(Path(text)))


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


@pytest.mark.parametrize("text", ["mysql://me:secret@db/keys", "sqlite:///k.db", "https://db/keys"])
def test_other_schemes_are_refused_without_a_word_of_what_follows(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DatabaseLocation.of(text, "keys")
    assert "expected a file, or postgresql://" in caught.value.message
    assert "secret" not in caught.value.message
