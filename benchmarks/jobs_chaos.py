"""Asks whether all rows of a job are answered exactly once, whatever dies: real processes, seeded rounds, SQLite and PostgreSQL.

`python benchmarks/jobs_chaos.py [--rounds 200] [--stores SQLite,PostgreSQL] [--at-once 4] [--seed N] [--json]`. Two routers share a
store and a folder, one of them of several processes; two nodes run a quick model whose answer is a function of the row, to the last
bit. In each round a job of 10,000 rows is submitted, and at seeded times routers, nodes and their workers are killed, or stand still,
some of them for longer than a lease; a supervisor starts again what has ended. Then each row must have one result, or one reason, and
the results the digest of those of ONNX Runtime alone. The database itself writes down who has which shard, so that takeovers and
commits are known without asking a router (`tests/support/job_audit.py`). PostgreSQL's server is Debian's; without it that store is
left out, with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from machine import keep
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import postgres  # noqa: E402 - found by the path set above, as all of these
import pytest  # noqa: E402
from job_rounds import MAX_TAKE_OVER_S, RoundSeen, Seen, run_rounds  # noqa: E402

SEED = 20261127
ROUNDS = 200
AT_ONCE = 4
"""The rounds that are under way at once: most of a round is a wait for a lease to end."""
SQLITE, POSTGRES = "SQLite", "PostgreSQL"


def measure(store: str, options: argparse.Namespace, console: Console) -> Seen | None:
    """Run the rounds on a store; None: it cannot be had here."""
    with ExitStack() as stack:
        if options.folder is None:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="capamesh-jobs-"))
            folder = Path(name)
        else:
            folder = options.folder.absolute() / store
        where = ""
        if store == POSTGRES:
            try:
                where = stack.enter_context(postgres.served()).new_database()
            except pytest.skip.Exception as exc:
                console.print(f"{store} is left out: {exc.msg}")
                return None

        def told(seen: RoundSeen) -> None:
            faults = ", ".join(fault.kind for fault in seen.faults)
            words = f"{store} round {seen.number}: {seen.state} after {seen.took_s:.1f} s; {faults}"
            console.print(words, highlight=False)

        running = run_rounds(
            folder,
            store,
            where,
            rounds=options.rounds,
            at_once=options.at_once,
            seed=options.seed,
            told=told,
        )
        return asyncio.run(running)


def show(figures: list[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table(title="rows of jobs while routers and nodes die")
    table.add_column("")
    for each in figures:
        table.add_column(each["store"], justify="right")
    for name in figures[0]:
        if name not in {"store", "failures"}:
            table.add_row(name.replace("_", " "), *(_shown(each[name]) for each in figures))
    console.print(table)
    for each in figures:
        for failure in each["failures"]:
            console.print(f"[red]{each['store']}: {failure}[/red]", highlight=False)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{count} {name}" for name, count in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> int:
    """Run, print, keep; fail when a row is lost, doubled or wrong, or a takeover or a commit is late."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--stores", default=f"{SQLITE},{POSTGRES}", help="names with a comma between"
    )
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--folder", type=Path, help="where to leave stores and logs; without it they are removed"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON alone")
    options = parser.parse_args()
    console = Console(stderr=options.json)
    seen = [measure(store, options, console) for store in options.stores.split(",")]
    figures = [each.figures() for each in seen if each is not None]
    if not figures:
        return 1
    show(figures, console)
    kept = {"seed": options.seed, "at_once": options.at_once, "stores": figures}
    if options.json:
        print(json.dumps(kept))
    if options.rounds >= ROUNDS:
        console.print(f"kept in {keep('jobs_chaos', kept)}")
    console.print(
        f"bars: nothing lost, doubled or wrong, takeovers within {MAX_TAKE_OVER_S:g} s, no late commit"
    )
    return 1 if any(each["failures"] for each in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
