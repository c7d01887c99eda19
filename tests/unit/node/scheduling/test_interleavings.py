"""Any order of events: every request is answered once, with its own rows, and nothing is left behind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from capamesh.node.repository.rules import BatchingRules, Rules, SequenceRules, StateTensor
from capamesh.node.scheduling import (
    Batch,
    BatchPlan,
    DynamicBatcher,
    PendingRequest,
    Result,
    Streams,
)
from capamesh.node.scheduling.pending_request import RequestState
from capamesh.node.scheduling.sequences import KEPT_BYTES
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

I64 = Datatype.INT64
BATCH_ROWS = 6
PROFILE = ServiceProfile((ProfilePoint(1, 0.1), ProfilePoint(BATCH_ROWS, 0.2)))
STATES = (StateTensor("s", "s_next", 0, (1, 0)),)
IDLE_S = 20.0


@dataclass(eq=False)
class Case:
    """One request as its caller sees it."""

    number: int
    rows: list[int]
    is_clumsy: bool
    """Its answer breaks a link, which withdraws another request."""
    request: PendingRequest = field(init=False)
    answers: list[Result] = field(default_factory=list)
    is_cancelled: bool = False
    state_before: list[int] | None = None
    """What the model had seen of its sequence when it started."""

    @property
    def is_open(self) -> bool:
        return not self.answers and not self.is_cancelled


def sequences_of(requests: Iterable[PendingRequest]) -> set[int | str]:
    return {request.sequence.id for request in requests if request.sequence is not None}


class Machine(RuleBasedStateMachine):
    """Requests without sequences."""

    is_stateful = False
    batch_rows = BATCH_ROWS

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.next_row = 1
        self.cases: list[Case] = []
        self.running: list[Batch] = []
        self.ahead: list[Batch] = []
        """Ready made, and not begun."""
        self.stops: dict[Batch, int] = {}
        self.seen: dict[int, list[int]] = {}
        """By sequence: the rows that were answered since its last start. Absent: it has not started."""
        self.instances = 1
        self.delay_us = 0
        self.streams: Streams | None = None

    @initialize(
        instances=st.integers(1, 2),
        delay_us=st.sampled_from([0, 300_000]),
        streams=st.sampled_from([None, Streams(2, PROFILE, 4), Streams(3, PROFILE, 1)]),
    )
    def start(self, instances: int, delay_us: int, streams: Streams | None) -> None:
        self.instances, self.delay_us, self.streams = instances, delay_us, streams
        if streams is not None:
            self.instances = 0
        self.batcher = self.new_engine()

    def new_engine(self) -> DynamicBatcher:
        states = STATES if self.is_stateful else ()
        inputs, outputs = (
            tuple(TensorSpec(name, I64, (-1, -1)) for name in names)
            for names in (("x", *(one.input for one in states)), ("y", *(s.output for s in states)))
        )
        plan = BatchPlan(
            inputs, outputs, is_batching=True, batch_rows=self.batch_rows, states=states
        )
        rules = Rules(
            batching=BatchingRules(max_delay_us=self.delay_us),
            sequence=SequenceRules(states, IDLE_S),
            instances=self.instances,
        )
        return DynamicBatcher(plan, rules, PROFILE, max_in_flight=12, streams=self.streams)

    # what callers do

    @rule(
        rows=st.integers(0, 8),
        width=st.integers(1, 2),
        priority=st.integers(0, 2),
        left_s=st.sampled_from([None, None, 0.0, 0.25, 0.5, 1.0, 2.0]),
        is_bulk=st.booleans(),
        is_clumsy=st.booleans(),
        sequence=st.integers(0, 2),
        marks=st.sampled_from([(True, False), (False, False), (False, True), (True, True)]),
    )
    def submit(
        self,
        sequence: int,
        marks: tuple[bool, bool],
        rows: int = 1,
        width: int = 1,
        left_s: float | None = None,
        is_clumsy: bool = False,
        **asked: Any,
    ) -> None:
        rows = 1 if self.is_stateful else rows
        case = Case(len(self.cases), list(range(self.next_row, self.next_row + rows)), is_clumsy)
        self.next_row += rows
        x = np.repeat(np.array(case.rows, np.int64).reshape(-1, 1), width, 1)
        mark = SequenceMark(sequence, *marks) if self.is_stateful else None
        case.request = request = PendingRequest(
            self.batcher.plan.completed((Tensor.from_numpy("x", x),)),
            (),
            lambda _, result: self.answered(case, result),
            arrived_s=self.now_s,
            deadline_s=None if left_s is None else self.now_s + left_s,
            sequence=mark,
            **asked,
        )
        before = self.batcher.in_flight
        try:
            self.batcher.submit(request, self.now_s)
        except CapameshError as error:
            self.check_refusal(error, request, before)
        else:
            self.cases.append(case)

    def check_refusal(self, error: CapameshError, request: PendingRequest, in_flight: int) -> None:
        match error:
            case Overloaded():
                assert in_flight
                assert error.retry_after_s > 0
            case DeadlineExceeded():
                assert request.deadline_s is not None
                assert request.deadline_s <= self.now_s
            case InvalidRequest():
                assert not request.sequence.is_start
            case _:
                raise AssertionError(f"refused with {error!r}")

    def answered(self, case: Case, result: Result) -> None:
        assert not case.is_cancelled, "a cancelled request was answered"
        assert not case.answers, "a request was answered twice"
        case.answers.append(result)
        if not isinstance(result, CapameshError):
            self.check_outputs(case, result)
        if case.is_clumsy:
            for other in self.cases:
                if other.is_open:
                    self.withdraw(other)
                    break

    def check_outputs(self, case: Case, outputs: Sequence[Tensor]) -> None:
        assert [output.name for output in outputs] == ["y"]
        before = case.state_before or []
        expected = [row * 3 + 1 + sum(before) for row in case.rows]
        array = outputs[0].to_numpy()
        assert array[:, 0].tolist() == expected

    def remember(self, case: Case) -> None:
        """Note what the model has seen of a sequence now."""
        mark = case.request.sequence
        if mark is not None and mark.is_end:
            self.seen.pop(int(mark.id), None)
        elif mark is not None:
            self.seen[int(mark.id)] = (case.state_before or []) + case.rows

    def withdraw(self, case: Case) -> None:
        case.is_cancelled = not case.answers
        self.batcher.cancel(case.request, self.now_s)

    @precondition(lambda self: self.cases)
    @rule(pick=st.integers(0, 10_000))
    def cancel(self, pick: int) -> None:
        self.withdraw(self.cases[-1 - pick % min(len(self.cases), 12)])

    # what the owner does

    @rule()
    def take(self) -> None:
        batch = self.batcher.take(self.now_s)
        slots = max(1, self.instances)
        if self.streams is not None and self.running and self.running[0].is_stream:
            slots = self.streams.count
        if batch is None:
            if len(self.running) < slots and not self.delay_us:
                assert len(self.batcher._requests.queue) == 0
            return
        assert len(self.running) < slots
        assert all(other.is_stream == batch.is_stream for other in self.running)
        self.check_batch(batch)
        self.begin(batch)

    @rule()
    def take_ahead(self) -> None:
        if len(self.ahead) == 2:
            return
        batch = self.batcher.take(self.now_s, is_ahead=True)
        if batch is not None:
            assert self.running
            self.check_batch(batch)
            self.ahead.append(batch)
            self.stops[batch] = 0
            batch.stop = lambda: self.stopped(batch)

    def check_batch(self, batch: Batch) -> None:
        """Check what has just been taken."""
        requests = batch.requests
        assert requests
        assert batch.wanted == len(requests)
        assert batch.rows == sum(request.rows for request in requests)
        assert len(requests) == 1 or batch.rows <= self.batch_rows
        assert len({request.inputs[0].shape[1] for request in requests}) == 1
        assert len({request.inputs[-1].shape[1] for request in requests}) == 1
        ids = sequences_of(requests)
        assert len(ids) == sum(request.sequence is not None for request in requests)
        for other in (*self.running, *self.ahead):
            run = [each for each in other.requests if not self.was_skipped(each, other)]
            assert not ids & sequences_of(run)
        for request in requests:
            assert self.case_of(request).is_open, "what has ended was taken"
            assert request.deadline_s is None or request.deadline_s > self.now_s

    def was_skipped(self, request: PendingRequest, batch: Batch) -> bool:
        """Whether a member of a batch is not run, because it ended before the batch began."""
        case = self.case_of(request)
        return case.state_before is None if batch.has_begun else not case.is_open

    def begin(self, batch: Batch) -> None:
        """Begin to run what is wanted of a batch, as a lane does."""
        batch.has_begun = True
        for request in batch.requests:
            case = self.case_of(request)
            if not case.is_open:
                continue
            assert case.state_before is None, "a request was run twice"
            case.state_before = []
            if request.sequence is not None:
                self.check_turn(case)
                if not request.sequence.is_start:
                    case.state_before = self.seen.get(int(request.sequence.id), [])
        self.running.append(batch)
        self.stops.setdefault(batch, 0)
        batch.stop = lambda: self.stopped(batch)

    def stopped(self, batch: Batch) -> None:
        self.stops[batch] += 1
        assert all(request.state is RequestState.ENDED for request in batch.requests)

    def check_turn(self, case: Case) -> None:
        earlier = [each.request for each in self.cases[: case.number] if each.is_open]
        overtaken = case.request.sequence.id in sequences_of(earlier)
        assert not overtaken, "a request of a sequence overtook an earlier one"

    def case_of(self, request: PendingRequest) -> Case:
        (case,) = [case for case in self.cases if case.request is request]
        return case

    @precondition(lambda self: self.running)
    @rule(
        pick=st.integers(0, 2),
        outcome=st.sampled_from(["ok", "ok", "ok", "error", "no split", "one fails"]),
        run_s=st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    )
    def finish(self, pick: int, outcome: str, run_s: float) -> None:
        batch = self.running.pop(pick % len(self.running))
        if self.ahead:  # the lane goes on at once, before anyone hears of it
            self.begin(self.ahead.pop(0))
        results, is_whole = self.results(batch, outcome)
        wanted = [case for request in batch.requests if (case := self.case_of(request)).is_open]
        assert len(wanted) == batch.wanted
        assert self.stops.pop(batch) == (0 if wanted else 1)
        for request, result in zip(batch.requests, results, strict=True):
            case = self.case_of(request)
            if case.is_open and not isinstance(result, CapameshError):
                self.remember(case)
        ran = [
            request for request in batch.requests if self.case_of(request).state_before is not None
        ]
        parts = [
            self.case_of(request)
            for request, result in zip(batch.requests, results, strict=True)
            if request.later_rows and not isinstance(result, CapameshError)
        ]
        for case in parts:  # rows that are left run later; the answer tells whether each did once
            assert case.request.is_bulk
            case.state_before = None
        how = {
            "run_s": run_s,
            "is_whole": is_whole and bool(ran),
            "ran_rows": sum(request.rows for request in ran) if ran else -1,
        }
        self.batcher.finished(batch, results, self.now_s, **how)
        assert not any(case.is_open for case in wanted if case not in parts)

    def results(self, batch: Batch, outcome: str) -> tuple[list[Result], bool]:
        """Return what the model gives and whether it ran as one, as a worker has it."""
        requests = batch.requests
        if outcome == "error":
            return [RunFailed("no memory")] * len(requests), False
        try:
            return self.run(requests, is_by_rows=outcome == "ok"), outcome == "ok"
        except RunFailed:
            results: list[Result] = []
            for at, request in enumerate(requests):
                if request.state is RequestState.ENDED or (outcome == "one fails" and at == 0):
                    results.append(RunFailed("not run"))
                else:
                    results += self.run([request], is_by_rows=True)
            return results, False

    def run(self, requests: Sequence[PendingRequest], *, is_by_rows: bool) -> list[Result]:
        plan = self.batcher.plan
        joined = plan.join(requests)
        x = joined[0].to_numpy()
        y = x * 3 + 1
        outputs: list[Tensor] = []
        if self.is_stateful:
            history = joined[1].to_numpy()
            y += history.sum(1, keepdims=True)
            seen = np.concatenate([history, x[:, :1]], 1)
            outputs.append(Tensor.from_numpy("s_next", seen))
        if not is_by_rows and len(requests) > 1:
            y = np.concatenate([y, y[:1], y[:1]])
        return list(plan.split(requests, [Tensor.from_numpy("y", y), *outputs], joined))

    @rule(passed_s=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]), is_noticed=st.booleans())
    def time_passes(self, passed_s: float, is_noticed: bool) -> None:
        self.now_s += passed_s
        if is_noticed:
            self.batcher.expire(self.now_s)
            waiting = [case.request.deadline_s for case in self.cases if case.is_open]
            assert all(deadline_s is None or deadline_s > self.now_s for deadline_s in waiting)

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 2))
    def fail(self, pick: int) -> None:
        batch = self.running[pick % len(self.running)]
        others = [
            case for case in self.cases if case.is_open and case.request not in batch.requests
        ]
        is_clumsy = any(case.is_clumsy for case in self.cases if case.request in batch.requests)
        self.batcher.fail(batch, RunFailed("stuck"), self.now_s)
        assert not any(case.is_open for case in self.cases if case.request in batch.requests)
        assert is_clumsy or all(case.is_open for case in others)

    @rule()
    def crash(self) -> None:
        running = {request for batch in self.running for request in batch.requests}
        for case in self.cases:
            if case.is_open and case.request not in running:
                self.withdraw(case)
        for batch in self.running:
            self.batcher.fail(batch, ModelUnavailable("crashed"), self.now_s)
        assert not any(case.is_open for case in self.cases)
        for batch in (*self.running, *self.ahead):
            self.stops.pop(batch)
        self.running.clear()
        self.ahead.clear()
        self.seen.clear()
        self.batcher = self.new_engine()

    # what always holds

    @invariant()
    def counts_are_true(self) -> None:
        if not self.cases:
            return
        batcher = self.batcher
        live = [case for case in self.cases if case.is_open]
        started = {request for batch in self.running for request in batch.requests}
        queued = [case.request for case in live if case.request not in started]
        ready = [request for request in queued if request.state is RequestState.QUEUED]
        assert batcher.in_flight == len(live)
        assert batcher.queued == len(queued)
        rows = {case.request: case.request.rows + case.request.later_rows for case in live}
        for case in live:
            assert case.request.parts is not None or rows[case.request] == len(case.rows)
        assert batcher._requests.rows == sum(rows.values())
        bulk_rows = [count for request, count in rows.items() if request.is_bulk]
        assert batcher._requests.bulk_rows == sum(bulk_rows)
        assert len(batcher._requests.queue) == len(ready)
        assert batcher._requests.queue.rows == sum(request.rows for request in ready)
        assert batcher._requests.running == {*self.running, *self.ahead}
        report = batcher.load_report(free_bytes=0, device_in_flight=0)
        assert min(report) >= 0
        assert report.limit >= 1
        assert report.queue_us == 0 or started or queued
        if batcher.next_event_s() < math.inf:
            assert live
        if batcher.sequences is not None:
            run = [each for each in started if self.case_of(each).state_before is not None]
            assert batcher.sequences.working == len(sequences_of([*run, *queued]))
            kept = [KEPT_BYTES + 8 * len(seen) for seen in self.seen.values()]
            assert batcher.sequences.size_bytes == sum(kept)

    def teardown(self) -> None:
        if not self.cases:
            return
        for _ in range(1_000):
            self.now_s += 0.3  # any wait for company is over
            while self.running:
                self.finish(0, "ok", 0.1)
            self.take()
            self.counts_are_true()
            if not self.running:
                break
        batcher = self.batcher
        requests = batcher._requests
        assert not any(case.is_open for case in self.cases)
        assert (batcher.in_flight, batcher.queued, batcher.is_idle) == (0, 0, True)
        assert (requests.rows, requests.queue.rows, len(requests.queue)) == (0, 0, 0)
        assert batcher.load_report(free_bytes=0, device_in_flight=0)[:2] == (0, 0)
        if batcher.sequences is not None:
            assert batcher.sequences.working == 0


class SequenceMachine(Machine):
    """Requests of three sequences, whose states grow."""

    is_stateful = True
    batch_rows = 2  # two sequences fill a batch behind the third

    @rule(is_taken=st.booleans())
    def start_all(self, is_taken: bool) -> None:
        """Ask for each sequence: the first runs, if it can, and the others fill a batch behind it."""
        for sequence in range(3):
            self.submit(sequence, (True, False))
            if is_taken and sequence == 0:
                self.take()
        if is_taken:
            self.take_ahead()

    @rule()
    def silence(self) -> None:
        """Let all sequences fall silent of which nothing waits or runs."""
        # also those whose requests will be late: they fall silent only then
        waiting = [case.request for case in self.cases if case.is_open]
        busy = sequences_of([*waiting, *(one for batch in self.running for one in batch.requests)])
        self.now_s += IDLE_S
        self.batcher.expire(self.now_s)
        self.seen = {key: seen for key, seen in self.seen.items() if key in busy}


TestRequests = Machine.TestCase
TestRequests.settings = settings(stateful_step_count=40)
TestSequences = SequenceMachine.TestCase
TestSequences.settings = settings(stateful_step_count=40)
