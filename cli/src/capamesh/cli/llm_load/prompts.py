"""Prompts of given lengths, the same for the same seed, no two of which begin alike. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

WORDS: Final = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system",
    "program", "question", "work", "number", "night", "point", "home", "water", "room", "mother", "area", "money",
    "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side",
    "kind", "head", "house", "service", "friend", "father", "power", "hour", "game", "line", "end", "member", "law", "car",
)  # fmt: skip
"""The commonest nouns of English: most tokenizers have a token for each."""
SHORT: Final = 16
LONG: Final = 144
"""The words of the two prompts by which a tokenizer is gauged."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """The tokens that prompts of so many words come to."""

    per_word: float = 1.0
    template: float = 0.0
    """The tokens of a prompt without words: what the chat's template adds."""

    @classmethod
    def of(cls, short_tokens: int, long_tokens: int) -> Gauge:
        """Return it by the tokens of prompts of `SHORT` and of `LONG` words; a server that does not count has a token a word."""
        if long_tokens <= short_tokens:
            return cls()
        per_word = (long_tokens - short_tokens) / (LONG - SHORT)
        return cls(per_word, max(0.0, short_tokens - SHORT * per_word))

    def words(self, tokens: int) -> int:
        """Return the words of a prompt of so many tokens, at least one."""
        return max(1, round((tokens - self.template) / self.per_word))


def prompt(seed: int, words: int, *place: object) -> str:
    """Return a prompt of so many words, which is another one for each seed and each `place` in a run."""
    draw = random.Random(f"{seed}/{'/'.join(map(str, place))}")  # noqa: S311 - a load, no secret
    return " ".join(draw.choices(WORDS, k=words))
