"""Tells what a batch job costs the people who share its node, and what it gets of what they leave, in virtual time.

    python benchmarks/bulk_node.py

One device runs the node's own batcher (`DynamicBatcher`); a run takes what a profile says. People ask for one row each, at random
times; a job keeps as many batches in flight as a router lets in (`bulk_share`). Printed for each profile and load, beside the
same people without the job: the 99th percentile and the median of their latency at the node, the job's rows a second as a part of
the best batches' rate that people leave, and alone as a part of that rate; and how long the device is idle without the job.
Nothing is measured by a clock, so a busy machine prints the same. The profiles are made up: a device on which a batch saves
little (a CPU with a transformer), one on which it saves half, one on which it saves nearly all (a GPU), and a tiny model.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from capamesh.node.repository.rules import Rules
from capamesh.node.scheduling import Batch, BatchPlan, DynamicBatcher, PendingRequest, Result, slots
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec
from capamesh.router.admission.bulk_share import bulk_share

ROWS = 60_000
"""The rows of the best batches in whose time one device is looked at: people ask for a quarter of that, or half."""
WAY_S = 0.000_5
"""Seconds from the router to the node, and back (guess: one machine)."""
OUTPUT = "y"


@dataclass(frozen=True)
class Device:
    """The time of a run: so much, and so much for each row."""

    name: str
    run_s: float
    row_s: float
    batch_rows: int

    def seconds(self, rows: int) -> float:
        """Return the time of a run of so many rows."""
        return self.run_s + self.row_s * rows

    @property
    def best_per_s(self) -> float:
        """The rows a second in the best batches."""
        return self.batch_rows / self.seconds(self.batch_rows)

    @property
    def looked_s(self) -> float:
        """Return for how long it is looked at."""
        return ROWS / self.best_per_s

    @property
    def profile(self) -> ServiceProfile:
        """The profile that the node measured."""
        return ServiceProfile(
            tuple(ProfilePoint(rows, self.seconds(rows)) for rows in (1, self.batch_rows))
        )


DEVICES = (
    Device("CPU, transformer", 0.002, 0.003, 32),
    Device("CPU, half saved", 0.004, 0.001_5, 32),
    Device("GPU", 0.005, 0.000_1, 64),
    Device("tiny", 0.000_05, 0.000_002, 256),
)


@dataclass
class World:
    """One node, its people and its job."""

    device: Device
    load: float
    """The rows of people a second, as a part of the best batches' rate."""
    has_job: bool
    now_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list[float])
    job_rows: int = 0
    busy_s: float = 0.0
    refused: int = 0

    def __post_init__(self) -> None:
        """Make the node."""
        device = self.device
        plan = BatchPlan(
            (TensorSpec("x", Datatype.FP32, (-1, 1)),),
            (TensorSpec(OUTPUT, Datatype.FP32, (-1, 1)),),
            is_batching=True,
            batch_rows=device.batch_rows,
        )
        self._batcher = DynamicBatcher(plan, Rules(), device.profile, max_in_flight=100_000)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ahead: deque[Batch] = deque()
        self._running: Batch | None = None
        self._job_rows = 0

    def run(self) -> World:
        """Run it, and return it."""
        rng = random.Random(1)  # noqa: S311 - of a simulation
        per_s, at_s = self.load * self.device.best_per_s, 0.0
        end_s = self.device.looked_s
        while per_s and (at_s := at_s + rng.expovariate(per_s)) < end_s:
            self._after(at_s, lambda came_s=at_s: self._person(came_s))
        if self.has_job:
            self._after(0.0, self._feed)
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
        except CapameshError:
            self.refused += 1
        self._pump()

    def _person(self, came_s: float) -> None:
        def done(_: PendingRequest, result: Result) -> None:
            if not isinstance(result, CapameshError):
                self.latencies_s.append(self.now_s - came_s)

        self._submit(1, done, is_bulk=False)

    def _feed(self) -> None:
        """Send calls of the best batch's rows while there is room for jobs, as a router does by the newest report."""
        load = self._batcher.load_report(free_bytes=0, device_in_flight=0)
        rows = self.device.batch_rows
        while self._job_rows < bulk_share(load.limit_rows, rows):
            self._job_rows += rows
            self._after(WAY_S, lambda: self._submit(rows, self._job_done, is_bulk=True))

    def _job_done(self, _: PendingRequest, result: Result) -> None:
        rows = self.device.batch_rows
        self.job_rows += 0 if isinstance(result, CapameshError) else rows

        def back() -> None:
            self._job_rows -= rows
            self._feed()

        self._after(WAY_S, back)

    def _pump(self) -> None:
        while True:
            if self._running is None:
                batch = self._ahead.popleft() if self._ahead else self._batcher.take(self.now_s)
                if batch is None:
                    return
                batch.started_s, batch.has_begun = self.now_s, True
                self._running = batch
                run_s = self.device.seconds(batch.rows)
                self._after(run_s, lambda it=batch, took_s=run_s: self._ended(it, took_s))
            ahead = self._batcher.take(self.now_s, is_ahead=True)
            if ahead is None:
                return
            self._ahead.append(ahead)

    def _ended(self, batch: Batch, run_s: float) -> None:
        self._running = None
        self.busy_s += run_s
        results = [
            [Tensor(OUTPUT, Datatype.FP32, (request.rows, 1), bytes(4 * request.rows))]
            for request in batch.requests
        ]
        self._batcher.finished(batch, results, self.now_s, run_s=run_s)
        self._pump()


def main() -> None:
    """Print a line for each device and load."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--times", type=float, nargs="*", default=[slots.BULK_TIMES])
    arguments = parser.parse_args()
    for device in DEVICES:
        alone = World(device, 0.0, has_job=True).run()
        part = alone.job_rows / ROWS
        print(f"{device.name}: a job alone gets {part:.3f} of the best batches' rate")
        for load, times in itertools.product((0.25, 0.5), arguments.times):
            slots.BULK_TIMES = times  # type: ignore[misc]  # what this looks for
            calm, shared = (World(device, load, has_job=has_job).run() for has_job in (False, True))
            left = (1.0 - load) * ROWS
            idle = 1.0 - calm.busy_s / device.looked_s
            before, after = sorted(calm.latencies_s), sorted(shared.latencies_s)
            ratios = [
                after[int(q * len(after))] / before[int(q * len(before))] for q in (0.99, 0.5)
            ]
            print(
                f"  load {load:.2f}, bulk rows {times:g} times a row: p99 x{ratios[0]:.2f}"
                f" (of {before[int(0.99 * len(before))] * 1e3:.2f} ms), median x{ratios[1]:.2f},"
                f" the job gets {shared.job_rows / left:.2f} of the rest (idle {idle:.2f} without it), {shared.refused} refused"
            )


if __name__ == "__main__":
    main()
