"""Tenants of different weights that both want more than there is: through the production controller and engine, in virtual time."""

from __future__ import annotations

import pytest
from closed_loop import Callers, Loop

WEIGHTS = {"gold": 3.0, "iron": 1.0}
SECONDS = 5.0


@pytest.mark.seeds
@pytest.mark.parametrize("count", [30, 100])
@pytest.mark.parametrize(
    ("gold_s", "iron_s"),
    [
        pytest.param(None, None, id="all go by their hints"),
        pytest.param(0.02, 0.02, id="nobody goes by them"),
        pytest.param(None, 0.02, id="the favoured go by them"),
        pytest.param(0.02, None, id="the others go by them"),
    ],
)
@pytest.mark.parametrize(
    ("batch_rows", "run_s"),
    [pytest.param(1, 0.0025, id="a row at a time"), pytest.param(16, 0.04, id="batches")],
)
def test_answers_are_by_weight_whatever_callers_do(
    count: int, gold_s: float | None, iron_s: float | None, batch_rows: int, run_s: float
) -> None:
    gold, iron = Callers(count, "gold", pause_s=gold_s), Callers(count, "iron", pause_s=iron_s)
    loop = Loop(gold, iron, weights=WEIGHTS, batch_rows=batch_rows, run_s=run_s).run(SECONDS)
    answered = [loop.tally(each).outcomes["answered"] for each in (gold, iron)]
    assert answered[0] / answered[1] == pytest.approx(3.0, rel=0.1)
    assert sum(answered) >= 0.95 * (SECONDS - 1) * 400


@pytest.mark.full
@pytest.mark.seeds
@pytest.mark.parametrize(("gold", "iron"), [(100, 30), (30, 100), (20, 200)])
def test_numbers_of_callers_do_not_matter_as_long_as_both_want_more(gold: int, iron: int) -> None:
    golden, others = Callers(gold, "gold"), Callers(iron, "iron")
    loop = Loop(golden, others, weights=WEIGHTS).run(SECONDS)
    answered = [loop.tally(each).outcomes["answered"] for each in (golden, others)]
    assert answered[0] / answered[1] == pytest.approx(3.0, rel=0.1)
