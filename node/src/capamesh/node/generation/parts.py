"""The parts of an answer as they leave the engine: tokens with their text, and the end. Pure."""

from __future__ import annotations

from typing import Final, Literal

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.values import Value

Finish = Literal["stop", "length"]
STOP: Final = "stop"
"""The answer came to its end: a token or string that stops it, or a grammar that is complete."""
LENGTH: Final = "length"
"""The answer has its most tokens, or the model's context is full."""


class TokenLogprob(Value):
    """One token's log probability, and those of the likeliest at its place, as the model gave them."""

    __slots__ = ("logprob", "token", "top")

    def __init__(self, token: int, logprob: float, top: tuple[tuple[int, float], ...] = ()) -> None:
        self.token = token
        self.logprob = logprob
        self.top = top
        """The likeliest tokens with theirs, the likeliest first."""


class Usage(Value):
    """The tokens that a choice took."""

    __slots__ = ("cached", "completion", "prompt")

    def __init__(self, prompt: int, cached: int, completion: int) -> None:
        self.prompt = prompt
        """Tokens of the prompt."""
        self.cached = cached
        """Tokens of the prompt that did not have to run, for their cache was there."""
        self.completion = completion
        """Tokens of the answer, one that stopped it included."""


class TokenPart(Value):
    """The part of an answer that one step adds. Token ids always travel: with the prompt they are all that another node needs to go on."""

    __slots__ = ("error", "finish", "ids", "logprobs", "text", "usage")

    def __init__(
        self,
        ids: tuple[int, ...],
        text: str,
        logprobs: tuple[TokenLogprob, ...] | None = None,
        finish: Finish | None = None,
        usage: Usage | None = None,
        error: CapameshError | None = None,
    ) -> None:
        self.ids = ids
        self.text = text
        self.logprobs = logprobs
        self.finish = finish
        """The reason why the answer is complete; None: more comes, or `error` tells why not."""
        self.usage = usage
        """The tokens taken, with the last part."""
        self.error = error
        """The reason why the answer ends unfinished."""

    @property
    def is_last(self) -> bool:
        """Return whether nothing comes after this part."""
        return self.finish is not None or self.error is not None
