"""Tells what a batch job costs the people who share its node, and what it gets of what they leave, in virtual time.

    python benchmarks/bulk_node.py [--times 1.25 2] [--call-rows 0 1] [--calls 2 1]

One device runs the node's own batcher (`DynamicBatcher`); a run takes what a profile says. People ask for one row each, at random
times; a job sends calls as a router's lane does: as many as its pace and the node's room for jobs allow (`Lane`, `bulk_share`). Printed
for each profile and load, beside the same people without the job: the 99th percentile and the median of their latency at the node,
the job's rows a second as a part of the best batches' rate that people leave, and alone as a part of that rate; and how long the device
is idle without the job. A run in the background gets the cores that people's runs leave, at every moment.
Nothing is measured by a clock, so a busy machine prints the same. The profiles are made up, but for the
first three, which are MiniLM's on two cores: as its profile has it, and as it takes while a router and clients are on the same cores
and no two runs read its weights in step (both measured), without a background for bulk runs and with one; then devices on which a batch saves little, half, and nearly all, and a tiny model.

What is tuned: `--times` is how much longer a run may take for its bulk rows, `--call-rows` the rows of a call (0: the best batch), and
`--calls` the calls that late answers leave the node.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from typing_extensions import override

from capamesh.node.repository.rules import Rules
from capamesh.node.scheduling import (
    Batch,
    BatchPlan,
    DynamicBatcher,
    PendingRequest,
    Result,
    Streams,
    slots,
)
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec
from capamesh.router.admission.bulk_share import bulk_share
from capamesh.router.jobs.running import pace
from capamesh.router.jobs.running.lane import Lane, Ticket
from capamesh.router.jobs.running.nodes import Started
from capamesh.router.jobs.values import JobId

ROWS = 60_000
"""The rows of the best batches in whose time one device is looked at: people ask for a quarter of that, or half."""
WAY_S = 0.000_5
"""Seconds from the router to the node, and back (guess: one machine)."""
FIRST_S = 0.1
"""Seconds after the first request of people's at which a job begins."""
AGAIN_S = 0.05
"""Seconds until a router looks again whether there is room, where none of its calls is under way."""
TICK_S = 1e-9
"""A run in the background that takes no longer has ended: times are sums of many."""
OUTPUT = "y"
JOB = JobId("job")


@dataclass(frozen=True)
class Device:
    """The time of a run: so much, and so much for each row; `streams` runs beside one another take the second pair each."""

    name: str
    run_s: float
    row_s: float
    batch_rows: int
    streams: int = 1
    stream_run_s: float = 0.0
    stream_row_s: float = 0.0
    has_background: bool = False
    """True if bulk runs get what people's runs leave of the cores, by the system's own scheduler."""

    def seconds(self, rows: int, *, is_stream: bool = False) -> float:
        """Return the time of a run of so many rows."""
        if is_stream:
            return self.stream_run_s + self.stream_row_s * rows
        return self.run_s + self.row_s * rows

    @property
    def best_per_s(self) -> float:
        """The rows a second in the best batches."""
        rows = self.batch_rows
        if self.streams > 1:
            return self.streams * rows / self.seconds(rows, is_stream=True)
        return rows / self.seconds(rows)

    @property
    def looked_s(self) -> float:
        """Return for how long it is looked at."""
        return ROWS / self.best_per_s

    def profile(self, *, is_stream: bool = False) -> ServiceProfile:
        """Return the profile that the node measured."""
        points = [
            ProfilePoint(rows, self.seconds(rows, is_stream=is_stream))
            for rows in (1, self.batch_rows)
        ]
        return ServiceProfile(tuple(points))

    def batcher(self) -> DynamicBatcher:
        """Return the batcher of a node that has nothing but this."""
        plan = BatchPlan(
            (TensorSpec("x", Datatype.FP32, (-1, 1)),),
            (TensorSpec(OUTPUT, Datatype.FP32, (-1, 1)),),
            is_batching=True,
            batch_rows=self.batch_rows,
        )
        streams = None
        if self.streams > 1:
            streams = Streams(self.streams, self.profile(is_stream=True), self.batch_rows)
        return DynamicBatcher(
            plan,
            Rules(),
            self.profile(),
            max_in_flight=100_000,
            streams=streams,
            has_background=self.has_background,
        )


DEVICES = (
    Device("two cores, MiniLM", 0.001_2, 0.009_6, 4, 2, 0.000_4, 0.014),
    Device("two cores, MiniLM at work", 0.004, 0.006_2, 8, 2, 0.004_2, 0.010_8),
    Device("two cores, MiniLM at work, background", 0.004, 0.006_2, 8, 2, 0.004_2, 0.010_8, True),
    Device("CPU, transformer", 0.002, 0.003, 32),
    Device("CPU, half saved", 0.004, 0.001_5, 32),
    Device("GPU", 0.005, 0.000_1, 64),
    Device("tiny", 0.000_05, 0.000_002, 256),
)


class _AtNode(Started):
    """A call at the only node."""

    @property
    @override
    def place(self) -> str:
        return self.node

    @property
    @override
    def node(self) -> str:
        return "node"

    @override
    def cancel(self) -> None:
        raise AssertionError("no call is withdrawn here")


@dataclass
class World:
    """One node, its people and its job."""

    device: Device
    load: float
    """The rows of people a second, as a part of the best batches' rate."""
    has_job: bool
    call_rows: int = 0
    now_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list[float])
    job_rows: int = 0
    busy_s: float = 0.0
    refused: int = 0

    def __post_init__(self) -> None:
        """Make the node, and the lane of the job's calls."""
        self.call_rows = self.call_rows or self.device.batch_rows
        self._batcher = self.device.batcher()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ahead: deque[Batch] = deque()
        self._running = 0
        self._cores = 0
        """The cores that people's runs have."""
        self._left_s: dict[Batch, float] = {}
        """The time that each run in the background still takes on a core of its own."""
        self._behind_from_s = 0.0
        self._looks = 0
        self._lane = Lane()
        self._lane.pace.take_nodes(1)
        self._next: Ticket
        self._sent_rows = 0

    def run(self) -> World:
        """Run it, and return it."""
        rng = random.Random(1)  # noqa: S311 - of a simulation
        per_s, at_s = self.load * self.device.best_per_s, 0.0
        end_s = self.device.looked_s
        while per_s and (at_s := at_s + rng.expovariate(per_s)) < end_s:
            self._after(at_s, lambda came_s=at_s: self._person(came_s))
        if self.has_job:  # people are there when it begins
            self._after(FIRST_S if self.load else 0.0, self._feed)
        while self._events and self._events[0][0] < end_s:
            self.now_s, _, what = heapq.heappop(self._events)
            what()
        return self

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + seconds, next(self._order), what))

    def _submit(
        self, rows: int, done: Callable[[PendingRequest, Result], None], *, is_bulk: bool
    ) -> None:
        x = Tensor("x", Datatype.FP32, (rows, 1), bytes(4 * rows))
        request = PendingRequest((x,), (), done, arrived_s=self.now_s, is_bulk=is_bulk)
        try:
            self._batcher.submit(request, self.now_s)
        except CapameshError as error:
            self.refused += 1
            done(request, error)
        self._pump()

    def _person(self, came_s: float) -> None:
        def done(_: PendingRequest, result: Result) -> None:
            if not isinstance(result, CapameshError):
                self.latencies_s.append(self.now_s - came_s)

        self._submit(1, done, is_bulk=False)

    def _feed(self) -> None:
        """Send the job's calls for which there is room, as a router does by the newest report; one more always waits."""
        lane = self._lane
        while True:
            if not lane.waiting:
                self._next = lane.ask(JOB, self.call_rows, self._send)
            lane.pump(self._room, lambda _: None, self.now_s)
            if lane.waiting:
                break
        if not lane.in_flight:
            self._after(AGAIN_S, self._feed)

    def _room(self, rows: int) -> int:
        load = self._batcher.load_report(free_bytes=0, device_in_flight=0)
        share = bulk_share(load.limit_rows, self.device.batch_rows)
        return -(-max(0, int(share) - self._sent_rows) // rows)

    def _send(self) -> None:
        ticket = self._next
        ticket.sent(_AtNode())
        sent_s, rows = self.now_s, self.call_rows
        self._sent_rows += rows

        def done(request: PendingRequest, result: Result) -> None:
            queue_s, run_s = request.started_s - request.arrived_s, request.run_s
            is_answer = not isinstance(result, CapameshError)
            self.job_rows += rows if is_answer else 0

            def back() -> None:
                self._sent_rows -= rows
                if is_answer:
                    self._lane.answered(rows, self.now_s - sent_s, queue_s, run_s, self.now_s)
                else:
                    self._lane.refused(self.now_s)
                ticket.leave()
                self._feed()

            self._after(WAY_S, back)

        self._after(WAY_S, lambda: self._submit(rows, done, is_bulk=True))

    def _pump(self) -> None:
        while (batch := self._batcher.take(self.now_s)) is not None:
            self._begin(batch)
        while (batch := self._batcher.take_background(self.now_s)) is not None:
            self._left_s[batch] = self.device.seconds(batch.rows, is_stream=True)
        self._look_behind()
        ahead = self._batcher.take(self.now_s, is_ahead=True)
        if ahead is not None:
            self._ahead.append(ahead)

    def _look_behind(self) -> None:
        """Look again when the first run in the background ends, if the cores stay as free as they are."""
        self._behind_from_s = self.now_s
        self._looks += 1
        rate = self._rate()
        if rate:
            look = self._looks
            self._after(min(self._left_s.values()) / rate, lambda: self._ended_behind(look))

    def _rate(self) -> float:
        """Return how fast each run in the background goes on now, as a part of how fast it does alone."""
        free = self.device.streams - self._cores
        return min(1.0, free / len(self._left_s)) if self._left_s else 0.0

    def _progress(self) -> None:
        """Take in how far the runs in the background have come until now."""
        done_s = self._rate() * (self.now_s - self._behind_from_s)
        self._behind_from_s = self.now_s
        for batch in self._left_s:
            self._left_s[batch] -= done_s

    def _ended_behind(self, look: int) -> None:
        if look != self._looks:
            return  # others came meanwhile, and it was looked again
        self._progress()
        for batch in [batch for batch, left_s in self._left_s.items() if left_s <= TICK_S]:
            del self._left_s[batch]
            run_s = self.now_s - batch.started_s
            self._batcher.finished(batch, _results(batch), self.now_s, run_s=run_s)
        self._pump()

    def _begin(self, batch: Batch) -> None:
        batch.started_s, batch.has_begun = self.now_s, True
        self._running += 1
        self._progress()
        self._cores += 1 if batch.is_stream else self.device.streams
        run_s = self.device.seconds(batch.rows, is_stream=batch.is_stream)
        self._after(run_s, lambda: self._ended(batch, run_s))

    def _ended(self, batch: Batch, run_s: float) -> None:
        self._running -= 1
        self._progress()
        self._cores -= 1 if batch.is_stream else self.device.streams
        self.busy_s += run_s / (self.device.streams if batch.is_stream else 1)
        if self._ahead:
            self._begin(self._ahead.popleft())
        self._batcher.finished(batch, _results(batch), self.now_s, run_s=run_s)
        self._pump()


def _results(batch: Batch) -> list[list[Tensor]]:
    return [
        [Tensor(OUTPUT, Datatype.FP32, (request.rows, 1), bytes(4 * request.rows))]
        for request in batch.requests
    ]


def compared(device: Device, load: float, call_rows: int) -> str:
    """Return what a job costs people at one load, and what it gets."""
    calm, shared = (
        World(device, load, has_job=has_job, call_rows=call_rows).run() for has_job in (False, True)
    )
    left = (1.0 - load) * ROWS
    idle = 1.0 - calm.busy_s / device.looked_s
    before, after = sorted(calm.latencies_s), sorted(shared.latencies_s)
    ratios = [after[int(q * len(after))] / before[int(q * len(before))] for q in (0.99, 0.5)]
    return (
        f"p99 x{ratios[0]:.2f} (of {before[int(0.99 * len(before))] * 1e3:.2f} ms), median x{ratios[1]:.2f},"
        f" the job gets {shared.job_rows / left:.2f} of the rest (idle {idle:.2f} without it), {shared.refused} refused"
    )


def main() -> None:
    """Print a line for each device, load and way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--times", type=float, nargs="*", default=[slots.BULK_TIMES])
    parser.add_argument("--call-rows", type=int, nargs="*", default=[0])
    parser.add_argument("--calls", type=int, nargs="*", default=[pace.CALLS_A_NODE])
    parser.add_argument("--loads", type=float, nargs="*", default=[0.25, 0.5])
    parser.add_argument("--devices", default="", help="those that have this in their names")
    asked = parser.parse_args()
    for device in DEVICES:
        if asked.devices not in device.name:
            continue
        alone = World(device, 0.0, has_job=True).run()
        print(
            f"{device.name}: a job alone gets {alone.job_rows / ROWS:.3f} of the best batches' rate"
        )
        for load, *way in itertools.product(asked.loads, asked.times, asked.call_rows, asked.calls):
            times, call_rows, calls = way
            slots.BULK_TIMES, pace.CALLS_A_NODE = times, int(calls)  # type: ignore[misc]  # what this looks for
            shown = f"times {times:g}, {call_rows or 'best'} rows a call, {calls} calls"
            print(f"  load {load:.2f}, {shown}: {compared(device, load, int(call_rows))}")


if __name__ == "__main__":
    main()
