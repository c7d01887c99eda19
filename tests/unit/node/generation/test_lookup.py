from __future__ import annotations

import random

from capamesh.node.generation.lookup import Lookup


def test_tokens_that_followed_the_last_ones_are_guessed() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 6, 7, 8, 9], 40)
    out = [1, 2, 3, 4, 5, 6, 7]
    for fed in range(4):
        assert lookup.draft(out[: fed + 1], fed, 4) == []
    assert lookup.draft(out[:5], 4, 4) == [6, 7, 8, 9]
    assert lookup.draft(out[:6], 5, 2) == [7, 8]
    assert lookup.draft(out, 6, 9) == [8, 9, 1, 2, 3, 4, 5, 6, 7]


def test_guesses_are_those_of_a_plain_search() -> None:
    rng = random.Random(0)
    found = 0
    for _ in range(300):
        tokens = [rng.randrange(2) for _ in range(rng.randint(2, 60))]
        count = rng.randint(1, len(tokens) - 1)
        lookup = Lookup(tokens[:count], 80)
        draft = lookup.draft(tokens[count:], len(tokens) - count - 1, 5)
        assert draft == _plain(tokens, 5)
        found += len(draft)
    assert found > 300


def _plain(tokens: list[int], most: int) -> list[int]:
    for match in range(min(32, len(tokens) - 1), 4, -1):
        for end in range(len(tokens) - 1, match - 1, -1):
            if tokens[end - match : end] == tokens[-match:]:
                return tokens[end : end + min(most, 2 * match - 2)]
    return []
