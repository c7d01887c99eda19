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


@pytest.mark.seeds
@pytest.mark.parametrize(("gold", "iron"), [(100, 30), (30, 100), (20, 200)])
def test_numbers_of_callers_do_not_matter_as_long_as_both_want_more(gold: int, iron: int) -> None:
    golden, others = Callers(gold, "gold"), Callers(iron, "iron")
    loop = Loop(golden, others, weights=WEIGHTS).run(SECONDS)
    answered = [loop.tally(each).outcomes["answered"] for each in (golden, others)]
    assert answered[0] / answered[1] == pytest.approx(3.0, rel=0.1)


def test_share_that_the_favoured_do_not_want_is_left_to_the_others() -> None:
    gold, iron = Callers(2, "gold"), Callers(60, "iron")
    loop = Loop(gold, iron, weights=WEIGHTS).run(SECONDS)
    answered = {each: loop.tally(each).outcomes["answered"] for each in (gold, iron)}
    assert loop.tally(gold).refused == 0.0
    assert sum(answered.values()) >= 0.97 * (SECONDS - 1) * 400
    assert answered[iron] > 3 * answered[gold]


def test_tenant_that_comes_and_goes_gets_no_more_than_its_part_and_costs_the_others_little() -> (
    None
):
    gold, iron = Callers(40, "gold", rest_s=1.0), Callers(60, "iron")
    loop = Loop(gold, iron, weights=WEIGHTS).run(SECONDS)
    assert loop.tally(gold).refused <= 0.15
    assert loop.tally(iron).refused > 0.8
    answered = sum(loop.tally(each).outcomes["answered"] for each in (gold, iron))
    assert answered >= 0.95 * (SECONDS - 1) * 400


@pytest.mark.full
def test_hints_are_about_as_long_as_the_wait_is() -> None:
    """100 callers that come every 20 ms, and one that goes by its hints: nobody has to wait for more than a second."""
    polite, gold = Callers(1, "gold", pause_s=None), Callers(100, "gold")
    iron = Callers(100, "iron")
    loop = Loop(polite, gold, iron, weights=WEIGHTS).run(SECONDS)
    assert max(loop.tally(gold).hints_s) <= 3.0
    assert max(loop.tally(iron).hints_s) <= 8.0
    alone = Callers(1, "gold", pause_s=None)
    loop = Loop(alone, iron, weights=WEIGHTS).run(SECONDS)
    assert loop.tally(alone).refused <= 0.01


def test_callers_that_all_go_by_their_hints_are_reported_their_turn() -> None:
    gold = Callers(400, "gold", pause_s=None)
    loop = Loop(gold).run(SECONDS)
    outcomes = loop.tally(gold).outcomes
    assert outcomes["answered"] >= 0.97 * (SECONDS - 1) * 400
    assert loop.tally(gold).refused <= 0.75
