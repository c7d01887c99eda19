"""A fleet in virtual time, offered twice what it can do: what it still answers in time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from gates import Gate
from replicas import replica

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, LoadReport
from capamesh.router.admission.controller import Permit, Refusal
from capamesh.router.fleet.replica import Replica

WAY_S = 0.001
"""From a router to a node, and back."""


@dataclass(eq=False)
class Request:
    router: Router
    tenant: str
    priority: int
    bulk_rows: int
    deadline_s: float
    permit: Permit | None = None

    def release(self, now_s: float) -> None:
        assert self.permit is not None
        self.permit.release(now_s)


class Node:
    """Runs one request at a time, in the order in which they come, those of jobs last, for about `run_s`."""

    def __init__(self, world: World, run_s: float, limit: int) -> None:
        self.world = world
        self.run_s = run_s
        self.limit = limit
        self.queue: deque[Request] = deque()
        self.running: Request | None = None

    def load(self) -> LoadReport:
        is_busy = self.running is not None
        waiting = sum(not it.bulk_rows for it in self.queue)
        wait_s = (waiting + 0.5 * is_busy) * self.run_s
        return LoadReport(
            in_flight=len(self.queue) + is_busy,
            queued=len(self.queue),
            limit=self.limit,
            queue_us=int(wait_s * 1e6),
            run_us=int(self.run_s * 1e6),
        )

    def submit(self, request: Request) -> bool:
        if len(self.queue) + (self.running is not None) >= self.limit:
            return False
        self.queue.append(request)
        self.start()
        return True

    def start(self) -> None:
        while self.running is None and self.queue:
            request = min(self.queue, key=lambda it: it.bulk_rows)
            self.queue.remove(request)
            if request.deadline_s <= self.world.now_s:
                self.world.after(WAY_S, lambda it=request: it.router.ended(self, it, "expired"))
                continue
            self.running = request
            self.world.after(self.run_s * self.world.rng.uniform(0.6, 1.4), self.finish)

    def finish(self) -> None:
        request, self.running = self.running, None
        assert request is not None
        self.start()
        load = self.load()
        self.world.after(WAY_S, lambda: request.router.ended(self, request, "answered", load))


class Router:
    """Admits, sends to where an answer should be there first, and asks another when that one is full."""

    def __init__(
        self, world: World, nodes: list[Node], weights: dict[str, float] | None, *, is_gated: bool
    ) -> None:
        self.world = world
        self.nodes = nodes
        self.is_gated = is_gated
        self.replicas: tuple[Replica, ...] = tuple(
            replica(str(index)) for index in range(len(nodes))
        )
        self.controller = Gate(*self.replicas, weights=weights)

    def take(self, request: Request) -> None:
        world = self.world
        remaining_s = request.deadline_s - world.now_s
        try:
            request.permit = (
                self.controller.admit(
                    request.tenant, request.priority, request.bulk_rows, world.now_s, remaining_s
                )
                if self.is_gated
                else self.controller.enter(request.tenant, world.now_s)
            )
        except Overloaded as error:
            world.hints_s.append(error.retry_after_s)
            world.count(request, "not admitted")
            return
        self._send(request, set())

    def _send(self, request: Request, asked: set[int]) -> None:
        now_s = self.world.now_s
        index = min(
            set(range(len(self.replicas))) - asked,
            key=lambda at: (not self.replicas[at].health.may_send(now_s), self._expected_s(at)),
        )
        asked.add(index)
        self.replicas[index].rif += 1
        self.world.after(WAY_S, lambda: self._arrive(index, request, asked))

    def _expected_s(self, index: int) -> float:
        one = self.replicas[index]
        return max(one.rif, one.load.in_flight) * self.nodes[index].run_s

    def _arrive(self, index: int, request: Request, asked: set[int]) -> None:
        node = self.nodes[index]
        if not node.submit(request):
            retry_after_s = node.load().queue_us / 1e6
            self.world.after(WAY_S, lambda: self._refused(index, retry_after_s, request, asked))

    def _refused(self, index: int, retry_after_s: float, request: Request, asked: set[int]) -> None:
        now_s, one = self.world.now_s, self.replicas[index]
        one.rif -= 1
        one.health.refused(now_s, retry_after_s)
        self.controller.refused(one, retry_after_s, now_s)
        self.world.outcomes["asked in vain"] += 1
        if len(asked) < len(self.replicas):
            self._send(request, asked)
            return
        request.release(now_s)
        self.world.count(request, "refused")

    def ended(
        self, node: Node, request: Request, outcome: str, load: LoadReport | None = None
    ) -> None:
        now_s = self.world.now_s
        one = self.replicas[self.nodes.index(node)]
        one.rif -= 1
        if load is not None:
            one.reported(load, now_s)
        if outcome == "answered" and now_s > request.deadline_s:
            outcome = "late"
        request.release(now_s)
        self.world.count(request, outcome)


@dataclass
class World:
    rng: random.Random
    now_s: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    order: itertools.count[int] = field(default_factory=itertools.count)
    outcomes: Counter[str] = field(default_factory=Counter)
    good: int = 0
    hints_s: list[float] = field(default_factory=list)
    by_tenant: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_priority: Counter[tuple[int, str]] = field(default_factory=Counter)

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now_s + seconds, next(self.order), what))

    def count(self, request: Request, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self.good += outcome == "answered" and self.now_s <= SECONDS
        self.by_tenant[request.tenant, outcome] += 1
        self.by_priority[request.priority, outcome] += 1

    def run(self) -> None:
        while self.events:
            self.now_s, _, what = heapq.heappop(self.events)
            what()


@dataclass(frozen=True)
class Stream:
    """Requests of one kind, at random times."""

    per_s: float
    tenant: str = ""
    priority: int = DEFAULT_PRIORITY
    bulk_rows: int = 0


SECONDS = 4.0
RUNS_S = (0.01, 0.01, 0.02)
CAPACITY_PER_S = sum(1 / run_s for run_s in RUNS_S)


def simulate(
    *streams: Stream,
    limit: int = 32,
    allowed_s: float = 5.0,
    routers: int = 1,
    is_gated: bool = True,
    weights: dict[str, float] | None = None,
    seed: int = 1,
) -> tuple[World, list[Router]]:
    world = World(random.Random(seed))
    nodes = [Node(world, run_s, limit) for run_s in RUNS_S]
    all_routers = [Router(world, nodes, weights, is_gated=is_gated) for _ in range(routers)]
    supervisor = itertools.cycle(all_routers)
    for stream in streams:
        at_s = 0.0
        while (at_s := at_s + world.rng.expovariate(stream.per_s)) < SECONDS:
            request = Request(
                next(supervisor), stream.tenant, stream.priority, stream.bulk_rows, at_s + allowed_s
            )
            world.after(at_s, lambda it=request: it.router.take(it))
    world.run()
    assert all(0 < hint_s <= 30 for hint_s in world.hints_s)
    for router in all_routers:
        assert router.controller.under_way == 0
        assert all(one.rif == 0 for one in router.replicas)
    return world, all_routers


def goodput(world: World) -> float:
    """Answers in time, as a part of what the nodes can give; what is answered after the load ends is not counted."""
    return world.good / (CAPACITY_PER_S * SECONDS)


@pytest.mark.parametrize("routers", [1, 3])
@pytest.mark.parametrize(
    ("limit", "allowed_s"),
    [
        pytest.param(4, 5.0, id="few slots"),
        pytest.param(32, 5.0, id="many slots"),
        pytest.param(200, 0.3, id="a deadline before the slots are used up"),
        pytest.param(200, 0.1, id="a deadline after few runs"),
    ],
)
def test_goodput_at_twice_the_load_is_nine_tenths_of_what_the_nodes_can_do(
    routers: int, limit: int, allowed_s: float
) -> None:
    world, _ = simulate(
        Stream(2 * CAPACITY_PER_S), limit=limit, allowed_s=allowed_s, routers=routers
    )
    assert goodput(world) >= 0.9


@pytest.mark.parametrize(
    ("limit", "allowed_s"),
    [pytest.param(32, 5.0, id="slots"), pytest.param(200, 0.3, id="deadlines")],
)
def test_tenant_that_floods_is_refused_and_a_quiet_one_never(limit: int, allowed_s: float) -> None:
    world, (router,) = simulate(
        Stream(2 * CAPACITY_PER_S, "flood"),
        Stream(0.1 * CAPACITY_PER_S, "quiet"),
        limit=limit,
        allowed_s=allowed_s,
    )
    quiet = {outcome for tenant, outcome in world.by_tenant if tenant == "quiet"}
    assert quiet == {"answered"}
    assert (
        router.controller.refusals[Refusal.SHARE] > 0.9 * world.by_tenant["flood", "not admitted"]
    )
    assert goodput(world) >= 0.9


def test_bulk_takes_what_online_requests_leave_and_urgent_ones_are_not_refused() -> None:
    world, _ = simulate(
        Stream(0.8 * CAPACITY_PER_S), Stream(0.5 * CAPACITY_PER_S, priority=200, bulk_rows=1)
    )
    assert goodput(world) >= 0.95
    assert {outcome for priority, outcome in world.by_priority if priority == 128} == {"answered"}
    world, _ = simulate(Stream(2 * CAPACITY_PER_S), Stream(0.2 * CAPACITY_PER_S, priority=1))
    assert {outcome for priority, outcome in world.by_priority if priority == 1} == {"answered"}
