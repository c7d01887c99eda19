"""Measures the store of batch jobs: leases and commits a second, its answers with 10,000 jobs in it, and the bytes of a long plan.

`python benchmarks/job_store.py [--postgres URL] [--shards 4000] [--clients 32] [--keep]`. The address is that of an empty database of
PostgreSQL; without it, SQLite alone. The store is used as a router does, through its thread, by so many clients that each lease a
shard and commit it with what its router has paid; with two routers each has a thread and a connection of its own. `--keep` writes the
figures and their place of the page.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import page_tables
import uvloop
from machine import keep
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from capamesh.protocol.ids import ModelVersion
from capamesh.router.jobs.inputs.limits import PIECE_RANGES, shard_limits
from capamesh.router.jobs.spec import InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.database import Database, SqliteDatabase, open_database
from capamesh.router.jobs.store.group_commit import StoreThread
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.values import Job, Lease, Manifest, Paid, Part, Pinned, Price, RowRange

ROWS = 20_000_000
SLOW_ROWS_PER_S = 50.0
"""The rate of a model that makes a long plan of that many rows: an embedding of texts on two cores."""
JOBS = 10_000
TENANT_JOBS = 900
"""The jobs of a tenant that have not ended, of which there may be 1,000."""
AT_ONCE = 50
ASKED = 200
LEAST_PER_S = 1000.0
MOST_MS = 20.0
MOST_BYTES = 50_000_000
PAGE = "jobs.md"
MADE_BY = "python benchmarks/job_store.py --keep"
FAILED = "the store does not do what it is measured at"
PINNED = Pinned(ModelVersion("1"), "sha256:" + 64 * "0")


@dataclass(frozen=True, slots=True)
class Opened:
    """A database and the routers that use it."""

    database: Database
    stores: list[JobStore]

    async def close(self) -> None:
        """Close them all."""
        for store in self.stores:
            await store.close()


def opened(where: str, routers: int) -> Opened:
    """Open a database for so many routers."""
    stores: list[JobStore] = []
    database = open_database(where, time.time)
    for at in range(routers):
        thread = StoreThread(database if not at else open_database(where, time.time))
        thread.start()
        stores.append(JobStore(thread, time.time))
    return Opened(database, stores)


def require(holds: bool) -> None:
    """End the benchmark unless the store did what it was asked."""
    if not holds:
        raise SystemExit(FAILED)


def spec() -> JobSpec:
    """Return a job that is another one each time."""
    source = InputSpec("/data/in.jsonl", InputFormat.JSONL, {"text": ("text",)})
    return JobSpec("minilm", source, OutputSpec("/data/out"), client_key=secrets.token_hex(8))


def manifest(lease: Lease) -> Manifest:
    """Return a manifest as long as they are."""
    part = Part(f"part-{lease.seq:06d}-{lease.token}.jsonl", 123_456, secrets.token_hex(32))
    return Manifest(lease.range.rows, 0, part, None, secrets.token_hex(32), 4.321)


async def planned(store: JobStore, ranges: list[RowRange]) -> Job:
    """Return a running job with these shards."""
    await store.submit("acme", spec(), PINNED)
    taken = await store.claim_plan("planner")
    if taken is None:
        raise SystemExit(FAILED)
    job, token = taken
    for at in range(0, len(ranges), PIECE_RANGES):
        await store.add_shards(job.id, token, at, ranges[at : at + PIECE_RANGES])
    done = await store.finish_plan(job.id, token, "fingerprint")
    if done is None:
        raise SystemExit(FAILED)
    return done


def ranges_of(rows: int, rows_per_s: float) -> list[RowRange]:
    """Return the ranges of a plan."""
    limits = shard_limits(rows_per_s, 32, 1536)
    found: list[RowRange] = []
    first = 0
    while first < rows:
        count = min(limits.rows_at(len(found)), rows - first)
        found.append(RowRange(first, count, 0, first * 60, count * 60, secrets.token_bytes(32)))
        first += count
    return found


async def lease_and_commit(
    where: str, routers: int, shards: int, clients: int, at_once: int
) -> tuple[float, float]:
    """Return how many shards a second are leased and committed, `at_once` by each claim, and this process's CPU time for one."""
    used = opened(where, routers)
    job = await planned(used.stores[0], ranges_of(shards * 500, 100.0)[:shards])

    paid_rows = [0] * routers

    async def client(at: int) -> int:
        router, done = at % routers, 0
        store, name = used.stores[router], f"router {router}"
        while leases := await store.claim(job, name, at_once):
            for lease in leases:
                paid_rows[router] += lease.range.rows
                paid = Paid(job.id, name, Price(paid_rows[router], paid_rows[router] * 1e-6))
                require(await store.commit(lease, job.spec, manifest(lease), (), paid))
                done += 1
        return done

    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    done = sum(await asyncio.gather(*map(client, range(clients))))
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    require(done == shards)
    require((await used.stores[0].get(job.id, None)).price.rows == sum(paid_rows))
    require((await used.stores[0].finish(job.id)).state is JobState.COMPLETED)
    await used.close()
    return done / took_s, cpu_s / done


async def times_ms(ask: Callable[[], Awaitable[object]]) -> list[float]:
    """Return how long each of some questions took."""
    found: list[float] = []
    for _ in range(ASKED):
        began_s = time.perf_counter()
        await ask()
        found.append((time.perf_counter() - began_s) * 1000)
    return sorted(found)


async def with_many_jobs(where: str) -> dict[str, list[float]]:
    """Return the milliseconds of submitting and listing with 10,000 jobs in the store."""
    used = opened(where, 1)
    (store,) = used.stores
    for at in range(0, JOBS, AT_ONCE):
        tenant = f"tenant {at // TENANT_JOBS}"
        await asyncio.gather(*(store.submit(tenant, spec(), PINNED) for _ in range(AT_ONCE)))
    # half of the jobs of one tenant have ended
    for job in (await store.page("tenant 0", None, 100))[::2]:
        await store.move(job.id, JobState.CANCELLED)
    found = {
        "submit": await times_ms(lambda: store.submit("other", spec(), PINNED)),
        "list": await times_ms(lambda: store.page("tenant 0", None, 50)),
        "list of all": await times_ms(lambda: store.page(None, None, 50)),
    }
    await used.close()
    return found


async def size_of_plan(where: str) -> tuple[int, int, int]:
    """Return the shards of a plan of 20,000,000 rows, and the bytes of the store when it is planned, and when all is done."""
    used = opened(where, 1)
    (store,) = used.stores
    empty = size_bytes(used.database)
    job = await planned(store, ranges_of(ROWS, SLOW_ROWS_PER_S))
    planned_bytes = size_bytes(used.database) - empty
    while leases := await store.claim(job, "router", 64):
        await asyncio.gather(*(store.commit(each, job.spec, manifest(each)) for each in leases))
    done_bytes = size_bytes(used.database) - empty
    await used.close()
    return job.shards, planned_bytes, done_bytes


def size_bytes(database: Database) -> int:
    """Return the bytes of a store."""
    with database.engine.connect() as connection:
        if isinstance(database, SqliteDatabase):
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
        connection.execute(text("ROLLBACK"))
        asked = text("SELECT pg_database_size(current_database())")
        return int(connection.execute(asked).scalar_one())


async def measure(postgres: str, shards: int, clients: int, console: Console) -> dict[str, Any]:
    """Measure each store and return the figures."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        stores = {"SQLite": str(Path(folder) / "jobs.db")}
        if postgres:
            stores["PostgreSQL"] = postgres
        rates = Table("store", "routers", "a claim", "leases and commits a second", "CPU us of one")
        for at_once in (1, 16):
            for routers in (1, 2):
                for name, where in stores.items():  # in turns
                    rate, cpu_s = await lease_and_commit(where, routers, shards, clients, at_once)
                    rates.add_row(
                        name, str(routers), str(at_once), f"{rate:,.0f}", f"{cpu_s * 1e6:.0f}"
                    )
                    rows.append(
                        {
                            "store": name,
                            "routers": routers,
                            "at_once": at_once,
                            "per_s": round(rate),
                            "cpu_us": round(cpu_s * 1e6),
                        }
                    )
        console.print(rates)
        times = Table("store", f"with {JOBS:,} jobs", "median ms", "99 % ms")
        sizes = Table("store", "shards of the plan", "planned MB", "done MB")
        for name, where in stores.items():
            for question, found in (await with_many_jobs(where)).items():
                middle, worst = statistics.median(found), found[int(len(found) * 0.99)]
                times.add_row(name, question, f"{middle:.2f}", f"{worst:.2f}")
                rows.append(
                    {"store": name, "asked": question, "median_ms": middle, "p99_ms": worst}
                )
            count, planned_bytes, done_bytes = await size_of_plan(where)
            sizes.add_row(
                name, f"{count:,}", f"{planned_bytes / 1e6:.1f}", f"{done_bytes / 1e6:.1f}"
            )
            rows.append(
                {
                    "store": name,
                    "shards": count,
                    "planned_bytes": planned_bytes,
                    "done_bytes": done_bytes,
                }
            )
        console.print(times)
        console.print(sizes)
    console.print(
        f"bars: {LEAST_PER_S:,.0f} a second, {MOST_MS:g} ms, {MOST_BYTES / 1e6:g} MB of state"
    )
    return {"shards": shards, "clients": clients, "rows": rows}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the page's table of both stores, a column each."""
    stores = list(dict.fromkeys(str(row["store"]) for row in rows))

    def line(name: str, word: str, form: str, **wanted: object) -> str:
        cells: list[str] = []
        for store in stores:
            found = [
                row
                for row in rows
                if row["store"] == store
                and word in row
                and all(row.get(each) == value for each, value in wanted.items())
            ]
            cells.append(form.format(found[0][word]) if found else "-")
        return f"| {' | '.join([name, *cells])} |"

    lines = [f"| | {' | '.join(stores)} |", f"|---|{'---:|' * len(stores)}"]
    for at_once in (1, 16):
        for routers in (1, 2):
            who = "one router" if routers == 1 else "two routers"
            name = f"leases and commits a second, {who}, {at_once} a claim"
            lines.append(line(name, "per_s", "{:,}", routers=routers, at_once=at_once))
            if routers == 1:
                name = "CPU time of one of them"
                lines.append(line(name, "cpu_us", "{} µs", routers=routers, at_once=at_once))
    for asked in ("submit", "list", "list of all"):
        for word, which in (("median_ms", "median"), ("p99_ms", "99 %")):
            name = f"{asked}, beside {JOBS:,} jobs, {which}"
            lines.append(line(name, word, "{:.1f} ms", asked=asked))
    lines.append(line(f"shards of a plan of {ROWS:,} rows", "shards", "{:,}"))
    lines.append(line("its bytes, planned", "planned_bytes", "{:,}"))
    lines.append(line("its bytes, all of it done", "done_bytes", "{:,}"))
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and keep the figures if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", default="", metavar="URL")
    parser.add_argument("--shards", type=int, default=4000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--keep", action="store_true", help="write the figures and the page")
    options = parser.parse_args()
    console = Console(width=120)
    figures = uvloop.run(measure(options.postgres, options.shards, options.clients, console))
    if options.keep:
        console.print(f"kept in {keep('job_store', figures)}")
        page_tables.write(PAGE, MADE_BY, table(figures["rows"]))


if __name__ == "__main__":
    main()
