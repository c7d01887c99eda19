"""Rounds of jobs during which routers and nodes are killed and frozen, and what came of their rows. IO: real processes.

A round is a job of all rows of one data set, and some faults at seeded places of it. Rounds overlap: one that waits
until the lease of a dead router ends costs nothing but time. What each router had is known from the database (`job_audit`).
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import job_audit
import job_model
from job_cluster import JobCluster
from job_http import JobHttp
from job_keeper import NODE, ROUTER, Fault, Keeper

from capamesh.router.jobs.values import LEASE_S

TURNS = 1000
"""4 ms a run of 8 rows, and more on a busy machine."""
MAX_TAKE_OVER_S = 16.0
JOB_LIMIT_S = 300.0
"""How long a job may take: it only ends a round that hangs."""
BEGUN = 0.8
"""The part of its rows until which a job is in its middle."""
MOST_AFTER_S = 1.0
"""A fault comes within it after so many rows were begun (guess: as long as a shard takes)."""
MOST_FAULTS = 3
MEMBERS = 2
"""The routers, and the nodes."""
POLL_S = 0.1
KINDS: tuple[tuple[int, str, bool, tuple[float, float]], ...] = (
    # weight, role, is it the whole member, seconds that it stands still: 0 is killed
    (4, ROUTER, True, (0, 0)),
    (1, ROUTER, False, (0, 0)),
    (2, ROUTER, True, (LEASE_S + 2, LEASE_S + 6)),
    (1, ROUTER, True, (1, 4)),
    (2, NODE, True, (0, 0)),
    (2, NODE, False, (0, 0)),
    (1, NODE, True, (1, 4)),
    (1, NODE, False, (LEASE_S + 2, LEASE_S + 6)),
)


@dataclass(slots=True)
class RoundSeen:
    """One round, and what came of its job."""

    number: int
    faults: list[Fault]
    job: str = ""
    state: str = "not ended"
    reason: str = ""
    took_s: float = 0.0
    rows: int = 0
    paid_rows: int = 0
    """Those that nodes ran, for which the job is billed: more than there are where some were run twice."""
    lost: int = 0
    """The rows that have neither a result nor a reason why there is none."""
    doubled: int = 0
    """The rows that have more than one of these."""
    bad: list[dict[str, Any]] = field(default_factory=list)
    """The rows that have a reason: a worker was killed under them when they ran alone."""
    is_equal: bool = False
    """The results have the digest of those of ONNX Runtime itself."""


@dataclass(slots=True)
class Seen:
    """All rounds on one store."""

    store: str
    rounds: list[RoundSeen]
    seconds: float
    take_overs_s: list[float]
    """Seconds from a router's death or its freezing, or from the end of the last time that nobody could, until another had each shard."""
    slow: list[str]
    """Those that took too long, in words."""
    woken_without: int
    """The shards that were taken over from a router that stood still and woke later: it may have tried to commit them."""
    late_commits: int
    """The commits by a lease that did not hold any more."""

    @classmethod
    def read(cls, file: Path) -> Seen:
        """Return what `write` has written."""
        values = json.loads(file.read_text())
        rounds = [
            RoundSeen(**{**each, "faults": [Fault(**fault) for fault in each["faults"]]})
            for each in values.pop("rounds")
        ]
        return cls(**values, rounds=rounds)

    def write(self, file: Path) -> None:
        """Write it all into a file, which is there whole or not at all."""
        new = file.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        new.replace(file)

    def __add__(self, other: Seen) -> Seen:
        """Return the rounds of both, which were on one store."""
        return Seen(
            self.store,
            self.rounds + other.rounds,
            self.seconds + other.seconds,
            self.take_overs_s + other.take_overs_s,
            self.slow + other.slow,
            self.woken_without + other.woken_without,
            self.late_commits + other.late_commits,
        )

    @property
    def failures(self) -> list[str]:
        """Return what does not hold, in words."""
        found = [
            f"round {each.number}: {each.state} {each.reason} lost {each.lost} doubled {each.doubled} equal {each.is_equal}"
            for each in self.rounds
            if each.state != "completed" or each.lost or each.doubled or not each.is_equal
        ]
        found += self.slow
        if self.late_commits:
            found.append(f"{self.late_commits} commits by leases that did not hold any more")
        return found

    @property
    def paid_part(self) -> float:
        """The rows that nodes ran, of those of the jobs."""
        return sum(each.paid_rows for each in self.rounds) / sum(each.rows for each in self.rounds)

    def figures(self) -> dict[str, Any]:
        """Return what is kept of it."""
        kinds = Counter(fault.kind for each in self.rounds for fault in each.faults)
        took = [each.took_s for each in self.rounds]
        return {
            "store": self.store,
            "rounds": len(self.rounds),
            "completed": sum(each.state == "completed" for each in self.rounds),
            "equal": sum(each.is_equal for each in self.rounds),
            "rows": sum(each.rows for each in self.rounds),
            "rows_paid_of_them": round(self.paid_part, 3),
            "rows_lost": sum(each.lost for each in self.rounds),
            "rows_twice": sum(each.doubled for each in self.rounds),
            "rows_with_a_reason": sum(len(each.bad) for each in self.rounds),
            "reasons": dict(Counter(bad["code"] for each in self.rounds for bad in each.bad)),
            "faults": dict(sorted(kinds.items())),
            "shards_taken_over": len(self.take_overs_s),
            "take_over_median_s": round(statistics.median(self.take_overs_s or [0]), 2),
            "take_over_max_s": round(max(self.take_overs_s, default=0), 2),
            "shards_lost_while_frozen": self.woken_without,
            "late_commits": self.late_commits,
            "round_median_s": round(statistics.median(took or [0]), 1),
            "round_max_s": round(max(took, default=0), 1),
            "seconds": round(self.seconds),
            "failures": self.failures[:20],
        }


def kills_of_each(seed: int, rows: int) -> list[Fault]:
    """Return a kill of each router and each node in the course of a job, in a seeded order."""
    rng = random.Random(seed)  # noqa: S311 - rounds are repeated by it
    members = [(role, which) for role in (ROUTER, NODE) for which in range(MEMBERS)]
    rng.shuffle(members)
    step = BEGUN * rows / len(members)
    return [
        Fault(int(step * (at + rng.random())), 0.0, role, is_whole=True, frozen_s=0.0, draw=which)
        for at, (role, which) in enumerate(members)
    ]


def faults_of(seed: int, number: int, rows: int) -> list[Fault]:
    """Return what befalls the members in a round: the same for the same seed."""
    rng = random.Random(f"{seed} {number}")  # noqa: S311 - rounds are repeated by it
    found: list[Fault] = []
    for _ in range(rng.randint(1, MOST_FAULTS)):
        _, role, is_whole, (least_s, most_s) = rng.choices(KINDS, [each[0] for each in KINDS])[0]
        begun, after_s = int(rng.uniform(0, BEGUN) * rows), rng.uniform(0, MOST_AFTER_S)
        frozen_s = rng.uniform(least_s, most_s)
        found.append(Fault(begun, after_s, role, is_whole, frozen_s, rng.getrandbits(16)))
    return found


async def run_rounds(
    folder: Path,
    store: str,
    where: str,
    *,
    rounds: int,
    at_once: int,
    seed: int,
    rows: int,
    kills_each: bool = False,
    first: int = 0,
    told: Callable[[RoundSeen], None] = lambda _: None,
) -> Seen:
    """Run so many rounds from the number `first` on, some of them at once, with two routers and two nodes; `told` hears of each.

    The number of a round decides, with the seed, what befalls members in it; with `kills_each` each is killed once.
    """
    models, data = folder / "models", folder / "data"
    data.mkdir(parents=True)
    job_model.write_model(models, TURNS)
    quick = job_model.write_model(folder / "quick", 1)  # its answers are the same
    table = data / "rows.npy"
    job_model.write_rows(table, rows)
    answers = job_model.answers(quick, table).tolist()
    options = ("--threads", "1", "--poll", "0")
    where = where or str(folder / "jobs.db")
    began_s = time.monotonic()
    async with (
        JobCluster(
            folder / "cluster",
            models,
            jobs=where,
            places=[data],
            routers=((), ("--workers", "2")),
            node_options=options,
        ) as cluster,
        Keeper(cluster, job_model.NAME) as keeper,
        JobHttp(keeper.urls, cluster.headers) as http,
    ):
        await keeper.all_fit()
        job_audit.install(where)
        turn = asyncio.Semaphore(at_once)
        parts = cluster.folder / "jobs" / "results"
        bench = _Bench(http, keeper, table, answers, where, parts, seed, kills_each)

        async def one(number: int) -> RoundSeen:
            async with turn:
                seen = await _round(bench, number)
                told(seen)
                return seen

        seen = await asyncio.gather(*map(one, range(first, first + rounds)))
        found = await asyncio.to_thread(job_audit.changes, where)
        outages = [asdict(each) for each in keeper.outages]
        (folder / "outages.json").write_text(json.dumps(outages))
        (folder / "changes.json").write_text(json.dumps([asdict(each) for each in found]))
        return _of_all(store, seen, time.monotonic() - began_s, found, keeper)


@dataclass(frozen=True, slots=True)
class _Bench:
    """All that rounds use."""

    http: JobHttp
    keeper: Keeper
    table: Path
    answers: list[list[float]]
    """What ONNX Runtime itself answers to each row."""
    where: str
    parts: Path
    seed: int
    kills_each: bool


async def _round(bench: _Bench, number: int) -> RoundSeen:
    http, keeper = bench.http, bench.keeper
    rows = len(bench.answers)
    faults = (
        kills_of_each(bench.seed + number, rows)
        if bench.kills_each
        else faults_of(bench.seed, number, rows)
    )
    seen = RoundSeen(number, faults, rows=rows)
    began_s = time.monotonic()
    job = await http.submit(
        {
            "model": job_model.NAME,
            "input": {"url": bench.table.as_uri(), "columns": {"x": ["array"]}},
            "failure": {"most_failures": 100},  # far more befalls a shard here than elsewhere
            "client_key": f"round {number} of {bench.seed}",
        }
    )
    seen.job = job["id"]

    is_over = asyncio.Event()

    async def befall(fault: Fault) -> None:
        while await asyncio.to_thread(job_audit.begun, bench.where, seen.job) < fault.rows:
            if is_over.is_set():  # it has failed before
                return
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(fault.after_s)
        await keeper.befall(fault)

    async with asyncio.TaskGroup() as tasks:
        for fault in seen.faults:
            tasks.create_task(befall(fault))
        try:
            job = await http.ended(seen.job, JOB_LIMIT_S)
        except TimeoutError:
            job = await http.job(seen.job)
        is_over.set()
        seen.took_s = time.monotonic() - began_s
    seen.state, seen.reason = job["state"], job["reason"]
    seen.paid_rows = job["paid_rows"]
    results, seen.bad = await asyncio.to_thread(
        job_audit.results, bench.where, bench.parts, seen.job
    )
    counted = Counter(each["row"] for each in [*results, *seen.bad])
    seen.lost = sum(not counted[row] for row in range(rows))
    seen.doubled = sum(counted.values()) - len(counted)
    without = {each["row"] for each in seen.bad}
    right = ((row, each) for row, each in enumerate(bench.answers) if row not in without)
    found = ((each["row"], each["outputs"]["y"]) for each in results)
    seen.is_equal = job_model.digest(found) == job_model.digest(right)
    return seen


def _of_all(
    store: str,
    rounds: list[RoundSeen],
    seconds: float,
    found: list[job_audit.Change],
    keeper: Keeper,
) -> Seen:
    """Return what came of all rounds."""
    seen = Seen(store, rounds, seconds, [], [], 0, len(job_audit.late_commits(found)))
    for outage in keeper.outages:
        is_short = 0 < outage.frozen_s <= LEASE_S
        if outage.role != ROUTER or is_short:
            continue
        pids = {str(pid) for pid in outage.pids}

        def is_owned(owner: str, pids: set[str] = pids) -> bool:
            return bool(pids & set(owner.split()))  # its host, process and chance

        for taken in job_audit.take_overs(found, is_owned, outage.began_s):
            took_s = taken.taken_s - keeper.able_s(taken.gone_s, taken.taken_s)
            seen.take_overs_s.append(took_s)
            seen.woken_without += taken.taken_s < outage.woke_s < float("inf")
            if took_s > MAX_TAKE_OVER_S:
                what = "frozen" if outage.frozen_s else "killed"
                words = f"shard {taken.seq} of {taken.job} was taken over {took_s:.1f} s after {outage.name} was {what}"
                seen.slow.append(words)
    return seen
