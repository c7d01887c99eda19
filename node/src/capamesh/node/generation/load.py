"""The load of an engine, for routers to choose by. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GenerationLoad:
    """A snapshot of one model's generation."""

    generating: int
    """Sequences that get a token each step."""
    filling: int
    """Sequences whose prompt is being run, without the other choices of their requests."""
    waiting: int
    """Sequences that wait for a slot."""
    waiting_tokens: int
    """Tokens that these are expected to take, prompts and answers together."""
    tokens_in_flight: int
    """Tokens that slots hold."""
    promised_tokens: int
    """Tokens that sequences with a slot may come to hold."""
    pool_tokens: int
    """Tokens that may be promised."""
    free_slots: int
    slots: int
    tokens_per_s: float
    """Tokens generated a second, as of late; 0 before the first."""
    prefix_bytes: int
    """Bytes of kept prefixes."""
    prefix_hits: int
    """Tokens of prompts that did not have to run, since the start."""
    preemptions: int
    """Sequences that gave way and were computed again, since the start."""
    drafted_tokens: int
    """Tokens that were guessed and run, since the start."""
    accepted_tokens: int
    """Tokens of these that were drawn, too."""
    fill_token_s: float
    """Seconds of a token of a prompt; 0 before the first."""
    kept_tokens: int
    """Tokens of which prefixes may be kept."""
    first_token_s: float
    """Seconds until a short prompt that came now would have its first token, as estimated."""
