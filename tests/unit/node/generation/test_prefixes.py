from __future__ import annotations

import numpy as np
import pytest
from generation_fakes import VOCABULARY, FakeSlots

from capamesh.node.generation.prefixes import BLOCK, BLOCK_OVERHEAD_BYTES, Prefixes
from capamesh.node.generation.slots import Logits

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
