"""The parts of an answer as they leave the engine: tokens with their text, and the end. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError

Finish = Literal["stop", "length"]
STOP: Final = "stop"
"""The answer came to its end: a token or string that stops it, or a grammar that is complete."""
LENGTH: Final = "length"
"""The answer has its most tokens, or the model's context is full."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token's log probability, and those of the likeliest at its place, as the model gave them."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with theirs, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens that a choice took."""

    prompt: int
    """Tokens of the prompt."""
    cached: int
    """Tokens of the prompt that did not have to run, for their cache was there."""
    completion: int
    """Tokens of the answer, one that stopped it included."""


@dataclass(frozen=True, slots=True)
class TokenPart:
    """The part of an answer that one step adds. Token ids always travel: with the prompt they are all that another node needs to go on."""

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish: Finish | None = None
    """The reason why the answer is complete; None: more comes, or `error` tells why not."""
    usage: Usage | None = None
    """The tokens taken, with the last part."""
    error: CapameshError | None = None
    """The reason why the answer ends unfinished."""

    @property
    def is_last(self) -> bool:
        """Return whether nothing comes after this part."""
        return self.finish is not None or self.error is not None
