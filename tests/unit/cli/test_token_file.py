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


def test_pipe_is_not_exposed_whatever_its_mode(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe").chmod(0o644)
    with os.fdopen(os.open(tmp_path / "pipe", os.O_RDWR), "rb", buffering=0) as pipe:
        assert not is_exposed(pipe)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o604])
def test_token_file_that_others_can_read_is_used_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    file = tmp_path / "my token"
    file.write_text("secret\n")
    file.chmod(mode)
    assert read_token(None, str(file)) == "secret\n"
    assert capsys.readouterr() == (
        "",
        ""
        if mode == 0o600
        else f"capamesh: warning: other users of this machine can read the join token in {file}; "
        f"keep them out: chmod 600 '{file}'\n",
    )


def test_token_on_the_command_line_is_used_with_one_warning_and_one_in_the_variable_with_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens: list[str | None] = []
    for role, more in (("node", ["--models", "m"]), ("router", [])):
        monkeypatch.setattr(
            services, f"run_{role}", lambda settings, _: tokens.append(settings.token)
        )
        line = [role, "run", "--data", "d", *more]
        monkeypatch.setenv("CAPAMESH_TOKEN", "other")  # which does not hide the warning
        assert run([*line, "--token", "secret"]) == 0
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert "can read the join token in the list of processes" in said.err
        for value in ("other", ""):
            monkeypatch.setenv("CAPAMESH_TOKEN", value)
            assert run(line) == 0
            assert capsys.readouterr().err == ""
            assert "CAPAMESH_TOKEN" not in os.environ
    assert tokens == ["secret", "other", None] * 2


def test_token_file_that_holds_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    for file, content in ((empty, b" \n"), (binary, b"\xff\xfe")):
        file.write_bytes(content)
        file.chmod(0o600)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for source, said in (
        (str(tmp_path), f"cannot read the join token from {tmp_path}: Is a directory; write one"),
        (str(empty), f"{empty} is empty, where a join token was expected"),
        ("-", "standard input is empty, where a join token was expected"),
        (str(binary), "holds no join token, which is one line of ASCII text"),
    ):
        with pytest.raises(ConfigError) as refusal:
            read_token(None, source)
        assert said in refusal.value.message
