"""The request of a generation, with the bounds of each value. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from capamesh.protocol.errors import InvalidRequest, TooLarge

MAX_TEMPERATURE: Final = 100.0
"""The largest temperature (guess: far beyond OpenAI's 2, and far from an overflow)."""
MAX_PENALTY: Final = 100.0
"""The largest amount of a penalty or bias (OpenAI: 2 for penalties, 100 for biases)."""
MAX_BIASES: Final = 1024
"""The most tokens that a request may give a bias (OpenAI: 300)."""
MAX_TOP_LOGPROBS: Final = 20
"""The most alternatives told of a token: OpenAI's limit."""
NO_LOGPROBS: Final = -1
MAX_CHOICES: Final = 128
"""The most choices of a request: OpenAI's limit."""
MAX_STOP_STRINGS: Final = 16
"""The most strings that end an answer (OpenAI: 4)."""
MAX_STOP_CHARACTERS: Final = 1024
"""The most characters of one such string (guess)."""
MAX_STOP_TOKENS: Final = 256
"""The most tokens that end an answer (guess)."""
MAX_PRIORITY: Final = 1000
_BULK_RANK: Final = MAX_PRIORITY + 1
MAX_TENANT_CHARACTERS: Final = 256
MAX_SEED: Final = 2**64 - 1
GREEDY: Final = 1e-5
"""The temperature from which on down the likeliest token is taken (vLLM's limit)."""


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """The manner in which the next token is drawn. `InvalidRequest`: a value out of its range.

    The order is: bias, penalties, temperature, `min_p`, `top_k`, `top_p`, each on what the one before left.
    """

    temperature: float = 1.0
    """The number that scores are divided by; 0 takes the likeliest token."""
    top_k: int = 0
    """A token is kept if fewer than this many are likelier; 0: all are."""
    top_p: float = 1.0
    """A token is kept if those that are likelier have less than this share of the odds."""
    min_p: float = 0.0
    """A token is kept if it has at least this share of the likeliest token's odds."""
    presence_penalty: float = 0.0
    """The amount that a token which was generated before loses of its score."""
    frequency_penalty: float = 0.0
    """The amount that a token loses of its score for each time it was generated before."""
    repetition_penalty: float = 1.0
    """The number that the score of a token of the prompt or the answer is divided by, or multiplied with where it is negative."""
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    """The amounts that are added to the scores of single tokens."""
    seed: int = 0
    """The seed: the same seed and tokens give the same next token, in any batch and at any node."""
    logprobs: int = NO_LOGPROBS
    """The number of likeliest tokens to tell with each token beside its own log probability; `NO_LOGPROBS`: neither."""

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        _check("top_k", self.top_k, 0, math.inf)
        _check("top_p", self.top_p, 0.0, 1.0)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
        _check("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
        _check("repetition_penalty", self.repetition_penalty, 1 / MAX_PENALTY, MAX_PENALTY)
        _check("seed", self.seed, 0, MAX_SEED)
        _check("logprobs", self.logprobs, NO_LOGPROBS, MAX_TOP_LOGPROBS)
        if len(self.logit_bias) > MAX_BIASES:
            raise InvalidRequest(
                f"logit_bias has {len(self.logit_bias)} tokens; it may have {MAX_BIASES}"
            )
        for token, bias in self.logit_bias.items():
            _check(f"the logit_bias of token {token}", bias, -MAX_PENALTY, MAX_PENALTY)

    @property
    def is_greedy(self) -> bool:
        """Return whether the likeliest token is taken, so that the seed does not matter."""
        return self.temperature <= GREEDY or self.top_k == 1 or self.top_p == 0.0

    @property
    def has_penalties(self) -> bool:
        """Return whether the tokens so far change the scores."""
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repetition_penalty != 1.0
        )


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt with all that is asked of its continuation. `InvalidRequest`, `TooLarge`: a value out of its range."""

    prompt: tuple[int, ...]
    """The prompt's tokens, at least one."""
    max_tokens: int
    """The most tokens of each choice, those of `resumed` included."""
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    stop_tokens: frozenset[int] = frozenset()
    """The tokens that end an answer; their text is not part of it."""
    stop_strings: tuple[str, ...] = ()
    """The strings that end an answer."""
    keeps_stop: bool = False
    """True if the string that ends an answer is part of it."""
    min_tokens: int = 0
    """The tokens of an answer that nothing of the above ends before."""
    choices: int = 1
    """The number of answers to the one prompt."""
    first_choice: int = 0
    """The number of the first answer: one that is resumed keeps its own, for its random numbers depend on it."""
    resumed: tuple[int, ...] = ()
    """The tokens that the answer already has, from another node; they are not given out again. They are run as they were made, so that
    what follows is to the bit what it would have been."""
    priority: int = 0
    """A smaller number goes first, among those that are bulk and among those that are not."""
    is_bulk: bool = False
    """True if nobody waits for it, as of a batch: all others go first, and may have its slot."""
    tenant: str = ""
    """The one on whose behalf it is: tenants share the model fairly, and share no prefixes."""
    share: str = ""
    """The one whose share of the model it uses; "": the tenant's. Several may be of one tenant."""
    deadline_s: float = math.inf
    """The time on the engine's clock at which the answer ends unfinished, wherever it is."""

    @property
    def rank(self) -> int:
        """The place in the order of all: a smaller number goes first."""
        return self.priority + (_BULK_RANK if self.is_bulk else 0)

    @property
    def client(self) -> str:
        """The one whose share of the model it uses."""
        return self.share or self.tenant

    def __post_init__(self) -> None:
        if not self.prompt:
            raise InvalidRequest("the prompt has no tokens; send at least one")
        _check("max_tokens", self.max_tokens, 1, math.inf)
        _check("n", self.choices, 1, MAX_CHOICES)
        _check("first_choice", self.first_choice, 0, MAX_CHOICES - 1)
        _check("priority", self.priority, 0, MAX_PRIORITY)
        if len(self.stop_tokens) > MAX_STOP_TOKENS:
            raise InvalidRequest(
                f"{len(self.stop_tokens)} tokens should end the answer; {MAX_STOP_TOKENS} may"
            )
        if len(self.stop_strings) > MAX_STOP_STRINGS:
            raise InvalidRequest(
                f"stop has {len(self.stop_strings)} strings; it may have {MAX_STOP_STRINGS}"
            )
        for each in self.stop_strings:
            if not 1 <= len(each) <= MAX_STOP_CHARACTERS:
                raise InvalidRequest(
                    f"a string of stop has {len(each)} characters; it may have 1 to {MAX_STOP_CHARACTERS}"
                )
        if len(self.tenant) > MAX_TENANT_CHARACTERS:
            raise TooLarge(
                f"the tenant's name has {len(self.tenant)} characters; it may have {MAX_TENANT_CHARACTERS}"
            )
        if math.isnan(self.deadline_s):
            raise InvalidRequest("the deadline is no number; leave it out for none")
        if self.resumed and self.choices != 1:
            raise InvalidRequest(
                f"n is {self.choices} and tokens are resumed; each choice is resumed by a request of its own"
            )
        if len(self.resumed) >= self.max_tokens:
            raise InvalidRequest(
                f"{len(self.resumed)} tokens are resumed and max_tokens is {self.max_tokens}; there is nothing left to do"
            )


def _check(name: str, value: float, least: float, most: float) -> None:
    """Raise `InvalidRequest` unless `value` is a number from `least` to `most`."""
    if not least <= value <= most:  # false for what is no number, too
        limits = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
        raise InvalidRequest(f"{name} is {value}; it may be {limits}")
