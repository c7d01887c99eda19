"""Callers that want more than a node can do: through the production controller and engine, in virtual time."""

from __future__ import annotations

from contextlib import suppress

import pytest
from closed_loop import Callers, Loop
from gates import Gate
from replicas import replica

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.admission.controller import Refusal

URGENT = Callers(14, priority=1)
WEIGHTS = {"gold": 3.0, "iron": 1.0}
SECONDS = 5.0
PER_S = 400
"""What the node can do."""


def test_quiet_tenant_is_never_refused_beside_one_that_floods_and_the_node_is_kept_busy() -> None:
    quiet, flood = Callers(2, "quiet", rest_s=0.05), Callers(60, "flood")
    loop = Loop(quiet, flood, max_queue=32).run(SECONDS)
    assert set(loop.tally(quiet).outcomes) == {"answered"}
    refused = loop.controller.refusals
    assert refused[Refusal.SHARE] > 0.9 * sum(refused.values())
    assert all(0 < hint_s <= 30 for hint_s in loop.tally(flood).hints_s)
    answered = sum(loop.tally(each).outcomes["answered"] for each in (quiet, flood))
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
    loop = Loop(gold, iron, weights=WEIGHTS, batch_rows=batch_rows, run_s=run_s).run(SECONDS)
    answered = [loop.tally(each).outcomes["answered"] for each in (gold, iron)]
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
    loop = Loop(URGENT, Callers(usual), run_s=run_s, batch_rows=batch_rows).run(SECONDS)
    urgent = loop.tally(URGENT)
    assert urgent.refused <= 0.01
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
