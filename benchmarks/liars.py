"""Measures what nodes of one token can do to others' requests by lying about them.

`python benchmarks/liars.py [--requests 1000] [--rows] [--scenario] [--count 20000]`. Real processes: a router, honest nodes, each of an
invite of its own, and liars of one invite in this process. The rows: how many right requests fail for each lie, and the 99th
percentile. The scenario: six nodes, of which two lie in turns, a third is killed and a fourth frozen. The bars: at most one
request of 1,000 fails in each row, at most 20 of 20,000 in the scenario, and no answer of a liar is told as right.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import uvloop
from machine import keep
from report import Report
from rich.console import Console

from capamesh.protocol.links.calls import InferCall

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from chaos import send_signal  # noqa: E402 - found by the line above
from evil_nodes import LIES, Answers, Given, lying, right_request  # noqa: E402 - likewise
from hostile import attacked, children_of  # noqa: E402 - likewise
from http_load import Load, Shot, failed, failures, quantile_s  # noqa: E402 - likewise

FLEETS = ((1, 1), (1, 2), (1, 4), (3, 2), (3, 6))
"""The honest nodes and the liars of each row."""
FAILED_OF = 1000
"""One request of so many may fail."""
SCENARIO_FAILED = 20


async def row(folder: Path, honest: int, liars: int, name: str, requests: int) -> list[Shot]:
    """Return what became of right requests beside so many liars, from when their nodes are linked."""
    async with attacked(folder / "network", folder / "models", nodes=honest) as running:
        right, _ = await right_request(running.http_url)
        lies = [LIES[name]] * liars
        async with lying(running, folder / "liars", *lies, is_once=name == "once"):
            return await Load(running.http_url).run([right] * requests, concurrency=4)


def in_turns(at: int) -> Answers:
    """Return the answers of a liar that tells one lie after the other."""
    names = itertools.cycle(["invalid", "run_failed", "strange outputs", "too_large"])
    turn = itertools.islice(names, at, None)

    def lie(call: InferCall) -> Given:
        return LIES[next(turn)](call)

    return lie


async def scenario(folder: Path, count: int) -> list[Shot]:
    """Return what became of `count` requests at six nodes of which two are well to the end."""
    async with attacked(folder / "network", folder / "models", nodes=4) as running:
        right, _ = await right_request(running.http_url)
        killed, frozen = (children_of(node.pid) for node in running.nodes[2:])

        async def kill() -> None:
            send_signal(killed, signal.SIGKILL)

        async def freeze() -> None:
            send_signal(frozen, signal.SIGSTOP)

        async with lying(running, folder / "liars", in_turns(0), in_turns(2)):
            hurt = {count // 4: kill, count // 2: freeze}
            try:
                load = Load(running.http_url)
                return await load.run([right] * count, concurrency=8, at=hurt)
            finally:
                send_signal(frozen, signal.SIGCONT)


async def measured(options: argparse.Namespace, report: Report, console: Console) -> None:
    """Measure each row and the scenario, in a network of its own."""

    async def one(case: str, most: float, run: Callable[[Path], Awaitable[list[Shot]]]) -> None:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            shutil.copytree(options.models / "digits", folder / "models" / "digits")
            shots = await run(folder)
        wrong = sum(not shot.is_right for shot in shots)
        lost = failed(shots) - wrong
        p99_ms = quantile_s(shots, 0.99) * 1e3
        report.bar(case, "failed", lost, most)
        report.bar(case, "wrong told as right", wrong, 0)
        report.note(case, p99_ms=round(p99_ms, 1), asked=len(shots))
        console.print(
            f"{case}: {lost} of {len(shots)} failed, p99 {p99_ms:.0f} ms", *failures(shots)[:2]
        )

    if not options.scenario:
        for (honest, liars), name in itertools.product(FLEETS, options.lies):
            await one(
                f"{honest} honest, {liars} liars: {name}",
                options.requests / FAILED_OF,
                partial(row, honest=honest, liars=liars, name=name, requests=options.requests),
            )
    if not options.rows:
        most = SCENARIO_FAILED * options.count / 20_000
        await one("2 of 6 lie, 1 is killed, 1 frozen", most, partial(scenario, count=options.count))


def main() -> int:
    """Measure, show and keep the figures; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="requests of each row")
    parser.add_argument("--count", type=int, default=20_000, help="requests of the scenario")
    parser.add_argument("--lies", nargs="+", choices=LIES, default=list(LIES))
    parser.add_argument("--rows", action="store_true", help="only the rows")
    parser.add_argument("--scenario", action="store_true", help="only the scenario")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    options = parser.parse_args()
    report, console = Report(), Console(width=160)
    uvloop.run(measured(options, report, console))
    report.show("right requests beside nodes of one token that lie about them", console)
    asked = {name: value for name, value in vars(options).items() if name != "models"}
    keep("liars", {"options": asked, **report.figures})
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
