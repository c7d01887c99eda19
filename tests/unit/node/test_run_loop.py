from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from fleet_fakes import fp32

from capamesh.node.worker.run_loop import SMOOTHING, Job, RunLoop
from capamesh.protocol.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.tensors import Tensor

Y = [fp32("y", [1.0, 2.0])]


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Model:
    """Runs what a test says and keeps the names it was given."""

    def __init__(self, act: Callable[[], object] = lambda: Y) -> None:
        self.act = act
        self.ran: list[str] = []
        self.started = threading.Event()

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> object:
        self.ran.append(outputs[0])
        self.started.set()
        return self.act()


class Gate(Model):
    """Holds each run until it is opened."""

    def __init__(self) -> None:
        self._gate = threading.Event()
        super().__init__(self._wait)

    def open(self) -> None:
        self._gate.set()

    def _wait(self) -> object:
        assert self._gate.wait(10)
        return Y


class Rig:
    """A run loop with its clock and what it reported, in order."""

    def __init__(self, max_queued: int) -> None:
        self.clock = Clock()
        self.loop = RunLoop(self.clock, max_queued)
        self.done: list[Job] = []

    def submit(self, model: Model, name: str, deadline_s: float | None = None) -> Job:
        job = Job(
            model,  # type: ignore[arg-type]
            [],
            [name],
            arrived_s=self.clock.now_s,
            deadline_s=deadline_s,
            done=self.done.append,
        )
        self.loop.submit(job)
        return job

    async def idle(self) -> None:
        async with asyncio.timeout(10):
            await self.loop.wait_idle()

    @property
    def names(self) -> list[str]:
        return [job.outputs[0] for job in self.done]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig(max_queued=4)
    yield rig
    rig.loop.close()
    rig.loop._thread.join(10)
    assert not rig.loop._thread.is_alive()


async def test_jobs_run_in_the_order_they_came_and_each_is_reported_once(rig: Rig) -> None:
    model = Model()
    for batch in range(50):
        for number in range(4):
            rig.submit(model, f"{batch}.{number}")
        assert rig.loop.in_flight == 4
        await rig.idle()
    expected = [f"{batch}.{number}" for batch in range(50) for number in range(4)]
    assert model.ran == rig.names == expected
    assert all(job.result is Y for job in rig.done)
    assert (rig.loop.in_flight, rig.loop.queued) == (0, 0)


async def test_more_than_the_limit_is_refused_and_changes_nothing(rig: Rig) -> None:
    gate = Gate()
    for name in "abcd":
        rig.submit(gate, name)
    with pytest.raises(Overloaded, match="4 requests are in flight at this worker"):
        rig.submit(gate, "e")
    assert rig.loop.in_flight == rig.loop.max_queued == 4
    gate.open()
    await rig.idle()
    assert rig.names == list("abcd")
    rig.submit(gate, "f")
    await rig.idle()
    assert gate.ran == list("abcdf")


async def test_queued_counts_what_has_not_started(rig: Rig) -> None:
    gate = Gate()
    rig.submit(gate, "a")
    await asyncio.to_thread(gate.started.wait, 10)
    rig.submit(gate, "b")
    rig.submit(gate, "c")
    assert (rig.loop.in_flight, rig.loop.queued) == (3, 2)
    gate.open()
    await rig.idle()


async def test_a_job_cancelled_while_it_waits_never_runs(rig: Rig) -> None:
    gate = Gate()
    rig.submit(gate, "a")
    rig.submit(gate, "b").is_cancelled = True
    rig.submit(gate, "c")
    gate.open()
    await rig.idle()
    assert gate.ran == ["a", "c"]
    assert rig.names == ["a", "b", "c"]
    assert isinstance(rig.done[1].result, Cancelled)


async def test_a_job_whose_deadline_has_come_never_runs(rig: Rig) -> None:
    gate, model = Gate(), Model()
    rig.submit(gate, "a")
    await asyncio.to_thread(gate.started.wait, 10)
    late = rig.submit(model, "late", deadline_s=100.25)
    just = rig.submit(model, "just", deadline_s=101.0)
    in_time = rig.submit(model, "in time", deadline_s=101.0001)
    rig.clock.now_s = 101.0
    gate.open()
    await rig.idle()
    assert model.ran == ["in time"]
    assert in_time.result is Y
    assert isinstance(late.result, DeadlineExceeded)
    assert late.result.message == "the deadline passed 0.750 s before the model was free"
    assert isinstance(just.result, DeadlineExceeded)


class Custom(BaseException):
    """Not even an `Exception`."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        MemoryError(),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        Custom("odd"),
        StopIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_model_raises_fails_its_own_job_alone(
    rig: Rig, error: BaseException
) -> None:
    def act() -> object:
        raise error

    rig.submit(Model(), "a")
    bad = rig.submit(Model(act), "b")
    rig.submit(Model(), "c")
    await rig.idle()
    assert rig.names == ["a", "b", "c"]
    assert isinstance(bad.result, RunFailed)
    assert bad.result.message == f"{type(error).__name__}: {error}"
    assert rig.done[2].result is Y


async def test_an_error_of_the_network_s_own_passes_as_it_is(rig: Rig) -> None:
    error = InvalidRequest("shapes do not fit each other")

    def act() -> object:
        raise error

    assert (job := rig.submit(Model(act), "a")).result is not error
    await rig.idle()
    assert job.result is error


async def test_a_listener_that_fails_does_not_keep_others_from_their_results(rig: Rig) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: complaints.append(context["exception"])
    )
    gate, error = Gate(), ZeroDivisionError()

    def fail(_: Job) -> None:
        raise error

    rig.submit(gate, "a")
    rig.submit(gate, "b").done = fail
    rig.submit(gate, "c")
    gate.open()
    await rig.idle()
    assert rig.names == ["a", "c"]
    assert complaints == [error]
    assert rig.loop.in_flight == 0


async def test_a_listener_may_submit_the_next_job(rig: Rig) -> None:
    model, names = Model(), iter("bcdefgh")

    def again(job: Job) -> None:
        rig.done.append(job)
        for name in itertools.islice(names, 1):
            rig.submit(model, name).done = again

    rig.submit(model, "a").done = again
    await rig.idle()
    assert rig.names == list("abcdefgh")


async def test_times_are_taken_around_the_run_and_smoothed_over_those_that_succeeded(
    rig: Rig,
) -> None:
    def slow() -> object:
        rig.clock.now_s += 0.5
        return Y

    def fails() -> object:
        rig.clock.now_s += 7.0
        raise ValueError

    job = rig.submit(Model(slow), "a")
    await rig.idle()
    assert (job.arrived_s, job.started_s, job.ended_s) == (100.0, 100.0, 100.5)
    assert rig.loop.run_s == pytest.approx(SMOOTHING * 0.5)
    rig.submit(Model(fails), "b")
    await rig.idle()
    assert rig.loop.run_s == pytest.approx(SMOOTHING * 0.5)


async def test_close_ends_the_thread_after_what_is_queued() -> None:
    rig, gate = Rig(4), Gate()
    rig.submit(gate, "a")
    rig.submit(gate, "b")
    rig.loop.close()
    gate.open()
    await rig.idle()
    await asyncio.to_thread(rig.loop._thread.join, 10)
    assert not rig.loop._thread.is_alive()
    assert rig.names == ["a", "b"]


def test_a_run_that_outlives_the_event_loop_ends_the_thread_quietly() -> None:
    gate = Gate()

    async def leave() -> threading.Thread:
        rig = Rig(4)
        rig.submit(gate, "a")
        return rig.loop._thread

    thread = asyncio.run(leave())
    gate.open()
    thread.join(10)
    assert not thread.is_alive()
