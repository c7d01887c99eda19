"""What a runner may rely on in every scheduler: the one of models of one run, and a small one of models that run in steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fleet_fakes import OUT, SPEC, fp32
from generative_fakes import Countdown, StepRunner, StepScheduler
from worker_fakes import FakeModel, engine_of

from capamesh.node.scheduling import Batch, BatchPlan, PendingRequest, Result, Scheduler
from capamesh.node.scheduling.pending_request import RequestState
from capamesh.protocol.errors import CapameshError, DeadlineExceeded, Overloaded, RunFailed
from capamesh.protocol.tensors import Tensor

PLAN = BatchPlan(SPEC, OUT)


class Desk:
    """A scheduler and what runs its batches, with the parts and the end of every request's answer."""

    def __init__(
        self,
        scheduler: Scheduler,
        run: Callable[[Batch], Sequence[Result | None]],
        free: Callable[[], None] = lambda: None,
    ) -> None:
        self.scheduler = scheduler
        self.now_s = 0.0
        self.parts: dict[PendingRequest, list[float]] = {}
        self.ends: dict[PendingRequest, object] = {}
        self._run = run
        self._free = free

    def submit(self, value: float, *, left_s: float | None = None) -> PendingRequest:
        request = PendingRequest(
            (fp32("x", [value, 0.0]),),
            (),
            self._done,
            arrived_s=self.now_s,
            deadline_s=None if left_s is None else self.now_s + left_s,
            on_part=self._part,
        )
        self.parts[request] = []
        self.scheduler.submit(request, self.now_s)
        return request

    def step(self) -> list[PendingRequest]:
        """Run one batch, if there is one; return its requests."""
        batch = self.scheduler.take(self.now_s)
        if batch is None:
            return []
        requests = list(batch.requests)
        self.now_s += 0.001
        self.scheduler.finished(batch, self._run(batch), self.now_s, run_s=0.001)
        self._free()
        return requests

    def run(self) -> None:
        """Run to the end."""
        while self.step():
            pass
        self._free()
        assert self.scheduler.is_idle

    def load(self) -> tuple[int, int]:
        return self.scheduler.load_report(free_bytes=0, device_in_flight=0)[:2]

    def _part(self, request: PendingRequest, outputs: Sequence[Tensor]) -> None:
        assert request not in self.ends
        self.parts[request].append(_value(outputs))

    def _done(self, request: PendingRequest, result: Result) -> None:
        assert request not in self.ends
        self.ends[request] = result if isinstance(result, CapameshError) else _value(result)


def _value(outputs: Sequence[Tensor]) -> float:
    return float(outputs[0].to_numpy()[0, 0])


def one_shot(max_in_flight: int = 100) -> Desk:
    """Return a desk whose model doubles its input."""
    model = FakeModel()

    def run(batch: Batch) -> Sequence[Result]:
        joined = batch.plan.join(batch.requests)
        return batch.plan.split(batch.requests, model.run(joined), joined)

    return Desk(engine_of(model, max_in_flight=max_in_flight), run)


def in_steps(max_in_flight: int = 100, model: Countdown | None = None) -> Desk:
    """Return a desk whose model counts down from its input."""
    model = model or Countdown()
    runner = StepRunner(model)
    return Desk(StepScheduler(PLAN, model.max_sequences, max_in_flight), runner.run, runner.free)


both: Any = pytest.mark.parametrize("make", [one_shot, in_steps])


@both
def test_every_accepted_request_is_answered_once(make: Callable[[], Desk]) -> None:
    desk = make()
    requests = [desk.submit(value) for value in (3, 1, 2, 5)]
    assert desk.load() == (4, 4)
    desk.run()
    assert set(desk.ends) == set(requests)
    assert desk.load() == (0, 0)
    assert all(request.state is RequestState.ENDED for request in requests)


@both
def test_request_over_the_limit_is_refused_and_not_in_flight(make: Callable[[int], Desk]) -> None:
    desk = make(2)
    accepted = [desk.submit(1), desk.submit(1)]
    with pytest.raises(Overloaded):
        desk.submit(1)
    assert desk.scheduler.in_flight == 2
    desk.run()
    assert list(desk.ends) == accepted


@both
def test_cancelled_request_is_not_answered_whether_it_waits_or_runs(
    make: Callable[[], Desk],
) -> None:
    desk = make()
    waits, runs, stays = (desk.submit(4) for _ in range(3))
    desk.scheduler.cancel(waits, desk.now_s)
    batch = desk.scheduler.take(desk.now_s)
    assert batch is not None
    assert batch.requests == [runs, stays]
    desk.scheduler.cancel(runs, desk.now_s)
    desk.scheduler.cancel(runs, desk.now_s)
    results: list[Result] = [[fp32("y", [8.0])] for _ in batch.requests]
    desk.scheduler.finished(batch, results, desk.now_s, run_s=0.001)
    desk.run()
    assert desk.ends == {stays: 8.0}


@both
def test_next_event_is_the_first_deadline_and_expiring_answers_it(
    make: Callable[[], Desk],
) -> None:
    desk = make()
    assert desk.scheduler.next_event_s() == math.inf
    late, later = desk.submit(9, left_s=0.5), desk.submit(9, left_s=0.75)
    assert desk.scheduler.next_event_s() == 0.5
    assert desk.scheduler.take(0.0) is not None
    desk.scheduler.expire(0.5)
    assert list(desk.ends) == [late]
    assert isinstance(desk.ends[late], DeadlineExceeded)
    assert desk.scheduler.next_event_s() == 0.75
    desk.scheduler.expire(0.75)
    assert list(desk.ends) == [late, later]
    assert desk.scheduler.next_event_s() == math.inf
    assert not desk.scheduler.is_idle  # the run goes on


@both
def test_batch_that_is_failed_while_it_runs_is_answered_at_once(make: Callable[[], Desk]) -> None:
    desk = make()
    requests = [desk.submit(9) for _ in range(2)]
    batch = desk.scheduler.take(0.0)
    assert batch is not None
    error = RunFailed("it takes too long")
    desk.scheduler.fail(batch, error, 0.0)
    assert desk.ends == dict.fromkeys(requests, error)
    desk.scheduler.finished(batch, [error, error], 1.0, run_s=1.0, is_whole=False)
    assert desk.scheduler.is_idle


def test_one_shot_run_without_a_result_is_a_failed_run() -> None:
    desk = one_shot()
    request = desk.submit(1)
    batch = desk.scheduler.take(0.0)
    assert batch is not None
    desk.scheduler.finished(batch, [None], 1.0, run_s=1.0)
    assert isinstance(desk.ends[request], RunFailed)


# a model that runs in steps


def test_answer_comes_part_by_part_and_ends_with_its_last_step() -> None:
    desk = in_steps()
    request = desk.submit(3)
    desk.step()
    assert (desk.parts[request], desk.ends) == ([3.0], {})
    desk.step()
    assert (desk.parts[request], desk.ends) == ([3.0, 2.0], {})
    desk.step()
    assert (desk.parts[request], desk.ends) == ([3.0, 2.0], {request: 1.0})


def test_requests_join_and_leave_between_the_steps_of_others() -> None:
    model = Countdown(max_sequences=2)
    desk = in_steps(model=model)
    long, short, third = desk.submit(4), desk.submit(2), desk.submit(2)
    steps = []
    while requests := desk.step():
        steps.append(requests)
    assert steps == [[long, short], [long, short], [long, third], [long, third]]
    assert model.batches == [(1, 2), (1,), (1, 3)]
    assert desk.ends == dict.fromkeys((short, long, third), 1.0)
    assert model.left == {}  # every sequence was freed


def test_request_that_leaves_frees_its_sequence_and_makes_room_for_the_next() -> None:
    model = Countdown(max_sequences=1)
    desk = in_steps(model=model)
    leaves, follows = desk.submit(100), desk.submit(2)
    desk.step()
    assert list(model.left) == [1]
    desk.scheduler.cancel(leaves, desk.now_s)
    desk._free()
    assert model.left == {}
    desk.run()
    assert (desk.parts[leaves], desk.ends) == ([100.0], {follows: 1.0})


def test_step_that_fails_ends_all_that_were_in_it_and_no_other() -> None:
    model = Countdown(max_sequences=2)
    desk = in_steps(model=model)
    first, second, waits = desk.submit(5), desk.submit(5), desk.submit(1)
    desk.step()
    model.is_failing = True
    desk.step()
    assert [type(desk.ends[request]) for request in (first, second)] == [RunFailed] * 2
    desk.run()
    assert desk.ends[waits] == 1.0
    assert model.left == {}
