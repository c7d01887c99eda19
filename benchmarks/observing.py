"""Compares what keys, logs and traces cost a request in the router: all off, each on, and all on, in turns in one process.

    python benchmarks/observing.py [--rounds 15] [--count 2000] [--bar 0.05]

What runs is what `hot_path.py` runs: the front, the pipeline, a policy and links, without a socket. Of each set-up there is a
router; they take turns, and the CPU time of each turn is compared with that of the turn of "all off" before it. The lines
of the logs are written to a file by their thread, whose time counts, too. Exit status 1: all on costs more than the bar.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))

import virtual_time  # noqa: E402 - it lies in the folder that was just added
from fleet_fakes import NullLog  # noqa: E402 - likewise
from warm_requests import WarmWorld, binary_of, warmed  # noqa: E402 - likewise

from capamesh.protocol.gc_tuning import freeze_loaded_objects  # noqa: E402 - likewise
from capamesh.router.access.keys import Key, Scope, digest_of  # noqa: E402 - likewise
from capamesh.router.telemetry.ended import EndedRequests  # noqa: E402 - likewise
from capamesh.router.telemetry.line_file import LineFile  # noqa: E402 - likewise
from capamesh.router.telemetry.request_lines import AccessLog, SlowLog  # noqa: E402 - likewise
from capamesh.router.telemetry.tracing import Sampling, Tracer  # noqa: E402 - likewise

SAMPLE = 0.01
SEED = 1
KEY = "cm_abcdefgh_" + 32 * "1"
SCOPE = Scope(requests_per_s=1e9, rows_per_s=1e9, bytes_per_s=1e12, concurrency=1000)
OFF = "all off"


def ended(file: LineFile, *, has_access: bool = False, has_rest: bool = False) -> EndedRequests:
    """Return what is told of requests, with some of the logs and traces."""
    rng = random.Random(SEED)  # noqa: S311 - a sample is no secret
    now = time.monotonic
    access = AccessLog(file.put, SAMPLE, rng=rng, clock=now, wall_clock=time.time)
    slow = SlowLog(file.put, least_s=1.0, factor=4.0, clock=now, wall_clock=time.time)
    tracer = Tracer(Sampling(slow_s=1.0), rng=rng, clock=now, wall_clock_ns=time.time_ns)
    return EndedRequests(
        clock=now,
        wall_clock=time.time,
        tracer=tracer if has_rest else None,
        access=access if has_access else None,
        slow=slow if has_rest else None,
    )


async def turn(world: WarmWorld, count: int) -> float:
    """Send a request so often; return the seconds of CPU time of each."""
    world.client.sent.clear()
    began_s = time.process_time()
    for _ in range(count):
        world.ask()
        await world.answer()
    used_s = time.process_time() - began_s
    answered = world.client.sent.count(b"HTTP/1.1 200 OK")
    if answered != count:
        raise SystemExit(f"{answered} of {count} requests were answered")
    return used_s / count


async def run(rounds: int, count: int, file: LineFile) -> dict[str, list[float]]:
    """Return the CPU seconds of a request in each round, by set-up."""
    plain = binary_of(128)
    with_key = plain.replace(b"\r\n", b"\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n", 1)
    key = Key("abcdefgh", digest_of(KEY), "lab", SCOPE)
    worlds = {
        OFF: await warmed(WarmWorld(plain, ended(file))),
        "all off, again": await warmed(WarmWorld(plain, ended(file))),
        "access log of 1 %": await warmed(WarmWorld(plain, ended(file, has_access=True))),
        "logs and traces": await warmed(
            WarmWorld(plain, ended(file, has_access=True, has_rest=True))
        ),
        "a key with limits": await warmed(WarmWorld(with_key, ended(file), [key])),
        "all on": await warmed(
            WarmWorld(with_key, ended(file, has_access=True, has_rest=True), [key])
        ),
    }
    freeze_loaded_objects()
    used: dict[str, list[float]] = {name: [] for name in worlds}
    for _ in range(rounds):
        for name, world in worlds.items():
            used[name].append(await turn(world, count))
    return used


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=2000, help="requests of each round")
    parser.add_argument("--bar", type=float, default=0.05)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = LineFile(str(Path(folder) / "lines"), NullLog())  # type: ignore[arg-type]
        file.start()
        used = virtual_time.run(run(given.rounds, given.count, file))
        file.close()
    ratios = {
        name: statistics.median(a / b for a, b in zip(each, used[OFF], strict=True))
        for name, each in used.items()
    }
    for name, ratio in ratios.items():
        print(f"{name:20} {min(used[name]) * 1e6:7.1f} us of CPU a request   x {ratio:.3f}")
    print(json.dumps({"written": file.written, "ratios": ratios}))
    return int(ratios["all on"] > 1.0 + given.bar)


if __name__ == "__main__":
    sys.exit(main())
