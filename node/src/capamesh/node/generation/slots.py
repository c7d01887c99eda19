"""The interface of a decoder's cache pool: what the engine asks of whatever runs the model. Pure."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
"""Scores of next tokens, as described by the method that returns them."""
CacheBlock = npt.NDArray[Any]
"""A copy of what the cache holds of some tokens; its layout is the pool's own, with the tokens last but one."""


class Slots(Protocol):
    """A fixed number of slots, each with the cache of one sequence of at most `length` tokens.

    What a decode step gives for a slot depends on that slot's tokens alone, bit for bit, and what `extend` gives does not
    depend on how a prompt is cut, as long as no piece has one token, or one more than a multiple of 32. One thread uses it.
    """

    count: int
    """The number of slots."""
    length: int
    """The most tokens of a slot."""
    token_bytes: int
    """The bytes that the cache of one token takes."""
    vocabulary: int
    """The number of tokens that logits score."""
    scores_each: bool
    """True if the model gives the scores behind each token of a run, not behind the last alone."""
    most_replayed: int
    """The most tokens of all slots together that `replay` takes at once; 0: it takes none."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> Logits:
        """Feed one token to each of the slots 0 to B-1; return logits in the shape [B, vocabulary], valid until it is called again.

        Raises `RunFailed`: the model did not run; the slots' contents are then unknown.
        """

    @abstractmethod
    def extend(self, slot: int, tokens: Sequence[int], *, wants_logits: bool) -> Logits | None:
        """Feed several tokens to `slot`; return the logits behind the last in the shape [vocabulary] if they are wanted.

        Raises `RunFailed`: the model did not run; the slot's contents are then unknown.
        """

    @abstractmethod
    def replay(
        self, pieces: Sequence[tuple[int, Sequence[int]]], *, wants_logits: bool
    ) -> Logits | None:
        """Feed known tokens of answers to several slots, each by its number; they get the bits that decode steps give.

        Return the logits behind the last token of each piece in the shape [pieces, vocabulary] if they are wanted.
        Raises `RunFailed`: the model did not run; the slots' contents are then unknown.
        """

    @abstractmethod
    def score(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Do as `extend`, and return the logits behind each token in the shape [tokens, vocabulary], valid until `slot` is extended.

        Only where `scores_each`. Raises `RunFailed`: the model did not run; the slot's contents are then unknown.
        """

    @abstractmethod
    def copy(self, source: int, target: int, count: int) -> None:
        """Let `target` hold the first `count` tokens of `source`, and nothing else."""

    @abstractmethod
    def truncate(self, slot: int, count: int) -> None:
        """Let `slot` hold its first `count` tokens only."""

    @abstractmethod
    def used(self, slot: int) -> int:
        """Return the number of tokens that `slot` holds."""

    @abstractmethod
    def save(self, slot: int, start: int, stop: int) -> CacheBlock:
        """Return a copy of the cache of the tokens `start` to `stop` of `slot`; its layout is the pool's own."""

    @abstractmethod
    def load(self, slot: int, block: CacheBlock, count: int) -> None:
        """Append the first `count` tokens of `block` to `slot`; the layout is that of `save`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the model and of all that slots hold: nothing is run any more. Again is harmless."""
