"""A URL of a place has nothing that could lead out of it, and nothing that is a secret."""

from __future__ import annotations

import pytest

from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.remote.urls import remote_url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("bucket/x", "no URL"),
        ("://x", "no URL"),
        ("s3://key:secret@bucket/x", "a user or a password"),
        ("ftp://me@host/x", "a user or a password"),
        ("https://host/x?X-Amz-Signature=secret", "credentials"),
        ("https://host/x#y", "credentials"),
        ("zip::http://host/x", "no URL"),
        ("zip://a::http://host/x", "no URL here has"),
        ("s3://bucket/a/../b", "plain path"),
        ("s3://bucket/./b", "plain path"),
        ("s3://bucket//b", "plain path"),
        ("https://host/a/%2e%2E/b", "encoded dot"),
        ("https://host/a%2Fb", "encoded dot or slash"),
        ("https://host\\@other/x", "user or a password"),
        ("https://host/a\\b", "plain path"),
        ("https://host/a\nHost: other", "control character"),
        ("https:///x", "no host"),
        ("https://host:99999/x", "no host with a port"),
        ("https://ho st/x", "a blank"),
    ],
)
def test_url_that_could_lead_elsewhere_or_has_a_secret_is_refused(url: str, words: str) -> None:
    with pytest.raises(InputInvalid, match=words) as caught:
        remote_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "prefix", "is_in"),
    [
        ("s3://b/data/x", "s3://b/data", True),
        ("s3://b/data/x", "s3://b/data/", True),
        ("s3://b/data", "s3://b/data", True),
        ("s3://b/x", "s3://b", True),
        ("s3://b/database/x", "s3://b/data", False),
        ("s3://b2/data/x", "s3://b", False),
        ("gs://b/data/x", "s3://b/data", False),
        ("https://h/a/x", "http://h/a", False),
        ("https://h:8443/a/x", "https://h/a", False),
        ("https://H:443/a/x", "https://h/a", True),
        ("https://h.evil.example/a/x", "https://h/a", False),
    ],
)
def test_url_is_below_a_prefix_by_whole_parts(url: str, prefix: str, *, is_in: bool) -> None:
    assert remote_url(url).is_in(remote_url(prefix)) is is_in
