"""The settings of one model's generation, with their bounds. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from capamesh.node.generation.lookup import MOST_LOOKUP
from capamesh.protocol.errors import ConfigError

MIN_CHUNK: Final = 2
"""The fewest tokens of a run that fills a prompt: a run of one rounds otherwise (docs/decisions/0075)."""


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """The settings of one model. `ConfigError`: a value out of its range."""

    pool_tokens: int = 0
    """The most tokens that all slots may hold together; 0: as many as fit into them."""
    overcommit: float = 1.0
    """The share of the pool that prompts with their longest answers may have been promised. Over 1, sequences may
    have to give way and be computed again."""
    max_waiting: int = 256
    """The most sequences that wait (guess)."""
    max_waiting_tokens: int = 262_144
    """The most tokens that waiting requests may be expected to take, prompts and answers together (guess: some minutes' work)."""
    target_gap_s: float = 0.08
    """Seconds between two tokens of a sequence that prompts beside it should not exceed, and the time of a piece of a prompt while others wait
    (measured: chunks of 32 tokens on two cores)."""
    max_chunk: int = 512
    """The most tokens of a prompt in one run: it bounds scratch memory, and how late a cancel is seen."""
    prefix_bytes: int = 256 * 2**20
    """The most bytes of kept prefixes; 0 keeps none."""
    keeps_answers: bool = False
    """True to keep the cache of answers too, for a conversation's next turn. Such tokens were computed one by one, so that what follows may
    round otherwise than without the hit."""

    lookup_tokens: int = 0
    """The most tokens that are guessed of an answer that repeats its prompt or itself, and run at once; 0: none are. Such tokens may round
    otherwise than those that were run one by one."""

    def __post_init__(self) -> None:
        if self.pool_tokens < 0:
            raise ConfigError(f"pool_tokens is {self.pool_tokens}; 0 is for all that slots hold")
        if not 1.0 <= self.overcommit <= 100.0:
            raise ConfigError(f"overcommit is {self.overcommit}; it may be 1 to 100")
        if self.max_waiting < 1:
            raise ConfigError(f"max_waiting is {self.max_waiting}; it must be at least 1")
        if self.max_waiting_tokens < 1:
            raise ConfigError(
                f"max_waiting_tokens is {self.max_waiting_tokens}; it must be at least 1"
            )
        if not 0.0 < self.target_gap_s <= 60.0:
            raise ConfigError(
                f"target_gap_s is {self.target_gap_s}; it must be over 0 and at most 60"
            )
        if self.max_chunk < 2 * MIN_CHUNK:
            raise ConfigError(f"max_chunk is {self.max_chunk}; it must be at least {2 * MIN_CHUNK}")
        if self.prefix_bytes < 0:
            raise ConfigError(f"prefix_bytes is {self.prefix_bytes}; 0 keeps no prefixes")
        if not 0 <= self.lookup_tokens <= MOST_LOOKUP:
            raise ConfigError(
                f"lookup_tokens is {self.lookup_tokens}; it may be 0 to {MOST_LOOKUP}"
            )
