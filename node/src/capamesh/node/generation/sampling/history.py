"""Counts the tokens of a sequence for the penalties of its next ones. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class TokenHistory:
    """The tokens that a sequence has had, each once, with how often it was generated: no more than the sequence's tokens."""

    def __init__(self, prompt: Sequence[int], generated: Sequence[int]) -> None:
        seen = list(dict.fromkeys((*prompt, *generated)))
        self._places = {token: place for place, token in enumerate(seen)}
        self._tokens = np.array(seen, np.int64)
        self._counts = np.zeros(len(seen), np.float32)
        for token in generated:
            self._counts[self._places[token]] += 1.0

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """The different tokens of prompt and answer, in the shape [count]."""
        return self._tokens[: len(self._places)]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        """The number of times that each was generated, in the shape [count]."""
        return self._counts[: len(self._places)]

    def add(self, token: int) -> None:
        """Count a token that was generated."""
        place = self._places.setdefault(token, len(self._places))
        if place == self._tokens.shape[0]:
            room = max(16, place)
            self._tokens = np.concatenate((self._tokens, np.zeros(room, np.int64)))
            self._counts = np.concatenate((self._counts, np.zeros(room, np.float32)))
        self._tokens[place] = token
        self._counts[place] += 1.0
