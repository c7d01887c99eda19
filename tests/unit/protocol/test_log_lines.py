from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from capamesh.protocol.log_lines import LineRenderer

STAMP = "2026-01-02T03:04:05.678901Z"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def line(event: str, *, has_colours: bool = False, **fields: Any) -> str:
    render = LineRenderer(has_colours=has_colours)
    return render(None, "", {"event": event, "level": "info", "timestamp": STAMP, **fields})


def test_line_says_when_what_and_about_what() -> None:
    assert line("node_joined", peer="12D3", models=["a", "b"], is_new=True, at={"x": 1}) == (
        "03:04:05 INFO    node joined              peer=12D3  models=a,b  is_new=True  at=x:1"
    )
    assert line("mesh_ready") == "03:04:05 INFO    mesh ready"
    assert line("e", reason="no such file", note="").endswith('reason="no such file"  note=""')


def test_texts_of_others_cannot_drive_the_terminal() -> None:
    text = line("e\x1b[2J", peer="\x1b]0;x\x07", **{"k\ny": "a\rb"})
    assert not {"\x1b", "\x07", "\r", "\n"} & set(text)


def test_traceback_stands_below_in_lines_of_its_own() -> None:
    assert line("e", exception="Traceback:\n  line \x1b[1m7").splitlines()[1:] == [
        "Traceback:",
        "  line \N{REPLACEMENT CHARACTER}[1m7",
    ]


PROGRAM = """
import structlog
from capamesh.protocol.logs import configure_logs
configure_logs()
structlog.get_logger().info("spoken")
structlog.get_logger().warning("warned")
"""


END = b"that is all"


@pytest.mark.parametrize(
    ("variables", "is_terminal", "begins", "lines"),
    [
        ({}, False, "{", 2),
        ({}, True, "\x1b[2m", 2),
        ({"NO_COLOR": "1"}, True, "0", 2),
        ({"CAPAMESH_LOG": "console", "CAPAMESH_LOG_LEVEL": "warning"}, False, "0", 1),
    ],
)
def test_terminal_gets_lines_for_people_and_all_else_json(
    variables: dict[str, str], is_terminal: bool, begins: str, lines: int
) -> None:
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("CAPAMESH_") and k != "NO_COLOR"
    }
    with os.fdopen(theirs, "wb") as stderr:
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stderr=stderr,
            check=True,
            env={**kept, "TZ": "UTC", **variables},
        )
        # what is written to a terminal stays readable until its other end is closed, and comes there late
        if is_terminal:
            os.write(theirs, END)
            said = b""
            while not said.endswith(END):
                said += os.read(ours, 4096)
            said = said.removesuffix(END)
    if not is_terminal:
        said = os.read(ours, 4096)
    os.close(ours)
    text = said.decode()
    assert len(text.splitlines()) == lines
    assert text[:1] in {*"012"} if begins == "0" else text.startswith(begins)


def test_level_has_a_colour_where_there_are_any() -> None:
    assert "\x1b[32mINFO   \x1b[0m" in line("e", has_colours=True)
