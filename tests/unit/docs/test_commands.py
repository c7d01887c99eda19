"""Every `capamesh` command that the documents show exists, with the options that they give it."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from capamesh.cli.application import application

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
    *(ROOT / part / "README.md" for part in ("benchmarks", "examples")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
INLINE = re.compile(r"`(capamesh [^`\n]+)`")
LINE = re.compile(r"^(?: {4}|(?:\.venv/bin/)|\$ )*(capamesh (?!: ).+)$", re.MULTILINE)
OWN = ("capamesh ping",)
"""What a reader of a how-to adds."""


def shown(page: Path) -> list[str]:
    """Return the commands that a page shows, in the text and in blocks, lines that go on put together."""
    text = page.read_text().replace("\\\n", " ")
    found = [*INLINE.findall(text), *LINE.findall(text)]
    return [each for each in found if not each.startswith(OWN)]


@functools.cache
def tree() -> Any:
    """Return the command with all of its own, which takes half a second to make."""
    return typer.main.get_command(application())


def wrong(line: str) -> str:
    """Return what is wrong with a command line; empty: nothing."""
    words = shlex.split(re.split(r"[|>;]| && |   ", line)[0], comments=True)[1:]
    command = tree()
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name.isupper() or name == "...":
            return ""  # a stand-in for any of its commands
        found = command.commands.get(name)
        if found is None:
            return f"no command {name!r}"
        command = found
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    lost = sorted(given - known - {"--help"})
    return f"no option {', '.join(lost)}" if lost else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    found = {line: wrong(line) for line in shown(page)}
    assert {line: reason for line, reason in found.items() if reason} == {}


def test_commands_are_found_and_wrong_ones_refused() -> None:
    assert len(shown(ROOT / "README.md")) >= 8
    assert wrong("capamesh nodes --models --json | head") == ""
    assert wrong("capamesh node halt --data x") == "no command 'halt'"
    assert wrong("capamesh node run --modles x --data=y") == "no option --modles"
