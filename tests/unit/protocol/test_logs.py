"""All that a process says is JSON, or lines for people; strangers cannot make it say much."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.log_lines import LineRenderer
from capamesh.protocol.log_rates import (
    EVENT_BURST,
    EVENT_PER_S,
    MAX_BUCKETS,
    PEER_BURST,
    PEER_PER_S,
    LogRates,
)
from capamesh.protocol.logs import MOST_CHARS, MOST_ITEMS, MOST_TRACE_CHARS

BEGIN = """
import logging, sys, threading, warnings
import structlog
from capamesh.protocol.logs import configure_logs
configure_logs()
log = structlog.get_logger()
"""


def said(program: str) -> list[dict[str, object]]:
    """Return the lines that a process with this program writes, each of which must be JSON."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_logs_warnings_and_errors_of_others_are_json() -> None:
    lines = said(
        """
logging.getLogger("asyncio").error("task %s", 7)
logging.getLogger("x").info("too small")
logging.getLogger("x").warning("%d", "no number")
warnings.warn("old")
def fails(): raise ValueError("in a thread")
thread = threading.Thread(target=fails); thread.start(); thread.join()
class Fails:
    def __del__(self): raise ValueError("in del")
Fails()
async def lost(): raise ValueError("in a task")
import asyncio, gc
async def main():
    task = asyncio.create_task(lost()); await asyncio.sleep(0); del task; gc.collect()
asyncio.run(main())
raise ZeroDivisionError("at the end")
"""
    )
    library, uncaught = "library_message", "uncaught"
    events = [library] * 3 + [uncaught] * 2 + [library, uncaught]
    assert [line["event"] for line in lines] == events
    first = (lines[0]["logger"], lines[0]["text"], lines[0]["level"])
    assert first == ("asyncio", "task 7", "error")
    assert lines[1]["text"] == "%d"
    assert "old" in str(lines[2]["text"])
    for line, text in zip(
        lines[3:], ("in a thread", "in del", "in a task", "at the end"), strict=True
    ):
        assert text in str(line["exception"])


def test_no_line_is_long() -> None:
    long, trace, many = said(
        """
log.warning("long", error="x" * 100_000)
def deep(n):
    if n: deep(n - 1)
    raise ValueError("y" * 50)
class Odd(Exception):
    def __str__(self): return "z" * 100_000 + "end"
try:
    raise Odd
except Odd:
    log.exception("trace")
log.info("many", models=list(range(1000)), odd=object())
"""
    )
    assert len(str(long["error"])) < MOST_CHARS + 50
    assert len(str(trace["exception"])) < MOST_TRACE_CHARS + 50
    assert str(trace["exception"]).endswith("zend")
    assert many["models"] == [*range(MOST_ITEMS), "... 950 more ..."]


def test_line_that_comes_too_often_is_left_out_and_counted() -> None:
    lines = said(
        f"""
for n in range({PEER_BURST} + 30):
    log.warning("advert_rejected", peer="A", n=n)
log.warning("advert_rejected", peer="B")
for n in range(1000):
    logging.getLogger("capamesh.router.aiohttp").error("x" * 5000)
import time
real = time.monotonic
time.monotonic = lambda: real() + 60
log.warning("advert_rejected", peer="A", n=99)
"""
    )
    about_a = [line for line in lines if line.get("peer") == "A"]
    assert [line["n"] for line in about_a] == [*range(PEER_BURST), 99]
    assert about_a[-1]["left_out"] == 30
    assert len([line for line in lines if line.get("peer") == "B"]) == 1
    assert len([line for line in lines if line["event"] == "library_message"]) == PEER_BURST


def test_peer_has_its_share_and_all_together_have_theirs() -> None:
    rates = LogRates()
    assert [rates.take("e", "A", 0.0) for _ in range(PEER_BURST + 2)] == [0] * PEER_BURST + [
        None
    ] * 2
    assert rates.take("e", "A", 1 / PEER_PER_S) == 2
    assert rates.take("e", "A", 1 / PEER_PER_S) is None
    taken = sum(rates.take("f", str(n), 0.0) is not None for n in range(5000))
    assert taken == EVENT_BURST
    assert rates.take("f", "new", 1 / EVENT_PER_S) == 0
    assert rates.take("other", "new", 0.0) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("ef"), st.integers(0, 5000).map(str), st.floats(0, 0.01)),
        max_size=300,
    )
)
def test_memory_and_lines_are_bounded_whoever_comes_however_often(
    lines: list[tuple[str, str, float]],
) -> None:
    rates, now_s, taken = LogRates(), 0.0, 0
    for event, peer, later_s in lines:
        now_s += later_s
        taken += rates.take(event, peer, now_s) is not None
    assert taken <= 2 * (EVENT_BURST + EVENT_PER_S * now_s + 1)
    assert len(rates) <= MAX_BUCKETS


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
    driving = line("e\x1b[2J", peer="\x1b]0;x\x07", **{"k\ny": "a\rb"})
    assert not {"\x1b", "\x07", "\r", "\n"} & set(driving)


PROGRAM = (
    BEGIN
    + """
log.info("spoken")
log.warning("warned")
"""
)
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
