"""Guesses the next tokens of an answer that repeats: those that followed the same tokens before, in the prompt or the answer. Pure.

One run gives the scores behind each token of a draft, and tokens are drawn of these scores as of any others: as long as what is drawn is
what was guessed, the next scores hold, too. Whether and what is guessed depends on the sequence's own tokens alone (docs/decisions/0090).
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Final

import numpy as np

MOST_LOOKUP: Final = 15
"""The most tokens of a draft: with the one before them they are a run of 16, which attention computes as it does any of two or more."""
_LEAST_MATCH: Final = 5
"""The fewest last tokens that must have come before (measured: with three more is gained alone, and lost where many generate)."""
_MOST_MATCH: Final = 32
"""The most last tokens that are compared (guess)."""


class Lookup:
    """The tokens of one sequence, in which its last ones are looked up."""

    __slots__ = ("_count", "_prompt", "_tokens", "turn")

    def __init__(self, prompt: SequenceOf[int], most_tokens: int) -> None:
        """Begin with `prompt`, behind which an answer may come, of at most `most_tokens` with it."""
        self._tokens = np.zeros(most_tokens, np.int64)
        self._tokens[: len(prompt)] = prompt
        self._prompt = self._count = len(prompt)
        self.turn = 0
        """The number of the step in which a draft of it was run last; 0: none was."""

    def draft(self, out: list[int], fed: int, most: int) -> list[int]:
        """Return what followed the last tokens when they last came before, at most `most` tokens; none if they did not.

        The more tokens before agree, the more are guessed: eight behind five that do, and two more for each more (measured: as quick alone as
        always the most, with fewer tokens run for nothing).

        The last tokens are those of the prompt and of `out` as far as the first `fed` + 1: what is known behind these, of an answer that is
        computed again, has no part in it.
        """
        tokens, count = self._tokens, self._prompt + fed + 1
        tokens[self._count : count] = out[self._count - self._prompt : fed + 1]
        self._count = count
        places = np.flatnonzero(tokens[: count - 1] == tokens[count - 1])
        match = 1
        while places.shape[0] and match < _MOST_MATCH:
            longer = places[places >= match]
            longer = longer[tokens[longer - match] == tokens[count - 1 - match]]
            if not longer.shape[0]:
                break
            places = longer
            match += 1
        if match < _LEAST_MATCH or not places.shape[0]:
            return []
        at = int(places[-1]) + 1
        # the run gives one token more than is guessed; and one is guessed where one is left, for runs of one round otherwise
        room = max(1, tokens.shape[0] - count - 1)
        most = min(most, 2 * match - 2, count - at, room)
        guessed: list[int] = tokens[at : at + most].tolist()
        return guessed
