"""Learns how long a model's answers come to be, and says how many tokens one will take. Pure.

What an answer costs is foreseen by what answers did cost, not by the most that it may have: who sends no limit has one of thousands of
tokens. The chance that an answer ends with its next token is counted apart for answers that have had 0, 1, 2 to 3, 4 to 7 tokens and so on.
One that was cut by its limit or by an error counts for the tokens that it had, and not as an end; a client that leaves is one.
Each client of late weighs the same, however many answers it has had: else who asks for a thousand short ones foretells short waits to all.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from typing_extensions import override

USUAL_TOKENS: Final = 256
"""The tokens of an answer before any is known; it weighs as much as one answer (a chat's answer has 214 on average in LMSYS-Chat-1M
(Zheng et al. 2024, table 1), 338 in ShareGPT (Kwon et al. 2023, figure 11))."""
FORGET: Final = 1 / 256
"""The weight that an answer takes from those before that had as many tokens (guess: some hundreds are minutes of a busy model)."""
LATELY: Final = 64
"""The answers by which clients are weighed against each other (guess: a quarter of those that count)."""
CLASSES: Final = 33
"""The classes of lengths: up to the longest that a length of 32 bits tells."""


class AnswerLengths:
    """The ends of one model's answers."""

    __slots__ = ("_ends", "_lately", "_spent")

    def __init__(self) -> None:
        self._ends = [0.0] * CLASSES
        """Answers that ended with a token of each class."""
        self._spent = [0.0] * CLASSES
        """Tokens of each class."""
        self._lately: deque[str] = deque(maxlen=LATELY)
        """The clients of the newest answers."""

    @override
    def __repr__(self) -> str:
        return f"AnswerLengths({self.expected(0, 2**31):.0f} tokens)"

    def ended(self, first: int, length: int, client: str, *, is_cut: bool) -> None:
        """Take in an answer of `length` tokens to `client`, of which those from number `first` on were generated here."""
        lately = self._lately
        lately.append(client)
        weight = len(lately) / (len(set(lately)) * lately.count(client))
        kept = 1.0 - FORGET * weight
        had = first
        while had < length:
            kind = had.bit_length()
            edge = min(length, 1 << kind)
            is_end = edge == length and not is_cut
            self._spent[kind] = kept * self._spent[kind] + weight * (edge - had)
            self._ends[kind] = kept * self._ends[kind] + (weight if is_end else 0.0)
            had = edge

    def end_rate(self, had: int) -> float:
        """Return the chance that an answer that has had so many tokens ends with its next."""
        kind = had.bit_length()
        width = max(1, 1 << kind >> 1)  # one usual answer that comes through it
        return (self._ends[kind] + width / USUAL_TOKENS) / (self._spent[kind] + width)

    def expected(self, had: int, most: int) -> float:
        """Return how many tokens more an answer that has had `had` is expected to take, of at most `most`."""
        total, going_on, end = 0.0, 1.0, had + most
        while had < end:
            rate = self.end_rate(had)
            edge = min(end, 1 << had.bit_length())
            still: float = (1.0 - rate) ** (edge - had)
            total += going_on * (1.0 - still) / rate
            going_on *= still
            had = edge
        return total
