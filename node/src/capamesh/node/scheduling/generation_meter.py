"""The counts of a language model beside those that every model has. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.node.contract.buckets import Buckets
from capamesh.node.scheduling.stats import SECOND_BOUNDS

if TYPE_CHECKING:
    from capamesh.node.generation import GenerationLoad, Usage


class GenerationMeter:
    """One language model's counts since it was loaded."""

    def __init__(self) -> None:
        self.first_token_s = Buckets(SECOND_BOUNDS)
        """The times from a request to the first token of its answer."""
        self.gap_s = Buckets(SECOND_BOUNDS)
        """The times between two tokens of one answer."""
        self.tokens = 0
        """The tokens of answers."""
        self.prompt_tokens = 0
        self.cached_tokens = 0
        """The tokens of prompts that did not have to run."""

    def ended(self, usage: Usage) -> None:
        """Count the prompt of an answer that has ended."""
        self.prompt_tokens += usage.prompt
        self.cached_tokens += usage.cached

    def snapshot(self, load: GenerationLoad) -> dict[str, object]:
        """Return all counts, and what is held now, as plain values."""
        return {
            "first_token_s": self.first_token_s.snapshot(),
            "gap_s": self.gap_s.snapshot(),
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "preemptions": load.preemptions,
            "drafted_tokens": load.drafted_tokens,
            "accepted_tokens": load.accepted_tokens,
            "held_tokens": load.tokens_in_flight,
            "most_held_tokens": load.pool_tokens,
        }
