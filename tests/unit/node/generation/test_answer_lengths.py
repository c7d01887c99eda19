"""What answers did cost, and what is foreseen by it: of one answer, of a wait, of the room in a queue."""

from __future__ import annotations

import random

import pytest
from generation_fakes import Desk, FakeSlots

from capamesh.node.generation import GenerationRequest, GenerationSettings, SamplingParameters
from capamesh.node.generation.answer_lengths import USUAL_TOKENS, AnswerLengths

NO_LIMIT = 4096
CROWD = 200


def end(known: AnswerLengths, lengths: list[int], client: str = "a") -> None:
    for length in lengths:
        known.ended(0, length, client, is_cut=False)


@pytest.mark.parametrize("mean", [3, 40, 300, 1500])
def test_answers_take_as_long_as_those_that_ended(mean: int) -> None:
    rng, known = random.Random(mean), AnswerLengths()
    end(known, [1 + round(rng.gammavariate(4.0, (mean - 1) / 4.0)) for _ in range(1000)])
    assert known.expected(0, NO_LIMIT) == pytest.approx(mean, rel=0.25)
    assert known.expected(0, 8) <= 8


def test_one_client_with_a_thousand_short_answers_weighs_no_more_than_one_with_a_few() -> None:
    known = AnswerLengths()
    end(known, [1] * 1000)
    for _ in range(20):
        end(known, [1] * 50)
        end(known, [200], "b")
    assert known.expected(0, NO_LIMIT) == pytest.approx(100, rel=0.3)


def test_tokens_that_another_node_made_are_not_counted_here() -> None:
    known = AnswerLengths()
    known.ended(1000, 1001, "a", is_cut=False)
    assert known.end_rate(0) == known.end_rate(500) == AnswerLengths().end_rate(0)
    assert known.end_rate(1000) > AnswerLengths().end_rate(1000)


def chat(number: int, max_tokens: int) -> GenerationRequest:
    return GenerationRequest((number % 32, 5, 7), max_tokens, SamplingParameters(temperature=0.0))


def test_wait_is_told_by_what_answers_take_and_not_by_the_most_that_they_may() -> None:
    desk = Desk(FakeSlots(8, length=NO_LIMIT), GenerationSettings(), step_s=0.05)
    streams = [desk.submit(chat(number, 2000))[0] for number in range(8)]
    for _ in range(60):
        desk.step()
    assert desk.engine.load().free_slots == 0
    assert 0 < desk.engine.load().first_token_s < 4  # all of what they may: 800 s
    for each in streams:
        desk.engine.cancel(each)
    desk.engine.settle()
    assert desk.engine.load().first_token_s < 0.1


def test_crowd_that_sets_no_limit_waits_and_nobody_of_it_is_refused_for_room() -> None:
    desk = Desk(FakeSlots(8, length=NO_LIMIT))
    crowd = [desk.submit(chat(number, NO_LIMIT))[0] for number in range(CROWD)]
    load = desk.engine.load()
    assert load.waiting == CROWD
    assert load.waiting_tokens <= CROWD * (3 + USUAL_TOKENS)
    for each in crowd:
        desk.engine.cancel(each)
    load = desk.engine.load()
    assert (load.waiting, load.waiting_tokens, load.first_token_s) == (0, 0, 0.0)
