"""The help pages in a terminal of 80 columns, and what is said of a name that is nearly right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from capamesh.cli.__main__ import run
from capamesh.cli.application import application


def help_page(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*path, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("nods", "nodes"),
        ("node rum", "run"),
        ("nodes --rooter x", "--router"),
        ("node run --memroy-limit 3", "--memory-limit"),
    ],
)
def test_name_that_is_nearly_right_is_told_the_right_one(
    capsys: pytest.CaptureFixture[str], line: str, meant: str
) -> None:
    assert run(line.split()) == 2
    assert meant in capsys.readouterr().err


@pytest.mark.full
def test_help_has_examples_and_fits_80_columns_with_whole_names_of_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*path, name))

    pages = list(walk(typer.main.get_command(application()), ()))
    assert len(pages) > 50
    for path, command in pages:
        said = help_page(path, monkeypatch, capsys)
        assert "Examples:" in said, path
        assert max(map(len, said.splitlines())) <= 80, path
        assert "<bool>" not in said, path
        words = said.replace(",", " ").split()
        for parameter in command.params:
            if parameter.opts[0].startswith("-") and not getattr(parameter, "hidden", False):
                assert parameter.opts[0] in words, path
        if hasattr(command, "commands"):
            assert run(path) == 0
            assert "Examples:" in capsys.readouterr().out, path
