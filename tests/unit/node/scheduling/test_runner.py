from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import fp32
from patience import eventually
from worker_fakes import LIMIT_S, LONG, SHORT, FakeClock, FakeModel, FakeSwitch, engine_of

from capamesh.node.contract.verdict import Verdict
from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.devices.in_flight_page import InFlightPage, Marked, Phase
from capamesh.node.devices.request_digest import request_digest
from capamesh.node.scheduling import PendingRequest, Result, Streams, Suspicion
from capamesh.node.scheduling import runner as runner_module
from capamesh.node.scheduling.runner import (
    BACKGROUND_TIMES,
    BATCH_DOUBTS,
    BEAT_S,
    SHORT_S,
    STALL_S,
    STOP_GRACE_S,
    TURN_S,
    ModelRunner,
)
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    RunFailed,
)

HERE, THREADS = SHORT, LONG
WATCHDOG_S = 60.0


class Rig:
    """A runner with its model, its clock and the answers in the order they came."""

    def __init__(
        self,
        *,
        may_run_here: bool = True,
        marks: InFlightJournal | None = None,
        watchdog_s: float = WATCHDOG_S,
        **batcher: Any,
    ) -> None:
        self.clock = FakeClock()
        self.model = FakeModel()
        self.stream = FakeModel()
        self.marks = marks or InFlightJournal(None)
        self.stuck: list[str] = []
        made = engine_of(self.model, **batcher)
        self.runner = ModelRunner(
            self.model,
            made,
            bounds=made.bounds,
            stream=self.stream if "streams" in batcher else None,
            may_run_here=may_run_here,
            clock=self.clock,
            switch=FakeSwitch,
            marks=self.marks,
            number=self.marks.number("m", "1", ""),
            watchdog_s=watchdog_s,
            on_stuck=self.stuck.append,
        )
        self.names: dict[PendingRequest, float] = {}
        self.answers: dict[float, Result] = {}
        self._answered = asyncio.Event()
        self.complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.complaints.append(context.get("exception"))
        )

    def submit(
        self,
        name: float,
        *,
        left_s: float | None = None,
        is_bulk: bool = False,
        is_alone: bool = False,
    ) -> PendingRequest:
        """Ask with a row that starts with `name`, by which its answer is kept."""
        request = PendingRequest(
            (fp32("x", [name, 0.0]),),
            (),
            self._done,
            arrived_s=self.clock.now_s,
            deadline_s=None if left_s is None else self.clock.now_s + left_s,
            is_bulk=is_bulk,
            is_alone=is_alone,
        )
        self.names[request] = name
        self.runner.submit(request)
        return request

    def _done(self, request: PendingRequest, result: Result) -> None:
        name = self.names[request]
        assert name not in self.answers
        self.answers[name] = result
        self._answered.set()

    async def hold(self, name: float = 0.0) -> PendingRequest:
        """Ask, and wait until that runs; it goes on when the gate is opened."""
        self.model.gate.clear()
        request = self.submit(name)
        await self.started()
        return request

    def tick(self, now_s: float) -> str:
        """Let the runner's timer fire at `now_s`; return why the process is stuck, or ""."""
        self.clock.now_s = now_s
        self.stuck.clear()
        self.runner._tick()
        return "".join(self.stuck)

    async def started(self) -> None:
        await asyncio.to_thread(self.model.wait_started)

    async def answered(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while len(self.answers) < count:
                self._answered.clear()
                await self._answered.wait()

    async def idle(self) -> None:
        self.model.gate.set()
        async with asyncio.timeout(LIMIT_S):
            await self.runner.wait_idle()
        assert self.runner.scheduler.is_idle

    def close(self) -> None:
        self.model.gate.set()
        self.runner.close()
        for thread in self.runner._threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()

    def doubled(self, *names: float) -> None:
        """Check that these, and no others, have been answered with their own rows doubled."""
        assert self.answers == {name: [fp32("y", [2 * name, 0.0])] for name in names}

    def codes(self) -> dict[float, str]:
        return {
            name: answer.code if isinstance(answer, CapameshError) else "ok"
            for name, answer in self.answers.items()
        }


Make = Callable[..., Rig]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """A function that makes rigs, whose threads must all have ended when the test has."""
    rigs: list[Rig] = []

    def made(**how: Any) -> Rig:
        rigs.append(Rig(**how))
        return rigs[-1]

    yield made
    for rig in rigs:
        rig.close()


both_ways = pytest.mark.parametrize("profile", [HERE, THREADS], ids=["here", "in threads"])


@both_ways
async def test_requests_of_one_turn_of_the_loop_run_together(
    make: Make, profile: ServiceProfile
) -> None:
    rig = make(profile=profile)
    for name in (1, 2, 3):
        rig.submit(name)
    assert rig.model.ran == []
    await rig.idle()
    assert rig.model.ran == [[1, 2, 3]]
    rig.doubled(1, 2, 3)


async def test_long_run_leaves_the_loop_free(make: Make) -> None:
    rig = make(profile=THREADS)
    await rig.hold(1)
    assert rig.answers == {}
    rig.submit(2)
    await rig.idle()
    assert rig.model.ran == [[1], [2]]
    assert len(set(rig.model.threads)) == 1
    assert threading.current_thread() not in rig.model.threads
    assert all(isinstance(switch, FakeSwitch) for switch in rig.model.switches)
    rig.doubled(1, 2)


@pytest.mark.parametrize(("more_s", "is_here"), [(0.0, True), (1e-9, False)])
async def test_predicted_time_of_a_run_decides_where_it_goes(
    make: Make, more_s: float, is_here: bool
) -> None:
    profile = ServiceProfile((ProfilePoint(1, 1e-6), ProfilePoint(2, SHORT_S + more_s)))
    rig = make(profile=profile)
    rig.submit(1)
    rig.submit(2)
    await rig.idle()
    assert rig.model.ran == [[1, 2]]
    assert (rig.model.threads == [threading.current_thread()]) is is_here


async def test_model_whose_rows_do_not_tell_its_time_always_runs_in_a_thread(make: Make) -> None:
    rig = make(profile=HERE, may_run_here=False)
    rig.submit(1)
    await rig.idle()
    assert rig.model.threads == rig.runner._threads


async def test_many_short_runs_give_others_in_the_loop_their_turn(make: Make) -> None:
    rig = make(profile=HERE, batch_rows=0)
    order: list[object] = []

    def act(values: list[float]) -> None:
        rig.clock.now_s += 0.6 * TURN_S
        order.extend(values)

    rig.model.act = act
    for name in range(1, 6):
        rig.submit(name)
    asyncio.get_running_loop().call_soon(order.append, "another's turn")
    await rig.idle()
    assert order == [1, 2, "another's turn", 3, 4, 5]
    rig.doubled(1, 2, 3, 4, 5)


async def test_many_requests_run_on_the_model_of_one_thread_and_a_lone_one_on_that_of_all(
    make: Make,
) -> None:
    rig = make(profile=THREADS, batch_rows=4, streams=Streams(2, THREADS, 4))
    for name in (1, 2, 3, 4):
        rig.submit(name)
    await rig.idle()
    assert sorted(rig.stream.ran) == [[1, 2], [3, 4]]
    assert rig.model.ran == []
    for name in (5, 6, 7):  # one alone may be the first of many that come back
        rig.submit(name)
        await rig.idle()
    assert rig.stream.ran[2:] == [[5], [6]]
    assert rig.model.ran == [[7]]
    assert len(rig.runner._threads) == 2
    rig.doubled(1, 2, 3, 4, 5, 6, 7)


async def test_bulk_requests_run_in_threads_that_give_way(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gave_way: list[int] = []
    monkeypatch.setattr(
        runner_module, "give_way", lambda: gave_way.append(threading.get_native_id())
    )
    rig = make(profile=THREADS, batch_rows=4, streams=Streams(2, THREADS, 4), has_background=True)
    ran_in: list[int] = []
    rig.stream.act = lambda _: ran_in.append(threading.get_native_id())
    for name in (1, 2, 3):
        rig.submit(name, is_bulk=True)
    await rig.idle()
    rig.doubled(1, 2, 3)
    assert rig.model.ran == []
    # the one that had nothing to run may be seen to begin later
    await eventually(lambda: len(gave_way) == 2, "a thread has not given way")
    assert set(ran_in) <= set(gave_way)
    rig.submit(4)
    await rig.idle()
    assert not set(ran_in[-1:]) - set(gave_way) or rig.model.ran == [[4]]


async def test_background_in_which_the_event_loop_came_late_rests(make: Make) -> None:
    rig = make(profile=THREADS, batch_rows=4, streams=Streams(2, THREADS, 4), has_background=True)
    slots = rig.runner.scheduler._slots
    rig.stream.gate.clear()
    rig.submit(1, is_bulk=True)
    await asyncio.sleep(0)
    assert rig.runner._beat_due_s == rig.clock.now_s + BEAT_S
    rig.clock.now_s += BEAT_S + 0.5 * STALL_S
    rig.runner._beat()
    assert slots.has_background
    rig.clock.now_s += BEAT_S + 1.5 * STALL_S
    rig.runner._beat()
    assert not slots.has_background
    rig.stream.gate.set()
    await rig.idle()


class FakeTime:
    """The time of the processor that a thread has had, as a test says."""

    had_s = 0.0

    def seconds(self) -> float:
        return self.had_s


@pytest.mark.parametrize(
    ("had_s", "passed_s", "is_stopped"),
    [
        (1.0, 2 * WATCHDOG_S, False),  # others had the cores
        (WATCHDOG_S + 1, 2 * WATCHDOG_S, True),
        (1.0, BACKGROUND_TIMES * WATCHDOG_S + 1, True),
    ],
)
async def test_run_in_the_background_is_stopped_by_the_time_that_it_had_a_core(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    had_s: float,
    passed_s: float,
    *,
    is_stopped: bool,
) -> None:
    monkeypatch.setattr(runner_module, "ThreadTime", FakeTime)
    monkeypatch.setattr(FakeTime, "had_s", had_s)
    rig = make(profile=THREADS, batch_rows=4, streams=Streams(2, THREADS, 4), has_background=True)
    rig.stream.gate.clear()
    rig.submit(1, is_bulk=True)
    while not rig.runner._times:
        await asyncio.sleep(0)
    assert rig.tick(rig.clock.now_s + passed_s) == ""
    assert bool(rig.answers) == is_stopped
    rig.stream.gate.set()
    await rig.idle()


async def test_request_waits_for_company_as_long_as_its_model_allows(make: Make) -> None:
    rig = make(profile=HERE, max_delay_us=1_000)
    rig.submit(1)
    await asyncio.sleep(0)
    rig.submit(2)
    await asyncio.sleep(0)
    assert rig.model.ran == []
    rig.clock.now_s += 0.001
    await rig.idle()
    assert rig.model.ran == [[1, 2]]


# what fails


@both_ways
async def test_one_bad_request_fails_alone_though_it_was_in_a_batch(
    make: Make, profile: ServiceProfile
) -> None:
    rig = make(profile=profile)
    refusal = InvalidRequest("2 is odd")

    def act(values: list[float]) -> None:
        if 2 in values:
            raise refusal

    rig.model.act = act
    for name in (1, 2, 3):
        rig.submit(name)
    await rig.idle()
    assert rig.model.ran == [[1, 2, 3], [1], [2], [3]]
    assert rig.answers.pop(2) is refusal
    rig.doubled(1, 3)
    assert rig.runner.scheduler.plan.is_batching


class Custom(BaseException):
    """Not even an `Exception`."""


@both_ways
@pytest.mark.parametrize(
    "error",
    [ValueError("no"), asyncio.CancelledError(), Custom("odd"), StopIteration()],
    ids=lambda error: type(error).__name__,
)
async def test_exception_of_a_model_fails_its_own_request_alone(
    make: Make, profile: ServiceProfile, error: BaseException
) -> None:
    rig = make(profile=profile, batch_rows=0)

    def act(values: list[float]) -> None:
        if values == [2]:
            raise error

    rig.model.act = act
    for name in (1, 2, 3):
        rig.submit(name)
    await rig.idle()
    failed = rig.answers.pop(2)
    assert isinstance(failed, RunFailed)
    assert failed.message == f"{type(error).__name__}: {error}"
    rig.doubled(1, 3)


async def test_outputs_that_cannot_be_divided_are_made_alone(make: Make) -> None:
    rig = make(profile=HERE)
    rig.model.act = lambda values: [fp32("y", [float(len(values)), 0.0])]
    rig.submit(1)
    rig.submit(2)
    await rig.idle()
    assert rig.model.ran == [[1, 2], [1], [2]]
    assert rig.answers == {1: [fp32("y", [1.0, 0.0])], 2: [fp32("y", [1.0, 0.0])]}


@both_ways
async def test_model_whose_batches_alone_fail_is_not_batched_any_more(
    make: Make, profile: ServiceProfile
) -> None:
    rig = make(profile=profile)

    def act(values: list[float]) -> None:
        if len(values) > 1:
            raise RunFailed(f"{len(values)} at once")

    rig.model.act = act
    for turn in range(BATCH_DOUBTS):
        assert rig.runner.scheduler.plan.is_batching
        rig.submit(2 * turn)
        rig.submit(2 * turn + 1)
        await rig.idle()
    assert not rig.runner.scheduler.plan.is_batching
    del rig.model.ran[:]
    rig.submit(10)
    rig.submit(11)
    await rig.idle()
    assert rig.model.ran == [[10], [11]]
    rig.doubled(*range(2 * BATCH_DOUBTS), 10, 11)


async def test_bad_request_is_no_reason_to_batch_no_more(make: Make) -> None:
    rig = make(profile=HERE)

    def act(values: list[float]) -> None:
        if min(values) < 0:
            raise InvalidRequest("below 0")

    rig.model.act = act
    for turn in range(1, 2 * BATCH_DOUBTS):
        rig.submit(turn)
        rig.submit(-turn)
        await rig.idle()
    assert rig.runner.scheduler.plan.is_batching
    assert set(rig.codes().values()) == {"ok", "invalid_request"}


async def test_batch_that_ran_as_one_says_how_long_batches_take(make: Make) -> None:
    rig = make(profile=ServiceProfile((ProfilePoint(1, 0.0001), ProfilePoint(2, 0.0002))))

    def act(_: list[float]) -> None:
        rig.clock.now_s += 0.0004

    rig.model.act = act
    rig.submit(1)
    rig.submit(2)
    await rig.idle()
    assert rig.runner.scheduler.time.slowdown == pytest.approx(1.1)  # a tenth of the way to twice


@both_ways
async def test_listener_that_fails_does_not_keep_others_from_their_results(
    make: Make, profile: ServiceProfile
) -> None:
    rig = make(profile=profile, batch_rows=0)
    error = ZeroDivisionError()

    def fail(request: PendingRequest, result: Result) -> None:
        raise error

    rig.submit(1)
    rig.submit(2).done = fail
    rig.submit(3)
    rig.submit(4).done = fail
    await rig.idle()
    rig.doubled(1, 3)
    assert rig.complaints == [error, error]
    rig.submit(5)
    await rig.idle()
    rig.doubled(1, 3, 5)


@both_ways
async def test_listener_may_submit_and_cancel(make: Make, profile: ServiceProfile) -> None:
    rig = make(profile=profile)

    def again(request: PendingRequest, result: Result) -> None:
        rig._done(request, result)
        rig.runner.cancel(beside)  # its answer is the next to be told
        rig.submit(4)

    first = rig.submit(1)
    first.done = again
    beside = rig.submit(2)
    rig.submit(3)
    await rig.idle()
    assert rig.model.ran == [[1, 2, 3], [4]]
    rig.doubled(1, 3, 4)


# what nobody waits for


async def test_cancelling_the_last_makes_a_runner_idle(make: Make) -> None:
    rig = make(profile=HERE)
    rig.runner.cancel(rig.submit(1))
    assert rig.runner.scheduler.is_idle
    await rig.idle()
    assert (rig.model.ran, rig.answers) == ([], {})


async def test_batch_is_stopped_once_nobody_waits_for_any_of_it(make: Make) -> None:
    rig = make(profile=THREADS)
    rig.model.gate.clear()
    requests = [rig.submit(name) for name in (1, 2)]
    await rig.started()
    (switch,) = rig.model.switches
    assert switch is not None
    rig.runner.cancel(requests[0])
    assert not switch.is_used
    rig.runner.cancel(requests[1])
    assert switch.is_used
    async with asyncio.timeout(LIMIT_S):
        await rig.runner.wait_idle()
    assert (rig.model.ran, rig.answers) == ([[1, 2]], {})
    assert rig.runner.scheduler.meter.requests == {"ok": 0, "cancelled": 2}


async def test_cancelled_request_is_not_run_again_after_its_batch_has_failed(make: Make) -> None:
    rig = make(profile=THREADS)

    def act(values: list[float]) -> None:
        if len(values) > 1:
            raise RunFailed("no")

    rig.model.act = act
    rig.model.gate.clear()
    requests = [rig.submit(name) for name in (1, 2, 3)]
    await rig.started()
    rig.runner.cancel(requests[1])
    await rig.idle()
    assert rig.model.ran == [[1, 2, 3], [1], [3]]
    rig.doubled(1, 3)


async def test_deadline_that_passes_while_another_run_goes_on_is_reported_by_a_tick(
    make: Make,
) -> None:
    rig = make(profile=THREADS)
    await rig.hold(1)
    rig.submit(2, left_s=0.25)
    rig.submit(3, left_s=1.0)
    assert rig.tick(100.2) == ""
    assert rig.answers == {}
    assert rig.tick(100.25) == ""
    expired = rig.answers.pop(2)
    assert isinstance(expired, DeadlineExceeded)
    assert expired.message == "the deadline passed before it ran"
    await rig.idle()
    assert rig.model.ran == [[1], [3]]
    rig.doubled(1, 3)


async def test_run_past_all_its_deadlines_is_stopped(make: Make) -> None:
    rig = make(profile=THREADS)
    rig.model.gate.clear()
    rig.submit(1, left_s=0.25)
    await rig.started()
    rig.tick(100.25)
    async with asyncio.timeout(LIMIT_S):
        await rig.runner.wait_idle()
    assert rig.codes() == {1: "deadline_exceeded"}
    assert [switch and switch.is_used for switch in rig.model.switches] == [True]


# the watchdog


async def test_run_over_the_watchdog_s_limit_is_failed_and_stopped(make: Make) -> None:
    rig = make(profile=THREADS)
    rig.model.gate.clear()
    rig.submit(1)
    rig.submit(2)
    await rig.started()
    rig.submit(3)
    assert rig.tick(100 + WATCHDOG_S) == ""
    assert rig.answers == {}
    assert rig.tick(100.5 + WATCHDOG_S) == ""
    for name in (1, 2):
        failed = rig.answers.pop(name)
        assert isinstance(failed, RunFailed)
        assert failed.message == "the run took more than the 60 s that this node allows one"
    assert [switch and switch.is_used for switch in rig.model.switches] == [True]
    await rig.idle()
    assert rig.model.ran == [[1, 2], [3]]
    rig.doubled(3)
    assert rig.tick(1000) == ""
    assert rig.runner._handed == {}


async def test_run_beside_one_that_takes_too_long_goes_on(make: Make) -> None:
    rig = make(profile=THREADS, instances=2, batch_rows=1)
    await rig.hold(1)
    rig.clock.now_s += WATCHDOG_S
    rig.submit(2)
    await rig.started()
    rig.clock.now_s += 1.0
    assert rig.tick(rig.clock.now_s) == ""
    assert rig.codes() == {1: "run_failed"}
    await rig.idle()
    assert rig.codes() == {1: "run_failed", 2: "ok"}


async def test_run_that_does_not_stop_is_reported_as_stuck_after_a_grace(
    make: Make, tmp_path: Path
) -> None:
    page = InFlightPage.create(tmp_path / "page")
    rig = make(profile=THREADS, marks=InFlightJournal(page))
    rig.model.is_deaf = True
    await rig.hold(1)
    beside = rig.marks.number("other", "1", "")
    rig.marks.begin(beside, Phase.RUNNING)
    reported_s = 101 + WATCHDOG_S
    assert rig.tick(reported_s) == ""
    assert rig.codes() == {1: "run_failed"}
    assert rig.tick(reported_s + STOP_GRACE_S) == ""
    assert rig.tick(reported_s + STOP_GRACE_S + 0.5) == (
        "a run has taken 63.5 s and does not stop; the limit is 60 s"
    )
    request = request_digest([fp32("x", [1.0, 0.0])]).hex()
    assert page.marked() == [  # it alone is the cause
        Marked("m", "1", Phase.RUNNING, request=request)
    ]
    await rig.idle()
    assert rig.tick(1000) == ""


# its end


async def test_closing_ends_the_threads_after_their_runs(make: Make) -> None:
    rig = make(profile=THREADS)
    await rig.hold(1)
    rig.runner.close()
    (thread,) = rig.runner._threads
    assert thread.is_alive()
    await rig.idle()
    await asyncio.to_thread(thread.join, LIMIT_S)
    assert not thread.is_alive()
    rig.doubled(1)


def test_run_that_outlives_the_event_loop_ends_its_thread_quietly() -> None:
    async def leave() -> Rig:
        rig = Rig(profile=THREADS)
        await rig.hold(1)
        return rig

    rig = asyncio.run(leave())
    rig.model.gate.set()
    (thread,) = rig.runner._threads
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert rig.answers == {}


async def test_runner_is_idle_when_nothing_runs_though_all_were_answered_before(
    make: Make,
) -> None:
    rig = make(profile=THREADS)
    rig.model.is_deaf = True
    rig.runner.cancel(await rig.hold(1))
    waiting = asyncio.ensure_future(rig.runner.wait_idle())
    await asyncio.sleep(0)
    assert not waiting.done()
    await rig.idle()
    await waiting
    assert (rig.model.ran, rig.answers) == ([[1]], {})


@both_ways
async def test_run_is_marked_while_it_goes_on(
    make: Make, profile: ServiceProfile, tmp_path: Path
) -> None:
    page = InFlightPage.create(tmp_path / "page")
    rig = make(profile=profile, marks=InFlightJournal(page))
    seen: list[list[Marked]] = []
    rig.model.act = lambda _: seen.append(page.marked())
    rig.submit(1)
    await rig.idle()
    request = request_digest([fp32("x", [1.0, 0.0])]).hex() if profile is THREADS else ""
    assert seen == [[Marked("m", "1", Phase.RUNNING, request=request)]]
    assert page.marked() == []


# a full batch that waits ready made


async def staged(make: Make, watchdog_s: float = WATCHDOG_S) -> Rig:
    """Return a rig with a run that is held and a full batch of two ready made behind it."""
    rig = make(may_run_here=False, batch_rows=2, watchdog_s=watchdog_s)
    await rig.hold(0.0)
    rig.submit(1.0, left_s=5.0)
    rig.submit(2.0)
    rig.runner.pump()
    running = sorted(batch.has_begun for batch in rig.runner.scheduler._requests.running)
    assert running == [False, True]
    return rig


async def test_full_batch_waits_ready_made_and_follows_at_once(make: Make) -> None:
    rig = await staged(make)
    assert rig.runner.scheduler.queued == 2  # it does not run yet
    await rig.idle()
    rig.doubled(0.0, 1.0, 2.0)
    assert rig.model.ran == [[0.0], [1.0, 2.0]]


async def test_batch_that_expires_while_it_is_ready_made_is_dropped_and_never_runs(
    make: Make,
) -> None:
    rig = await staged(make)
    rig.clock.now_s += 6.0
    assert rig.tick(rig.clock.now_s) == ""
    assert rig.codes() == {1.0: "deadline_exceeded"}
    assert rig.runner.scheduler.meter.dropped == {"expired": 1}
    await rig.idle()
    assert rig.model.ran == [[0.0], [2.0]]
    assert rig.runner.scheduler.meter.rows == 2


async def test_ready_made_batch_that_nobody_wants_is_skipped(make: Make) -> None:
    rig = await staged(make)
    for request in [request for request, name in rig.names.items() if name]:
        rig.runner.cancel(request)
    assert rig.runner.scheduler.meter.dropped == {"cancelled": 2}
    await rig.idle()
    assert rig.model.ran == [[0.0]]
    assert rig.runner.scheduler.meter.batches == 1


# which request is to blame


async def test_requests_that_run_together_are_not_reported(tmp_path: Path) -> None:
    page = InFlightPage.create(tmp_path / "page")
    rig = Rig(marks=InFlightJournal(page), profile=THREADS)
    await rig.hold()
    rig.submit(1.0)
    rig.submit(2.0)
    rig.model.gate.set()
    rig.model.act = lambda values: seen.append([each.request for each in page.marked()])
    seen: list[list[str]] = []
    await rig.answered(3)
    assert seen[-1] == [""]
    rig.close()


async def test_requests_of_a_suspected_model_run_one_by_one_in_threads_and_each_is_marked(
    tmp_path: Path,
) -> None:
    page = InFlightPage.create(tmp_path / "page")
    digests = [request_digest([fp32("x", [name, 0.0])]).hex() for name in (0.0, 1.0, 2.0)]
    verdict = Verdict("m", "1", "", "", suspects=(digests[1],), alone_s=60.0)
    suspicion = Suspicion(verdict, now_s=100.0)
    rig = Rig(marks=InFlightJournal(page), profile=HERE, suspicion=suspicion)
    seen: list[str] = []
    rig.model.act = lambda values: seen.extend(each.request for each in page.marked())
    await rig.hold()
    rig.submit(1.0)
    rig.submit(2.0)
    rig.model.gate.set()
    await rig.answered(3)
    assert seen == digests
    assert rig.model.ran == [[0.0], [1.0], [2.0]]
    rig.doubled(0.0, 1.0, 2.0)
    assert suspicion.survived() == ((digests[1],), 0)
    rig.clock.now_s += 60.0
    rig.submit(4.0)
    await rig.answered(4)
    assert rig.model.threads[-1] is threading.main_thread()  # as before
    rig.close()


@both_ways
async def test_run_with_bulk_requests_is_marked_as_one(
    make: Make, profile: ServiceProfile, tmp_path: Path
) -> None:
    page = InFlightPage.create(tmp_path / "page")
    rig = make(profile=profile, marks=InFlightJournal(page))
    seen: list[Phase] = []
    rig.model.act = lambda _: seen.extend(each.phase for each in page.marked())
    rig.submit(1.0, is_bulk=True)
    await rig.idle()
    rig.submit(2.0)
    rig.submit(3.0, is_bulk=True)
    await rig.idle()
    rig.submit(4.0)
    await rig.idle()
    assert (rig.model.ran, seen) == (
        [[1.0], [2.0, 3.0], [4.0]],
        [Phase.BULK, Phase.BULK, Phase.RUNNING],
    )


@both_ways
async def test_request_that_is_to_run_alone_is_always_marked_with_its_digest(
    make: Make, profile: ServiceProfile, tmp_path: Path
) -> None:
    page = InFlightPage.create(tmp_path / "page")
    rig = make(profile=profile, marks=InFlightJournal(page))
    seen: list[Marked] = []
    rig.model.act = lambda _: seen.extend(page.marked())
    rig.submit(1.0, is_bulk=True, is_alone=True)
    await rig.idle()
    request = request_digest([fp32("x", [1.0, 0.0])]).hex()
    assert seen == [Marked("m", "1", Phase.BULK, request=request)]
