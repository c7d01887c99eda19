from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from capamesh.cli import services
from capamesh.cli.__main__ import run
from capamesh.cli.options import read_token
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import is_exposed


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_token_file_that_others_can_read_is_used_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    file = tmp_path / "my token"
    file.write_text("secret\n")
    file.chmod(mode)
    assert read_token(None, str(file)) == "secret\n"
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"capamesh: warning: other users of this machine can read the join token in {file}; "
        f"keep them out: chmod 600 '{file}'\n"
    )


def test_token_file_of_ones_own_gives_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(0o600)
    assert read_token(None, str(file)) == "secret\n"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("role", ["node", "router"])
def test_token_on_the_command_line_is_used_with_one_warning(
    role: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens: list[str | None] = []
    monkeypatch.setattr(services, f"run_{role}", lambda settings, _: tokens.append(settings.token))
    monkeypatch.delenv("CAPAMESH_TOKEN", raising=False)
    line = [role, "run", "--data", "d", *(["--models", "m"] if role == "node" else [])]
    assert run([*line, "--token", "secret"]) == 0
    said = capsys.readouterr()
    assert (tokens, said.out) == (["secret"], "")
    assert said.err == (
        "capamesh: warning: other users of this machine can read the join token in the list of processes; keep it in "
        "a file of your own and give --token-file FILE, or set CAPAMESH_TOKEN\n"
    )
    # another variable does not hide it
    monkeypatch.setenv("CAPAMESH_TOKEN", "other")
    assert run([*line, "--token", "secret"]) == 0
    assert capsys.readouterr().err == said.err


def test_token_in_the_variable_gives_no_warning_and_is_taken_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens: list[str | None] = []
    monkeypatch.setattr(services, "run_router", lambda settings, _: tokens.append(settings.token))
    for value, token in (("secret", "secret"), ("", None)):
        monkeypatch.setenv("CAPAMESH_TOKEN", value)
        assert run(["router", "run", "--data", "d"]) == 0
        assert tokens.pop() == token
        assert capsys.readouterr().err == ""
        assert "CAPAMESH_TOKEN" not in os.environ


def test_pipe_is_not_exposed_whatever_its_mode(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe").chmod(0o644)
    with os.fdopen(os.open(tmp_path / "pipe", os.O_RDWR), "rb", buffering=0) as pipe:
        assert not is_exposed(pipe)


def test_token_file_that_cannot_be_read_is_reported_without_the_errors_number(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError) as refusal:
        read_token(None, str(tmp_path))
    assert refusal.value.message == (
        f"cannot read the join token from {tmp_path}: Is a directory; write one with: capamesh network token"
    )


def test_token_file_with_nothing_in_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(" \n")
    file.chmod(0o600)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for source, name in ((str(file), str(file)), ("-", "standard input")):
        with pytest.raises(ConfigError) as refusal:
            read_token(None, source)
        assert refusal.value.message == (
            f"{name} is empty, where a join token was expected; the network's owner writes one with: "
            "capamesh network token"
        )


def test_token_file_that_is_no_text_is_said_to_hold_no_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"\xff\xfe")
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no join token, which is one line of ASCII text"):
        read_token(None, str(file))
