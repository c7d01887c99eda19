"""Asks whether all rows of a job are answered exactly once, whatever dies: real processes, seeded rounds, SQLite and PostgreSQL.

`python benchmarks/jobs_chaos.py [--rounds 200] [--stores SQLite,PostgreSQL] [--at-once 4] [--rows 10000] [--kill-each]
[--seed N] [--folder DIR] [--keep] [--json]`. Two routers share a
store and a folder, one of them of several processes; two nodes run a quick model whose answer is a function of the row, to the last
bit. In each round a job of 10,000 rows is submitted, and at seeded times routers, nodes and their workers are killed, or stand still,
some of them for longer than a lease; a supervisor starts again what has ended. Then each row must have one result, or one reason, and
the results the digest of those of ONNX Runtime alone. The database itself writes down who has which shard, so that takeovers and
commits are known without asking a router (`job_audit.py`). PostgreSQL's server is Debian's; without it that store is
left out, with the reason.

`--rounds 1 --rows 200000 --kill-each` kills each router and each node once in the course of a long job, and asks that nodes run at most 1.1
times its rows.

Rounds come in pieces of 20, each with members and a store of its own. What was seen of each piece stays in the folder, and a second
run with the same folder does only what is missing: 200 rounds take an hour and more. `--keep` writes the figures and the page of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import ExitStack
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import page_tables
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
ROWS = 10_000
MOST_PAID = 1.1
"""The rows of a long job that nodes run, of those that it has."""
PIECE = 20
AT_ONCE = 4
"""The rounds that are under way at once: most of a round is a wait for a lease to end."""
SQLITE, POSTGRES = "SQLite", "PostgreSQL"
MADE_BY = "python benchmarks/jobs_chaos.py --keep"
PAGE = "jobs.md"


def measure(store: str, kept: Path, options: argparse.Namespace, console: Console) -> Seen | None:
    """Run the rounds on a store that are missing in a folder, and return all; None: it cannot be had here."""
    seen: list[Seen] = []
    for first in range(0, options.rounds, PIECE):
        count = min(PIECE, options.rounds - first)
        kind = "each" if options.kill_each else "some"
        file = kept / f"{store}-{options.seed}-{options.rows}-{kind}-{first:04}-{count}.json"
        if not file.exists():
            piece = run_piece(store, first, count, options, console)
            if piece is None:
                return None
            piece.write(file)
        seen.append(Seen.read(file))
    return reduce(add, seen)


def run_piece(
    store: str, first: int, count: int, options: argparse.Namespace, console: Console
) -> Seen | None:
    """Run some rounds on a new store; None: it cannot be had here."""

    def told(seen: RoundSeen) -> None:
        faults = ", ".join(fault.kind for fault in seen.faults)
        words = f"{store} round {seen.number}: {seen.state} after {seen.took_s:.1f} s; {faults}"
        console.print(words, highlight=False)

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="capamesh-jobs-"))
        where = ""
        if store == POSTGRES:
            try:
                where = stack.enter_context(postgres.served()).new_database()
            except pytest.skip.Exception as exc:
                console.print(f"{store} is left out: {exc.msg}")
                return None
        running = run_rounds(
            Path(folder),
            store,
            where,
            rounds=count,
            at_once=options.at_once,
            seed=options.seed,
            rows=options.rows,
            kills_each=options.kill_each,
            first=first,
            told=told,
        )
        return asyncio.run(running)


def page_table(figures: list[dict[str, Any]]) -> str:
    """Return the table of the page."""
    rows = (
        ("jobs", "rounds"),
        ("rows", "rows"),
        ("rows that nodes ran, of these", "rows_paid_of_them"),
        ("rows without an answer, or with two", "rows_wrong"),
        ("jobs whose results have the digest of ONNX Runtime's", "equal"),
        ("members killed or frozen, or their workers", "faults"),
        ("shards taken over from routers that were gone", "shards_taken_over"),
        ("the median of these, in seconds after the router was gone", "take_over_median_s"),
        ("the last of these, likewise", "take_over_max_s"),
        ("shards taken over from routers that woke later", "shards_lost_while_frozen"),
        ("commits by a router that had lost its shard", "late_commits"),
    )
    shown = [
        {
            **each,
            "rows_wrong": each["rows_lost"] + each["rows_twice"],
            "faults": sum(each["faults"].values()),
        }
        for each in figures
    ]
    return "\n".join(
        (
            f"| | {' | '.join(each['store'] for each in shown)} |",
            f"|---|{'---:|' * len(shown)}",
            *(
                f"| {words} | {' | '.join(_shown(each[name]) for each in shown)} |"
                for words, name in rows
            ),
        )
    )


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
    parser.add_argument("--rows", type=int, default=ROWS, help="of each job")
    parser.add_argument(
        "--kill-each",
        action="store_true",
        help="kill each member once in each round, and nothing else",
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--folder", type=Path, help="where what was seen of each piece is left and found"
    )
    parser.add_argument("--keep", action="store_true", help="write the figures and the page")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON alone")
    options = parser.parse_args()
    console = Console(stderr=options.json)
    with ExitStack() as stack:
        kept = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kept.mkdir(parents=True, exist_ok=True)
        seen = [measure(store, kept, options, console) for store in options.stores.split(",")]
    figures = [each.figures() for each in seen if each is not None]
    if not figures:
        return 1
    show(figures, console)
    told = {"seed": options.seed, "at_once": options.at_once, "stores": figures}
    if options.json:
        print(json.dumps(told))
    if options.keep:
        console.print(f"kept in {keep('jobs_chaos', told)}")
        console.print(f"and {page_tables.write(PAGE, MADE_BY, page_table(figures))}")
    console.print(
        f"bars: nothing lost, doubled or wrong, takeovers within {MAX_TAKE_OVER_S:g} s, no late commit"
    )
    if options.kill_each and any(each["rows_paid_of_them"] > MOST_PAID for each in figures):
        console.print(f"[red]nodes ran more than {MOST_PAID:g} times the rows[/red]")
        return 1
    return 1 if any(each["failures"] for each in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
