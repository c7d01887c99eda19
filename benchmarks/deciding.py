"""Measures what a decision costs: times each policy on fleets of 10, 100 and 1,000 replicas, with nothing sent anywhere.

`python benchmarks/deciding.py [--picks 20000] [--policies prequal,p2c]`. A decision is the pick and all that the
policy does for one request: `sent`, whom to probe, and `reported` for the answer and for each probe's reply. The fleet
is in full use: replicas of three speeds, two requests in flight for each replica, one replica in fifty drained or lost.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections import deque
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import cast

from machine import keep
from rich.console import Console
from rich.table import Table

from capamesh.protocol.adverts import ModelOffer, ModelState, NodeAdvert
from capamesh.protocol.adverts import Sequence as AdvertSequence
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.links.link import Link
from capamesh.router.fleet import latency_ewma as peak_ewma
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies import POLICIES, Policy, RequestShape, make_policy

FLEETS = (10, 100, 1000)
BARS_US = {100: 15.0, 1000: 40.0}
"""Microseconds that the design allows a decision on one core, by the number of replicas."""
ROUND_PICKS = 500
"""The least mean of many short rounds is kept: what else the machine does only ever adds. A round is long enough
for all that a policy does only now and then."""
SEED = 1
AWAY_EVERY = 50
IN_FLIGHT_EACH = 2
RUN_US = (2_000, 5_000, 12_000)
GAP_S = 0.0005
"""Seconds between two requests: 2,000 a second."""
KEYS = 5_000


class _Up:
    """All of a link that eligibility reads."""

    is_usable = True


def replicas_of(count: int) -> tuple[Replica, ...]:
    """Return a fleet of replicas that are up, but for one in `AWAY_EVERY`."""
    offer = ModelOffer(ModelName("m"), ModelVersion("1"), "", ModelState.READY, "", (), ())
    replicas: list[Replica] = []
    for index in range(count):
        peer = PeerId(f"peer-{index}")
        advert = NodeAdvert(
            peer, AdvertSequence(1, 1), (), (offer,), "eu", float(index % 7), "", is_draining=False
        )
        run_us = RUN_US[index % len(RUN_US)]
        endpoint = Endpoint(peer, f"10.0.{index // 250}.{index % 250}:7000")
        endpoint.network.round_trip(0.0005, 0.0)
        endpoint.link = cast(Link, _Up())
        if index % AWAY_EVERY == AWAY_EVERY - 1:
            endpoint.is_draining = index % 2 == 0
            endpoint.link = None
        replicas.append(Replica(endpoint, replace(offer, row_us=run_us), advert))
    return tuple(replicas)


def is_eligible(replica: Replica, now_s: float = 0.0) -> bool:
    """Return whether a request, or a probe, may go to `replica`, as the router decides on healthy ones."""
    del now_s
    endpoint = replica.endpoint
    return (
        endpoint.is_usable
        and not endpoint.is_suspected
        and endpoint.health.is_full
        and replica.health.is_full
    )


def load_of(replica: Replica) -> LoadReport:
    """Return what a node with `replica`'s requests in flight would say."""
    run_us = replica.offer.row_us
    queued = max(0, replica.rif - 1)
    queue_us = queued * run_us
    return LoadReport(replica.rif, queued, 8, queue_us, run_us, 0, queue_us + run_us, replica.rif)


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of a policy in a fleet of so many replicas."""

    policy: str
    replicas: int
    pick_us: float
    decision_us: float
    p99_us: float
    """The 99th percentile of decisions, in microseconds."""
    looked_at: float
    """Replicas whose eligibility was asked for a decision, on average."""

    @property
    def is_over(self) -> bool:
        """Return whether a decision costs more than the design allows."""
        return self.decision_us > BARS_US.get(self.replicas, float("inf"))


def measure(name: str, count: int, picks: int) -> Cost:
    """Time `picks` decisions of a policy."""
    bench = _Bench(make_policy(name, random.Random(SEED)), replicas_of(count))  # noqa: S311 - to repeat it
    bench.run(max(1000, 2 * IN_FLIGHT_EACH * count))  # fills the fleet, and what the policy keeps
    looked_at = bench.looked_at(1000)
    rounds = [bench.timed(ROUND_PICKS) for _ in range(max(1, picks // ROUND_PICKS))]
    pick_us, decision_us, p99_us = (min(figures) for figures in zip(*rounds, strict=True))
    return Cost(name, count, pick_us, decision_us, p99_us, looked_at)


class _Bench:
    """A policy at work on a fleet in a clock of its own: the oldest request in flight is answered at each new one."""

    def __init__(self, policy: Policy, replicas: tuple[Replica, ...]) -> None:
        self.policy = policy
        self.replicas = replicas
        self.now_s = 100.0
        rng = random.Random(SEED)  # noqa: S311 - to repeat it
        self.shapes = [
            RequestShape(ModelName("m"), ModelVersion(""), 1024, f"session-{key}")
            for key in rng.choices(range(KEYS), k=KEYS)
        ]
        self.is_eligible = is_eligible
        self.in_flight: deque[Replica] = deque()
        self.asked = 0
        self.pick_ns: list[int] = []
        self.decision_ns: list[int] = []

    def run(self, picks: int) -> None:
        """Make decisions, and keep what each part of them took."""
        policy, replicas, is_ok, reported = (
            self.policy,
            self.replicas,
            self.is_eligible,
            self._reported,
        )
        shapes, in_flight = self.shapes, self.in_flight
        for index in range(picks):
            self.now_s = now_s = self.now_s + GAP_S
            shape = shapes[index % KEYS]
            began = perf_counter_ns()
            replica = policy.pick(replicas, is_ok, shape, now_s)
            picked = perf_counter_ns()
            assert replica is not None  # noqa: S101 - a benchmark of nothing is none
            replica.rif += 1
            sent = perf_counter_ns()
            policy.sent(replica, now_s)
            asked = policy.probes(replicas, is_ok, now_s)
            done = perf_counter_ns()
            decision = picked - began + done - sent
            in_flight.append(replica)
            for probed in asked:
                decision += reported(probed)
            if len(in_flight) > IN_FLIGHT_EACH * len(replicas):
                answered = in_flight.popleft()
                answered.rif -= 1
                peak_ewma.observe(answered, answered.service_s, now_s)
                decision += reported(answered)
            self.pick_ns.append(picked - began)
            self.decision_ns.append(decision)

    def _reported(self, replica: Replica) -> int:
        replica.reported(load_of(replica), self.now_s)
        began = perf_counter_ns()
        self.policy.reported(replica, self.now_s)
        return perf_counter_ns() - began

    def looked_at(self, picks: int) -> float:
        """Return of how many hosts a decision asks whether they are eligible."""
        asked = 0

        def counted(replica: Replica, now_s: float = 0.0) -> bool:
            del now_s
            nonlocal asked
            asked += 1
            return is_eligible(replica)

        self.is_eligible = counted
        self.run(picks)
        self.is_eligible = is_eligible
        return asked / picks

    def timed(self, picks: int) -> tuple[float, float, float]:
        """Return the mean of a pick and of a decision, and the 99th percentile of decisions."""
        self.pick_ns.clear()
        self.decision_ns.clear()
        self.run(picks)
        p99_ns = sorted(self.decision_ns)[int(picks * 0.99)]
        return (
            statistics.fmean(self.pick_ns) / 1e3,
            statistics.fmean(self.decision_ns) / 1e3,
            p99_ns / 1e3,
        )


def main() -> int:
    """Measure, print, keep; fail when a decision costs more than the design allows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--picks", type=int, default=20_000)
    parser.add_argument("--policies", default=",".join(POLICIES), help="names, with commas")
    options = parser.parse_args()
    table = Table(title="a decision in microseconds, and the hosts whose eligibility it asks for")
    for column in ("policy", "hosts", "mean", "at most", "p99", "pick alone", "hosts asked"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    costs: list[Cost] = []
    for name in options.policies.split(","):
        for count in FLEETS:
            costs.append(cost := measure(name, count, options.picks))
            table.add_row(*_shown(cost), end_section=count == FLEETS[-1])
    console = Console()
    console.print(table)
    rows = [
        {field: getattr(cost, field) for field in Cost.__slots__}
        | {"bar_us": BARS_US.get(cost.replicas)}
        for cost in costs
    ]
    console.print(
        f"kept in {keep('deciding', {'seed': SEED, 'picks': options.picks, 'costs': rows})}"
    )
    over = [cost for cost in costs if cost.is_over]
    for cost in over:
        console.print(
            f"[red]{cost.policy} takes {cost.decision_us:.1f} us at {cost.replicas:,} hosts: "
            f"at most {BARS_US[cost.replicas]:.0f} are allowed"
        )
    return 1 if over else 0


def _shown(cost: Cost) -> tuple[str, ...]:
    bar_us = BARS_US.get(cost.replicas)
    style = "red" if cost.is_over else "bold"
    return (
        cost.policy,
        f"{cost.replicas:,}",
        f"[{style}]{cost.decision_us:.1f}[/]",
        f"{bar_us:.0f}" if bar_us else "",
        f"{cost.p99_us:.1f}",
        f"{cost.pick_us:.1f}",
        f"{cost.looked_at:.1f}",
    )


if __name__ == "__main__":
    sys.exit(main())
