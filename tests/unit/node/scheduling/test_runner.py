from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import fp32
from patience import LIMIT_S, until
from worker_fakes import LONG, SHORT, FakeClock, FakeModel, FakeSwitch, engine_of

from capamesh.node.contract.verdict import Verdict
from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.devices.in_flight_page import InFlightPage, Marked, Phase
from capamesh.node.devices.request_digest import request_digest
from capamesh.node.scheduling import PendingRequest, Result, Streams, Suspicion
from capamesh.node.scheduling import runner as runner_module
from capamesh.node.scheduling.runner import (
    BACKGROUND_TIMES,
    BATCH_DOUBTS,
    SHORT_S,
    STOP_GRACE_S,
    TURN_S,
    ModelRunner,
)
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import (
    InvalidRequest,
    RunFailed,
)

HERE, THREADS = SHORT, LONG
WATCHDOG_S = 60.0


class Rig:
    """A runner with its model, its clock and the answers in the order they came."""

    def __init__(self, *, page: Path | None = None, **batcher: Any) -> None:
        self.clock = FakeClock()
        self.model = FakeModel()
        self.stream = FakeModel()
        self.page = InFlightPage.create(page) if page is not None else None
        self.marks = InFlightJournal(self.page)
        self.stuck: list[str] = []
        made = engine_of(self.model, **batcher)
        self.runner = ModelRunner(
            self.model,
            made,
            bounds=made.bounds,
            stream=self.stream if "streams" in batcher else None,
            may_run_here=True,
            clock=self.clock,
            switch=FakeSwitch,
            marks=self.marks,
            number=self.marks.number("m", "1", ""),
            watchdog_s=WATCHDOG_S,
            on_stuck=self.stuck.append,
        )
        self.names: dict[PendingRequest, float] = {}
        self.answers: dict[float, Result] = {}
        self.complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.complaints.append(context.get("exception"))
        )

    def submit(self, name: float, *, is_bulk: bool = False) -> PendingRequest:
        """Ask with a row that starts with `name`, by which its answer is kept."""
        row = (fp32("x", [name, 0.0]),)
        request = PendingRequest(row, (), self._done, arrived_s=self.clock.now_s, is_bulk=is_bulk)
        self.names[request] = name
        self.runner.submit(request)
        return request

    def _done(self, request: PendingRequest, result: Result) -> None:
        name = self.names[request]
        assert name not in self.answers
        self.answers[name] = result

    def submit_all(self, *names: float) -> list[PendingRequest]:
        return [self.submit(name) for name in names]

    async def run(self, *names: float) -> None:
        """Ask all in one turn of the loop, and wait until nothing runs."""
        self.submit_all(*names)
        await self.idle()

    def refuse(self, error: BaseException, is_refused: Callable[[list[float]], bool]) -> None:
        """Have the model raise `error` at such rows."""

        def act(values: list[float]) -> None:
            if is_refused(values):
                raise error

        self.model.act = act

    def marked(self) -> list[Marked]:
        """Return a list to which each run adds what is marked while it goes on."""
        seen: list[Marked] = []
        self.model.act = lambda _: seen.extend(self.page.marked())
        return seen

    async def hold(self, *names: float) -> None:
        """Ask, and wait until that runs; it goes on when the gate is opened."""
        self.model.gate.clear()
        self.submit_all(*names)
        await asyncio.to_thread(self.model.wait_started)

    def tick(self, now_s: float) -> str:
        """Let the runner's timer fire at `now_s`; return why the process is stuck, or ""."""
        self.clock.now_s = now_s
        self.stuck.clear()
        self.runner._tick()
        return "".join(self.stuck)

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

    def failure(self, name: float) -> str:
        """Take the answer that is a failed run; return why it failed."""
        failed = self.answers.pop(name)
        assert isinstance(failed, RunFailed)
        return failed.message


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


@pytest.mark.parametrize(("more_s", "is_here"), [(0.0, True), (1e-9, False)])
async def test_predicted_time_says_where_it_runs(make: Make, more_s: float, is_here: bool) -> None:
    profile = ServiceProfile((ProfilePoint(1, 1e-6), ProfilePoint(2, SHORT_S + more_s)))
    rig = make(profile=profile)
    await rig.run(1, 2)
    assert rig.model.ran == [[1, 2]]
    assert (rig.model.threads == [threading.current_thread()]) is is_here


async def test_many_short_runs_give_others_in_the_loop_their_turn(make: Make) -> None:
    rig = make(profile=HERE, batch_rows=0)
    order: list[object] = []

    def act(values: list[float]) -> None:
        rig.clock.now_s += 0.6 * TURN_S
        order.extend(values)

    rig.model.act = act
    rig.submit_all(1, 2, 3, 4, 5)
    asyncio.get_running_loop().call_soon(order.append, "another's turn")
    await rig.idle()
    assert order == [1, 2, "another's turn", 3, 4, 5]
    rig.doubled(1, 2, 3, 4, 5)


async def test_many_requests_run_on_one_thread_each_and_a_lone_one_on_all(make: Make) -> None:
    rig = make(profile=THREADS, batch_rows=4, streams=Streams(2, THREADS, 4))
    await rig.run(1, 2, 3, 4)
    assert sorted(rig.stream.ran) == [[1, 2], [3, 4]]
    assert rig.model.ran == []
    for name in (5, 6, 7):  # one alone may be the first of many that come back
        await rig.run(name)
    assert rig.stream.ran[2:] == [[5], [6]]
    assert rig.model.ran == [[7]]
    assert len(rig.runner._threads) == 2
    rig.doubled(1, 2, 3, 4, 5, 6, 7)


async def test_bulk_runs_in_threads_that_give_way(
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
    await until(lambda: len(gave_way) == 2, "a thread has not given way")
    assert set(ran_in) <= set(gave_way)
    rig.submit(4)
    await rig.idle()
    assert not set(ran_in[-1:]) - set(gave_way) or rig.model.ran == [[4]]


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
    make: Make, monkeypatch: pytest.MonkeyPatch, had_s: float, passed_s: float, is_stopped: bool
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


# what fails


@both_ways
async def test_bad_request_of_a_batch_fails_alone(make: Make, profile: ServiceProfile) -> None:
    rig = make(profile=profile)
    refusal = InvalidRequest("2 is odd")
    rig.refuse(refusal, lambda values: 2 in values)
    await rig.run(1, 2, 3)
    assert rig.model.ran == [[1, 2, 3], [1], [2], [3]]
    assert rig.answers.pop(2) is refusal
    rig.doubled(1, 3)
    assert rig.runner.scheduler.plan.is_batching


@both_ways
async def test_model_whose_batches_fail_is_unbatched(make: Make, profile: ServiceProfile) -> None:
    rig = make(profile=profile)
    rig.refuse(RunFailed("two at once"), lambda values: len(values) > 1)
    for turn in range(BATCH_DOUBTS):
        assert rig.runner.scheduler.plan.is_batching
        await rig.run(2 * turn, 2 * turn + 1)
    assert not rig.runner.scheduler.plan.is_batching
    del rig.model.ran[:]
    await rig.run(10, 11)
    assert rig.model.ran == [[10], [11]]
    rig.doubled(*range(2 * BATCH_DOUBTS), 10, 11)


@both_ways
async def test_listener_that_fails_harms_no_other(make: Make, profile: ServiceProfile) -> None:
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


# the watchdog


async def test_run_over_the_watchdog_s_limit_is_failed_and_stopped(make: Make) -> None:
    rig = make(profile=THREADS)
    await rig.hold(1, 2)
    rig.submit(3)
    assert rig.tick(100 + WATCHDOG_S) == ""
    assert rig.answers == {}
    assert rig.tick(100.5 + WATCHDOG_S) == ""
    for name in (1, 2):
        assert rig.failure(name) == "the run took more than the 60 s that this node allows one"
    assert [switch and switch.is_used for switch in rig.model.switches] == [True]
    await rig.idle()
    assert rig.model.ran == [[1, 2], [3]]
    rig.doubled(3)
    assert rig.tick(1000) == ""
    assert rig.runner._handed == {}


async def test_run_that_does_not_stop_is_stuck_after_a_grace(make: Make, tmp_path: Path) -> None:
    rig = make(profile=THREADS, page=tmp_path / "page")
    rig.model.is_deaf = True
    await rig.hold(1)
    beside = rig.marks.number("other", "1", "")
    rig.marks.begin(beside, Phase.RUNNING)
    reported_s = 101 + WATCHDOG_S
    assert rig.tick(reported_s) == ""
    assert rig.failure(1)
    assert rig.tick(reported_s + STOP_GRACE_S) == ""
    assert rig.tick(reported_s + STOP_GRACE_S + 0.5) == (
        "a run has taken 63.5 s and does not stop; the limit is 60 s"
    )
    request = request_digest([fp32("x", [1.0, 0.0])]).hex()
    cause = Marked("m", "1", Phase.RUNNING, request=request)
    assert rig.page.marked() == [cause]  # it alone
    await rig.idle()
    assert rig.tick(1000) == ""


# its end


@both_ways
async def test_run_is_marked_while_it_goes_on(
    make: Make, profile: ServiceProfile, tmp_path: Path
) -> None:
    rig = make(profile=profile, page=tmp_path / "page")
    seen = rig.marked()
    await rig.run(1)
    request = request_digest([fp32("x", [1.0, 0.0])]).hex() if profile is THREADS else ""
    assert seen == [Marked("m", "1", Phase.RUNNING, request=request)]
    assert rig.page.marked() == []


# a full batch that waits ready made


# which request is to blame


async def test_requests_of_a_suspected_model_run_one_by_one(make: Make, tmp_path: Path) -> None:
    digests = [request_digest([fp32("x", [name, 0.0])]).hex() for name in (0.0, 1.0, 2.0)]
    verdict = Verdict("m", "1", "", "", suspects=(digests[1],), alone_s=60.0)
    suspicion = Suspicion(verdict, now_s=100.0)
    rig = make(page=tmp_path / "page", profile=HERE, suspicion=suspicion)
    seen = rig.marked()
    await rig.hold(0.0)
    await rig.run(1.0, 2.0)
    assert [each.request for each in seen] == digests
    assert rig.model.ran == [[0.0], [1.0], [2.0]]
    rig.doubled(0.0, 1.0, 2.0)
    assert suspicion.survived() == ((digests[1],), 0)
    rig.clock.now_s += 60.0
    await rig.run(4.0)
    assert rig.model.threads[-1] is threading.main_thread()  # as before


@both_ways
async def test_bulk_run_is_marked_as_one(
    make: Make, profile: ServiceProfile, tmp_path: Path
) -> None:
    rig = make(profile=profile, page=tmp_path / "page")
    seen = rig.marked()
    rig.submit(1.0, is_bulk=True)
    await rig.idle()
    rig.submit(3.0, is_bulk=True)
    await rig.run(2.0)
    await rig.run(4.0)
    assert sorted(map(len, rig.model.ran)) == [1, 1, 2]
    assert [each.phase for each in seen] == [Phase.BULK, Phase.BULK, Phase.RUNNING]
