"""What an engine keeps and knows: prefixes, how long answers are, and the bounds of requests."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from generation_fakes import VOCABULARY, Desk, FakeSlots

from capamesh.node.generation import GenerationRequest, GenerationSettings, SamplingParameters
from capamesh.node.generation.answer_lengths import USUAL_TOKENS, AnswerLengths
from capamesh.node.generation.prefixes import BLOCK, BLOCK_OVERHEAD_BYTES, Prefixes
from capamesh.node.generation.slots import Logits
from capamesh.protocol.errors import ConfigError, InvalidRequest, TooLarge

TOKENS = list(range(24)) + list(range(24))
BLOCK_BYTES = BLOCK * 24 + BLOCK_OVERHEAD_BYTES


def filled(tokens: list[int], slots: FakeSlots | None = None, slot: int = 0) -> FakeSlots:
    slots = slots or FakeSlots(3)
    slots.truncate(slot, 0)
    slots.extend(slot, tokens, wants_logits=False)
    return slots


def kept(prefixes: Prefixes, tokens: list[int], tenant: str = "", most: int = 1000) -> list[int]:
    """Return the tokens of which the cache is kept, as an empty slot has them then."""
    slots = FakeSlots(1)
    match = prefixes.match(tenant, tokens, most)
    match.load(slots, 0)
    assert slots.used(0) == match.count
    return slots.tokens(0)


def test_prompt_is_found_to_the_token_wherever_another_parts_from_it() -> None:
    prefixes = Prefixes(10**6, 24)
    prefixes.save("", TOKENS[:40], filled(TOKENS[:40]), 0)
    for same in range(40):
        other = [*TOKENS[:same], 31, *TOKENS[same + 1 :]]
        assert kept(prefixes, other) == TOKENS[:same]
    assert kept(prefixes, TOKENS) == TOKENS[:40]
    assert kept(prefixes, TOKENS[:40], most=38) == TOKENS[:38]
    assert kept(prefixes, TOKENS[:40], most=0) == []


def scores_of(first: int, count: int = VOCABULARY) -> Logits:
    return np.full(count, first, np.float32)


@pytest.mark.parametrize("length", [2, 16, 31, 32, 40])
def test_scores_are_found_behind_the_very_prompt_that_they_were_kept_with(length: int) -> None:
    prefixes = Prefixes(10**6, 24)
    prompt, longer = TOKENS[:length], TOKENS[: length + 5]
    prefixes.save("", longer, filled(longer), 0)
    assert prefixes.match("", prompt, length).scores is None
    prefixes.save("", prompt, filled(prompt), 0, scores_of(1))
    prefixes.save("", longer, filled(longer), 0, scores_of(2))
    for tokens, value in ((prompt, 1), (longer, 2)):
        match = prefixes.match("", tokens, 0)
        assert (match.count, match.scores[0]) == (len(tokens), value)
        assert kept(prefixes, tokens, most=0) == tokens
    assert prefixes.match("other", prompt, 0).scores is None
    assert prefixes.match("", TOKENS[: length + 4], 0).scores is None


def test_scores_go_before_the_prompt_and_are_not_kept_where_they_would_take_its_room() -> None:
    prefixes = Prefixes(3 * BLOCK_BYTES, 24)
    prefixes.save("", TOKENS[:32], filled(TOKENS[:32]), 0, scores_of(1))
    assert (prefixes.match("", TOKENS[:32], 0).scores, len(prefixes)) == (None, 2)
    prefixes = Prefixes(20 * BLOCK_BYTES, 24)
    prefixes.save("", TOKENS[:32], filled(TOKENS[:32]), 0, scores_of(1))
    assert prefixes.match("", TOKENS[:32], 0).scores is not None
    for first in range(1000, 1018):
        other = [first, *TOKENS[1:16]]
        prefixes.save("", other, filled(other), 0)
    assert prefixes.size_bytes <= 20 * BLOCK_BYTES
    assert prefixes.match("", TOKENS[:32], 0).scores is None
    assert kept(prefixes, TOKENS[:32]) == TOKENS[:32]


def test_bytes_are_bounded_and_the_least_used_goes_first_its_end_before_its_beginning() -> None:
    prefixes = Prefixes(4 * BLOCK_BYTES, 24)
    prompts = [[first, *TOKENS[1:32]] for first in range(3)]
    for prompt in prompts[:2]:
        prefixes.save("", prompt, filled(prompt), 0)
    assert kept(prefixes, prompts[0]) == prompts[0]  # used anew
    prefixes.save("", prompts[2][:16], filled(prompts[2][:16]), 0)
    assert prefixes.size_bytes <= 4 * BLOCK_BYTES
    assert kept(prefixes, prompts[0]) == prompts[0]
    assert kept(prefixes, prompts[1]) == prompts[1][:16]


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


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it may be 0 to 100"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": 1.1}, "top_p is 1.1; it may be 0 to 1"),
        ({"top_k": -1}, "top_k is -1; it may be at least 0"),
        ({"min_p": 2.0}, "min_p is 2.0"),
        ({"presence_penalty": 101.0}, "presence_penalty is 101.0; it may be -100 to 100"),
        ({"frequency_penalty": math.nan}, "frequency_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it may be 0.01 to 100"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"logprobs": 21}, "logprobs is 21; it may be -1 to 20"),
        ({"logit_bias": {3: math.inf}}, "logit_bias of token 3 is inf"),
        ({"logit_bias": dict.fromkeys(range(1025), 0.0)}, "logit_bias has 1025 tokens"),
    ],
)
def test_parameters_out_of_range_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        SamplingParameters(**values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"prompt": ()}, "the prompt has no tokens"),
        ({"max_tokens": 0}, "max_tokens is 0; it may be at least 1"),
        ({"choices": 0}, "n is 0; it may be 1 to 128"),
        ({"choices": 129}, "n is 129"),
        ({"priority": 1001}, "priority is 1001"),
        ({"stop_strings": ("",)}, "has 0 characters; it may have 1 to 1024"),
        ({"stop_strings": ("a",) * 17}, "stop has 17 strings; it may have 16"),
        ({"stop_tokens": frozenset(range(257))}, "257 tokens"),
        ({"deadline_s": math.nan}, "deadline"),
        ({"resumed": (1,), "choices": 2}, "each choice is resumed by a request of its own"),
        ({"resumed": (1, 2, 3)}, "3 tokens are resumed and max_tokens is 3"),
    ],
)
def test_requests_out_of_range_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        GenerationRequest(**({"prompt": (1,), "max_tokens": 3} | values))


def test_name_of_a_tenant_is_bounded() -> None:
    with pytest.raises(TooLarge):
        GenerationRequest((1,), 1, tenant="x" * 257)


@pytest.mark.parametrize(
    "values",
    [
        {"pool_tokens": -1},
        {"overcommit": 0.5},
        {"max_waiting": 0},
        {"max_waiting_tokens": 0},
        {"target_gap_s": 0.0},
        {"target_gap_s": math.nan},
        {"max_chunk": 3},
        {"prefix_bytes": -1},
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        GenerationSettings(**values)
