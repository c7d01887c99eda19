"""The store that routers share, and its secret, as they are given to a router."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from capamesh.cli.cache_options import read_cache
from capamesh.protocol.errors import ConfigError

URL = "valkey://:password@h:1/2"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "cache.secret"
    file.write_text("s" * 64 + "\n")
    file.chmod(0o600)
    return file


def test_store_and_secret_are_read_and_leave_the_environment(
    secret: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAPAMESH_CACHE", URL)
    assert read_cache(URL, secret) == (URL, b"s" * 64)
    assert "CAPAMESH_CACHE" not in os.environ
    assert capsys.readouterr().err == ""


def test_secret_that_others_may_read_is_used_with_a_warning(
    secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret.chmod(0o644)
    assert read_cache(URL, secret)[1] == b"s" * 64
    assert f"chmod 600 {secret}" in capsys.readouterr().err


def test_store_without_a_secret_that_can_be_used_is_refused(secret: Path) -> None:
    assert read_cache("", None) == read_cache("", secret) == ("", b"")
    with pytest.raises(ConfigError, match=r"--cache needs --cache-secret FILE.*openssl rand"):
        read_cache(URL, None)
    with pytest.raises(ConfigError, match="no-such"):
        read_cache(URL, secret.with_name("no-such"))
    with pytest.raises(ConfigError, match="valkey://HOST:PORT/DB") as caught:
        read_cache("http://:password@h", secret)
    assert "password@" not in caught.value.message
    secret.write_text("s" * 31 + "\n  ")
    with pytest.raises(ConfigError, match="a secret of 31 bytes; 32 at least"):
        read_cache(URL, secret)
