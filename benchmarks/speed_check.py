"""Is a request as cheap in this checkout as in a commit before it? Counts instructions of both, where that can be done.

    python benchmarks/speed_check.py [--base HEAD~1] [--by instructions|valgrind|cpu] [--rounds 9] [--bar 0.03]

Runs `hot_path.py` of this checkout, as it is, and of the base, which is unpacked into folders of its own; each with its
own code, in this environment, and from sources: nothing is compiled in the base's folders. What counts a request is, by what the machine has:

- `instructions`: what the processor counts, by `perf stat`; virtual machines often have none;
- `valgrind`: what valgrind counts, twenty times as slowly, and undisturbed by what else runs;
- `cpu`: the CPU time, in rounds that take turns.

The base is measured twice, from two folders, because where code lies changes what it costs by up to a hundredth: by how
much the two differ is printed as noise, and no smaller difference means anything.
Exit status 1: a request costs more than the bar allows. Exit status 2: the base differs from itself by as much, or one
of the two cannot run. What it leaves out are sockets, TLS and nodes: `versus.py` has them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

THIS = Path(__file__).resolve().parents[1]
PARTS = ("protocol", "node", "router", "client", "simulation", "cli")
FEW = 100
MORE = {"json": 3000, "binary": 3000, "large": 1000}
"""Requests of a kind beyond the few: what a start costs is in both counts, and differs by some million instructions
from start to start (measured), which has to be little beside what is counted."""
CPU_REQUESTS = {"json": 4000, "binary": 4000, "large": 1000}
"""Requests of one run that is timed: about half a second."""
REFS = re.compile(r"I\s+refs:\s+([\d,]+)")


class CannotRun(Exception):
    """One of the two cannot be measured; the text says why."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one kind of request, in the unit of the way that it was measured."""

    base: float
    again: float
    """The base once more."""
    this: float

    @property
    def ratio(self) -> float:
        """The cost here over the cost in the base, of which there are two measurements."""
        return self.this / statistics.fmean((self.base, self.again))

    @property
    def noise(self) -> float:
        """The part by which two measurements of the same code differ."""
        return abs(self.again / self.base - 1)


def unpack(revision: str, folder: Path) -> Path:
    """Unpack a commit of this repository; return the folder."""
    done = subprocess.run(
        ("git", "-C", str(THIS), "archive", revision),  # noqa: S607 - whichever git there is
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise CannotRun(f"{revision}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    if not (folder / "benchmarks" / "hot_path.py").exists():
        raise CannotRun(f"{revision} has no benchmarks/hot_path.py: it is older than this check")
    return folder


def run(checkout: Path, kind: str, count: int, prefix: Sequence[str] = ()) -> tuple[float, str]:
    """Run a checkout's hot path; return the CPU seconds of its requests, and what was printed as errors."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(checkout / part / "src") for part in PARTS),
        "PYTHONHASHSEED": "0",
        "CAPAMESH_PURE": "1",
    }
    done = subprocess.run(
        (*prefix, sys.executable, str(checkout / "benchmarks" / "hot_path.py"), kind, str(count)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotRun(f"{checkout}: {done.stderr.strip()[-2000:]}")
    said = json.loads(done.stdout)
    if not Path(said["code"]).is_relative_to(checkout):
        raise CannotRun(f"{checkout} ran the code of {said['code']}")
    return float(said["cpu_s"]), done.stderr


def by_perf(checkout: Path, kind: str, count: int) -> float:
    """Return the instructions that the processor counts for a run."""
    prefix = ("perf", "stat", "--field-separator", ",", "--event", "instructions:u", "--")
    return float(run(checkout, kind, count, prefix)[1].strip().splitlines()[-1].split(",")[0])


def by_valgrind(checkout: Path, kind: str, count: int) -> float:
    """Return the instructions that valgrind counts for a run."""
    tool = ("--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    found = REFS.search(run(checkout, kind, count, ("valgrind", *tool))[1])
    if found is None:
        raise CannotRun("valgrind printed no count of instructions")
    return float(found[1].replace(",", ""))


def has_counters() -> bool:
    """Return whether `perf` can count instructions on this machine."""
    if shutil.which("perf") is None:
        return False
    done = subprocess.run(
        ("perf", "stat", "--field-separator", ",", "--event", "instructions:u", "--", "true"),  # noqa: S607 - likewise
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0 and done.stderr.strip().split(",")[0].isdigit()


def counted(sides: Sequence[Path], count: Callable[[Path, str, int], float]) -> dict[str, Cost]:
    """Return instructions for a request of each kind in the base, the base again and here: of many requests less of few."""
    jobs = [
        (side, checkout, kind, number)
        for kind, more in MORE.items()
        for side, checkout in enumerate(sides)
        for number in (FEW, FEW + more)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        seen = list(threads.map(lambda job: count(*job[1:]), jobs))
    counts = {
        (side, kind, number): found
        for (side, _, kind, number), found in zip(jobs, seen, strict=True)
    }
    return {
        kind: Cost(
            *(
                (counts[side, kind, FEW + more] - counts[side, kind, FEW]) / more
                for side in range(3)
            )
        )
        for kind, more in MORE.items()
    }


def timed(sides: Sequence[Path], rounds: int) -> dict[str, Cost]:
    """Return microseconds of CPU time for a request of each kind, likewise: medians of rounds that take turns."""
    costs: dict[str, Cost] = {}
    for kind, count in CPU_REQUESTS.items():
        times: list[list[float]] = [[], [], []]
        for number in range(rounds):
            order = list(enumerate(sides))
            for side, checkout in order[number % 3 :] + order[: number % 3]:
                times[side].append(run(checkout, kind, count)[0] / count * 1e6)
        costs[kind] = Cost(*map(statistics.median, times))
    return costs


def show(costs: dict[str, Cost], base: str, way: str, console: Console) -> None:
    """Print the table."""
    unit = "CPU µs" if way == "cpu" else "instructions"
    table = Table(title=f"{unit} for a request, this checkout and {base}, by {way}")
    for column in ("request", base, f"{base} again", "this", "ratio", "noise"):
        table.add_column(column, justify="left" if column == "request" else "right")
    for kind, cost in costs.items():
        values = (f"{value:,.1f}" for value in (cost.base, cost.again, cost.this))
        table.add_row(kind, *values, f"{cost.ratio:.3f}", f"{cost.noise:.1%}")
    console.print(table)


def verdict(costs: dict[str, Cost], bar: float) -> tuple[int, str]:
    """Return the exit status and the sentence that goes with it."""
    over = [kind for kind, cost in costs.items() if cost.ratio > 1 + bar]
    sure = [kind for kind in over if costs[kind].ratio - 1 > costs[kind].noise]
    if sure:
        return 1, f"WORSE by more than {bar:.0%}: {', '.join(sure)}"
    unsure = [kind for kind, cost in costs.items() if kind in over or cost.noise > bar]
    if unsure:
        return 2, (
            f"NOT KNOWN: the same code differs from itself by too much ({', '.join(unsure)}); "
            "end what else runs, or use --by valgrind"
        )
    return 0, f"held: no request costs {bar:.0%} more"


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default="HEAD~1", help="the commit to compare with")
    parser.add_argument("--by", choices=("instructions", "valgrind", "cpu"))
    parser.add_argument("--rounds", type=int, default=9, help="of CPU time")
    parser.add_argument("--bar", type=float, default=0.03)
    options = parser.parse_args()
    way = options.by or (
        "instructions" if has_counters() else "valgrind" if shutil.which("valgrind") else "cpu"
    )
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        try:
            bases = [Path(folder).resolve() / name for name in ("base", "base-again")]
            sides = [*(unpack(options.base, base) for base in bases), THIS]
            for side in sides:
                run(side, "json", 1)  # compiles it, which is not to be measured
            with console.status(f"measuring by {way}"):
                match way:
                    case "instructions":
                        costs = counted(sides, by_perf)
                    case "valgrind":
                        costs = counted(sides, by_valgrind)
                    case _:
                        costs = timed(sides, options.rounds)
        except CannotRun as exc:
            console.print(f"NOT KNOWN: {exc}", markup=False)
            return 2
    show(costs, options.base, way, console)
    status, said = verdict(costs, options.bar)
    console.print(said, markup=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
