"""What does a decision cost? Times each policy on fleets of 10, 100 and 1,000 hosts, with nothing sent anywhere.

`python benchmarks/deciding.py [--picks 20000] [--policies prequal,p2c]`. A decision is the pick and all that the
policy does for one request: `sent`, whom to probe, and `told` for the answer and for each probe's reply. The fleet
is in full use: hosts of three speeds, two requests in flight for each host, one host in fifty drained or lost.
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
from capamesh.router.fleet.endpoint import Candidate
from capamesh.router.fleet.replica import Host
from capamesh.router.policies import POLICIES, Policy, RequestShape, make_policy

FLEETS = (10, 100, 1000)
BARS_US = {100: 15.0, 1000: 40.0}
"""What the design allows a decision on one core, by the number of hosts."""
ROUND_PICKS = 500
"""The least mean of many short rounds is kept: what else the machine does only ever adds. A round is long enough
for all that a policy does only now and then."""
SEED = 1
AWAY_EVERY = 50
IN_FLIGHT_EACH = 2
RUN_US = (2_000, 5_000, 12_000)
GAP_S = 0.0005
"""Between two requests: 2,000 a second."""
KEYS = 5_000


class _Up:
    """All of a link that eligibility reads."""

    is_usable = True


def hosts_of(count: int) -> tuple[Host, ...]:
    """Return a fleet of hosts that are up, but for one in `AWAY_EVERY`."""
    offer = ModelOffer(ModelName("m"), ModelVersion("1"), "", ModelState.READY, "", (), ())
    hosts: list[Host] = []
    for index in range(count):
        peer = PeerId(f"peer-{index}")
        advert = NodeAdvert(
            peer, AdvertSequence(1, 1), (), (offer,), "eu", float(index % 7), "", is_draining=False
        )
        run_us = RUN_US[index % len(RUN_US)]
        candidate = Candidate(peer, f"10.0.{index // 250}.{index % 250}:7000")
        candidate.network.round_trip(0.0005)
        candidate.link = cast(Link, _Up())
        if index % AWAY_EVERY == AWAY_EVERY - 1:
            candidate.is_draining = index % 2 == 0
            candidate.link = None
        hosts.append(Host(candidate, replace(offer, row_us=run_us), advert))
    return tuple(hosts)


def is_eligible(host: Host) -> bool:
    """Whether a request may go to `host`: what the router asks of the healthy."""
    candidate = host.candidate
    return (
        candidate.is_usable
        and not candidate.is_suspected
        and candidate.health.is_full
        and host.health.is_full
    )


def load_of(host: Host) -> LoadReport:
    """Return what a node with `host`'s requests in flight would say."""
    run_us = host.offer.row_us
    queued = max(0, host.rif - 1)
    queue_us = queued * run_us
    return LoadReport(host.rif, queued, 8, queue_us, run_us, 0, queue_us + run_us, host.rif)


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of a policy in a fleet of so many hosts."""

    policy: str
    hosts: int
    pick_us: float
    decision_us: float
    p99_us: float
    """Of decisions."""
    looked_at: float
    """Hosts whose eligibility was asked for a decision, on average."""

    @property
    def is_over(self) -> bool:
        """Whether a decision costs more than the design allows."""
        return self.decision_us > BARS_US.get(self.hosts, float("inf"))


def measure(name: str, count: int, picks: int) -> Cost:
    """Time `picks` decisions of a policy."""
    bench = _Bench(make_policy(name, random.Random(SEED)), hosts_of(count))  # noqa: S311 - to repeat it
    bench.run(max(1000, 2 * IN_FLIGHT_EACH * count))  # fills the fleet, and what the policy keeps
    looked_at = bench.looked_at(1000)
    rounds = [bench.timed(ROUND_PICKS) for _ in range(max(1, picks // ROUND_PICKS))]
    pick_us, decision_us, p99_us = (min(figures) for figures in zip(*rounds, strict=True))
    return Cost(name, count, pick_us, decision_us, p99_us, looked_at)


class _Bench:
    """A policy at work on a fleet in a clock of its own: the oldest request in flight is answered at each new one."""

    def __init__(self, policy: Policy, hosts: tuple[Host, ...]) -> None:
        self.policy = policy
        self.hosts = hosts
        self.now_s = 100.0
        chance = random.Random(SEED)  # noqa: S311 - to repeat it
        self.shapes = [
            RequestShape(ModelName("m"), ModelVersion(""), 1024, f"session-{key}")
            for key in chance.choices(range(KEYS), k=KEYS)
        ]
        self.is_eligible = is_eligible
        self.in_flight: deque[Host] = deque()
        self.asked = 0
        self.pick_ns: list[int] = []
        self.decision_ns: list[int] = []

    def run(self, picks: int) -> None:
        """Make decisions, and keep what each part of them took."""
        policy, hosts, is_ok, told = self.policy, self.hosts, self.is_eligible, self._told
        shapes, in_flight = self.shapes, self.in_flight
        for index in range(picks):
            self.now_s = now_s = self.now_s + GAP_S
            shape = shapes[index % KEYS]
            began = perf_counter_ns()
            host = policy.pick(hosts, is_ok, shape, now_s)
            picked = perf_counter_ns()
            assert host is not None  # noqa: S101 - a benchmark of nothing is none
            host.rif += 1
            sent = perf_counter_ns()
            policy.sent(host, now_s)
            asked = policy.probes(hosts, is_ok, now_s)
            done = perf_counter_ns()
            decision = picked - began + done - sent
            in_flight.append(host)
            for probed in asked:
                decision += told(probed)
            if len(in_flight) > IN_FLIGHT_EACH * len(hosts):
                answered = in_flight.popleft()
                answered.rif -= 1
                peak_ewma.observe(answered, answered.service_s(), now_s)
                decision += told(answered)
            self.pick_ns.append(picked - began)
            self.decision_ns.append(decision)

    def _told(self, host: Host) -> int:
        host.told(load_of(host), self.now_s)
        began = perf_counter_ns()
        self.policy.told(host, self.now_s)
        return perf_counter_ns() - began

    def looked_at(self, picks: int) -> float:
        """Return of how many hosts a decision asks whether they are eligible."""
        asked = 0

        def counted(host: Host) -> bool:
            nonlocal asked
            asked += 1
            return is_eligible(host)

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
        | {"bar_us": BARS_US.get(cost.hosts)}
        for cost in costs
    ]
    console.print(
        f"kept in {keep('deciding', {'seed': SEED, 'picks': options.picks, 'costs': rows})}"
    )
    over = [cost for cost in costs if cost.is_over]
    for cost in over:
        console.print(
            f"[red]{cost.policy} takes {cost.decision_us:.1f} us at {cost.hosts:,} hosts: "
            f"at most {BARS_US[cost.hosts]:.0f} are allowed"
        )
    return 1 if over else 0


def _shown(cost: Cost) -> tuple[str, ...]:
    bar_us = BARS_US.get(cost.hosts)
    style = "red" if cost.is_over else "bold"
    return (
        cost.policy,
        f"{cost.hosts:,}",
        f"[{style}]{cost.decision_us:.1f}[/]",
        f"{bar_us:.0f}" if bar_us else "",
        f"{cost.p99_us:.1f}",
        f"{cost.pick_us:.1f}",
        f"{cost.looked_at:.1f}",
    )


if __name__ == "__main__":
    sys.exit(main())
