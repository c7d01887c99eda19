"""Callers that want more than a node can do: through the production controller and engine, in virtual time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from gates import Gate
from replicas import replica

from capamesh.node.repository.rules import Rules
from capamesh.node.scheduling import BatchPlan, DynamicBatcher, PendingRequest
from capamesh.node.scheduling.pending_request import Batch, Result
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.protocol.errors import CapameshError, Overloaded
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, LoadReport
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec
from capamesh.router.admission.controller import Permit, Refusal
from capamesh.simulation.events import Events

WEIGHTS = {"gold": 3.0, "iron": 1.0}
SECONDS = 5.0
WAY_S = 0.0005
"""From the router to the node, and back."""
ROW = Tensor("x", Datatype.FP32, (1, 1), bytes(4))
PER_S = 400
"""What the node can do."""


@dataclass(eq=False)
class Callers:
    """So many callers that ask alike, and what became of it; each asks again at once when it was answered."""

    count: int
    tenant: str = ""
    priority: int = DEFAULT_PRIORITY
    pause_s: float | None = 0.02
    """Before who was refused comes again; None: as long as it was told."""
    rest_s: float = 0.0
    """Between an answer and the next request."""
    outcomes: Counter[str] = field(default_factory=Counter)
    hints_s: list[float] = field(default_factory=list)


class Loop:
    """A router's controller, a node's engine and callers for `SECONDS`, of which the first does not count."""

    def __init__(
        self,
        *callers: Callers,
        weights: dict[str, float] | None = None,
        run_s: float = 0.0025,
        batch_rows: int = 1,
        max_queue: int | None = 16,
    ) -> None:
        """A run of a full batch takes `run_s`."""
        self.rng = random.Random(1)
        self.events = Events()
        self.profile = ServiceProfile((ProfilePoint(batch_rows, run_s),))
        x, y = (TensorSpec(name, Datatype.FP32, (-1, 1)) for name in "xy")
        plan = BatchPlan((x,), (y,), is_batching=batch_rows > 1, batch_rows=batch_rows)
        self.batcher = DynamicBatcher(
            plan, Rules(), self.profile, max_in_flight=512, max_queue=max_queue
        )
        self.replica = replica("a")
        self.controller = Gate(self.replica, weights=weights)
        for each in callers:
            for _ in range(each.count):
                self._after(self.rng.random() * 0.1, self._ask, each)
        self.events.run_until(SECONDS)

    def _after(self, seconds: float, what: Callable[..., None], *given: object) -> None:
        self.events.at(self.events.now_s + seconds, what, *given)

    def _ask(self, callers: Callers) -> None:
        try:
            permit = self.controller.admit(
                callers.tenant, callers.priority, 0, self.events.now_s, 30.0
            )
        except Overloaded as error:
            self._refused(callers, error)
            return
        self.replica.rif += 1
        self._after(WAY_S, self._arrive, callers, permit)

    def _refused(self, callers: Callers, error: Overloaded) -> None:
        if self.events.now_s >= 1.0:
            callers.outcomes["refused"] += 1
            callers.hints_s.append(error.retry_after_s)
        pause_s = error.retry_after_s if callers.pause_s is None else callers.pause_s
        self._after(pause_s * self.rng.uniform(0.8, 1.2), self._ask, callers)

    def _arrive(self, callers: Callers, permit: Permit) -> None:
        now_s = self.events.now_s
        request = PendingRequest(
            (ROW,),
            (),
            lambda _, result: self._done(callers, permit, result),
            arrived_s=now_s,
            deadline_s=now_s + 30,
            priority=callers.priority,
        )
        try:
            self.batcher.submit(request, now_s)
        except CapameshError as error:
            self._done(callers, permit, error)
        self._pump()

    def _done(self, callers: Callers, permit: Permit, result: Result) -> None:
        load = self.batcher.load_report(free_bytes=0, device_in_flight=0)
        self._after(WAY_S, self._ended, callers, permit, result, load)

    def _ended(self, callers: Callers, permit: Permit, result: Result, load: LoadReport) -> None:
        now_s = self.events.now_s
        self.replica.rif -= 1
        permit.release(now_s, is_served=not isinstance(result, Overloaded))
        self.replica.reported(load, now_s)
        if isinstance(result, Overloaded):
            is_urgent = callers.priority < DEFAULT_PRIORITY
            self.controller.refused(self.replica, result.retry_after_s, now_s, is_urgent=is_urgent)
            self._refused(callers, result)
            return
        assert not isinstance(result, CapameshError)
        self.replica.answered_s = now_s
        callers.outcomes["answered"] += now_s >= 1.0
        self._after(callers.rest_s + 0.0005, self._ask, callers)

    def _pump(self) -> None:
        batch = self.batcher.take(self.events.now_s)
        if batch is not None:
            run_s = self.profile.seconds_at(batch.rows) * self.rng.uniform(0.8, 1.2)
            self._after(run_s, self._end, batch, run_s)

    def _end(self, batch: Batch, run_s: float) -> None:
        answers = [[ROW]] * len(batch.requests)
        self.batcher.finished(batch, answers, self.events.now_s, run_s=run_s)
        self._pump()


def test_quiet_tenant_is_never_refused_beside_one_that_floods_and_the_node_is_kept_busy() -> None:
    quiet, flood = Callers(2, "quiet", rest_s=0.05), Callers(60, "flood")
    loop = Loop(quiet, flood, max_queue=32)
    assert set(quiet.outcomes) == {"answered"}
    refused = loop.controller.refusals
    assert refused[Refusal.SHARE] > 0.9 * sum(refused.values())
    assert all(0 < hint_s <= 30 for hint_s in flood.hints_s)
    answered = sum(each.outcomes["answered"] for each in (quiet, flood))
    assert answered >= 0.95 * (SECONDS - 1) * PER_S


@pytest.mark.seeds
@pytest.mark.parametrize("counts", [(30, 30), (100, 100), (30, 100)])
@pytest.mark.parametrize(
    "pauses_s",
    [
        pytest.param((None, None), id="all go by their hints"),
        pytest.param((0.02, 0.02), id="nobody goes by them"),
        pytest.param((None, 0.02), id="the favoured go by them"),
        pytest.param((0.02, None), id="the others go by them"),
    ],
)
@pytest.mark.parametrize(
    ("batch_rows", "run_s"),
    [pytest.param(1, 0.0025, id="a row at a time"), pytest.param(16, 0.04, id="batches")],
)
def test_answers_are_by_weight_whatever_callers_do(
    counts: tuple[int, int],
    pauses_s: tuple[float | None, float | None],
    batch_rows: int,
    run_s: float,
) -> None:
    gold, iron = (
        Callers(count, tenant, pause_s=pause_s)
        for count, tenant, pause_s in zip(counts, WEIGHTS, pauses_s, strict=True)
    )
    Loop(gold, iron, weights=WEIGHTS, batch_rows=batch_rows, run_s=run_s)
    answered = [each.outcomes["answered"] for each in (gold, iron)]
    assert answered[0] / answered[1] == pytest.approx(3.0, rel=0.1)
    assert sum(answered) >= 0.95 * (SECONDS - 1) * PER_S


@pytest.mark.seeds
@pytest.mark.parametrize("usual", [14, 60, 400])
@pytest.mark.parametrize(
    ("batch_rows", "run_s"),
    [pytest.param(1, 0.0025, id="a row at a time"), pytest.param(8, 0.02, id="batches of eight")],
)
def test_urgent_requests_are_not_refused_because_usual_ones_fill_the_places(
    usual: int, batch_rows: int, run_s: float
) -> None:
    urgent = Callers(14, priority=1)
    Loop(urgent, Callers(usual), run_s=run_s, batch_rows=batch_rows)
    assert urgent.outcomes["refused"] <= 0.01 * urgent.outcomes.total()
    assert (
        urgent.outcomes["answered"] >= 0.8 * 4 * batch_rows / run_s
    )  # 14 are not two full batches


def test_node_that_refuses_an_urgent_request_has_no_place_for_such_for_as_long_as_it_said() -> None:
    load = LoadReport(10, limit=10, queue_us=90_000, run_us=10_000)
    controller = Gate(replica("a", load=load))
    (one,) = controller.replicas

    def admitted(now_s: float) -> int:
        """Return how many of three urgent requests are let in."""
        before = controller.under_way
        for _ in range(3):
            with suppress(Overloaded):
                controller.admit("", 1, 0, now_s)
        return controller.under_way - before

    controller.refused(one, 0.2, 0.0)
    assert admitted(0.0) == 3
    controller.refused(one, 0.2, 0.1, is_urgent=True)
    # one may be tried, for what has just become free
    assert [admitted(now_s) for now_s in (0.15, 0.25, 0.35)] == [1, 1, 3]
