"""Reads what a call of generation asks for: a JSON object with a prompt or messages, and how to go on with them. Pure.

Keys that are not known are skipped, for a newer router may send them; values are checked here and where they are used.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from capamesh.node.generation import SamplingParameters
from capamesh.node.generation.request import (
    MAX_CHOICES,
    MAX_STOP_TOKENS,
    MAX_TENANT_CHARACTERS,
    MAX_TOP_LOGPROBS,
    NO_LOGPROBS,
)
from capamesh.node.runtime.decoders.genai_config import SearchDefaults
from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.schema import Meta, Mismatch, Struct, json_reader, json_value, read

MAX_ASKED_BYTES: Final = 4 * 2**20
"""The most bytes of what is asked (guess: a router takes 1 MiB, and adds the tokens so far where a node was lost)."""
MAX_TOKENS: Final = 2**24

_Token: TypeAlias = Annotated[int, Meta(ge=0, lt=2**31)]
_Choice: TypeAlias = Annotated[int, Meta(ge=0, lt=MAX_CHOICES)]


class Guide(Struct, frozen=True):
    """The grammar that the answer's text follows; one of them is given."""

    json: bool = False
    schema: dict[str, Any] | bool | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()
    """The answer is one of these texts."""
    grammar: str | None = None
    """Rules in Lark or GBNF."""


class Asked(Struct, frozen=True):
    """The values of a call; what is None is the model's own."""

    messages: tuple[dict[str, Any], ...] | None = None
    prompt: str | tuple[_Token, ...] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    template: dict[str, Any] = {}  # noqa: RUF012 - each value gets one of its own
    guide: Guide | None = None
    echo: bool = False
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] = {}  # noqa: RUF012 - each value gets one of its own
    seed: int | None = None
    stop: tuple[str, ...] = ()
    keeps_stop: bool = False
    """True if an answer ends with the text of `stop` that has ended it."""
    stop_tokens: Annotated[tuple[_Token, ...], Meta(max_length=MAX_STOP_TOKENS)] = ()
    min_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] = 0
    ignore_eos: bool = False
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    so_far: dict[str, tuple[_Token, ...]] = {}  # noqa: RUF012 - each value gets one of its own
    """The tokens that choices have already, by the choice's number: it is gone on behind them."""
    ended: tuple[_Choice, ...] = ()
    """The choices that need no more."""
    cache_salt: Annotated[str, Meta(max_length=MAX_TENANT_CHARACTERS)] = ""
    """The one on whose behalf it is: no other is answered sooner for what was kept of his prompts."""
    share: Annotated[str, Meta(max_length=MAX_TENANT_CHARACTERS)] = ""
    """The one whose share of the model it uses, where that is not the one of `cache_salt`."""

    @property
    def is_resumed(self) -> bool:
        """Return whether another node has answered the beginning."""
        return bool(self.so_far or self.ended)


class _Client(Struct, frozen=True):
    """The values of a call that tell whose it is."""

    cache_salt: str = ""
    share: str = ""


_client = json_reader(_Client)


def client_of(raw: bytes | memoryview) -> str:
    """Return whose share a call uses, before all of it is read (2 ms a MiB); junk is nobody's. Raises nothing: `read_asked` does."""
    try:
        found = _client(bytes(raw))
    except (ValueError, RecursionError):
        return ""
    return found.share or found.cache_salt


def read_asked(raw: bytes | memoryview) -> Asked:
    """Return what a call asks for. Raises `InvalidRequest`, `TooLarge`: the field, its value and the limit."""
    if len(raw) > MAX_ASKED_BYTES:
        raise TooLarge(f"generation has {len(raw)} bytes; it may have {MAX_ASKED_BYTES}")
    try:
        asked = read(json_value(bytes(raw)), Asked)
    except Mismatch as exc:
        raise InvalidRequest(f"generation: {exc}") from exc
    if (asked.messages is None) == (asked.prompt is None):
        raise InvalidRequest("generation needs messages or a prompt, and one of them alone")
    if asked.messages is not None and not asked.messages:
        raise InvalidRequest("messages are empty; send at least one")
    numbers = {str(number) for number in range(asked.n)}
    for number in asked.so_far.keys() - numbers:
        raise InvalidRequest(
            f"so_far has choice {number[:20]!r}; n is {asked.n}, so they are 0 to {asked.n - 1}"
        )
    if len(set(asked.ended)) >= asked.n:
        raise InvalidRequest(f"ended has all of the {asked.n} choices; there is nothing left to do")
    return asked


def sampling_of(asked: Asked, search: SearchDefaults, seed: int) -> SamplingParameters:
    """Return how tokens are drawn: what is not asked for is as `search`, the model's own defaults, has it. Raises `InvalidRequest`."""
    is_own = search.is_sampled
    usual = (search.temperature, search.top_k, search.top_p) if is_own else (0.0, 0, 1.0)
    return SamplingParameters(
        temperature=_given(asked.temperature, usual[0]),
        top_k=_given(asked.top_k, usual[1]),
        top_p=_given(asked.top_p, usual[2]),
        min_p=asked.min_p,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        repetition_penalty=_given(asked.repetition_penalty, search.repetition_penalty),
        logit_bias=_biases(asked),
        seed=seed,
        logprobs=NO_LOGPROBS if asked.logprobs is None else asked.logprobs,
    )


def _given(value: Any, usual: Any) -> Any:  # noqa: ANN401 - a number of either kind
    return usual if value is None else value


def _biases(asked: Asked) -> dict[int, float]:
    found: dict[int, float] = {}
    for token, bias in asked.logit_bias.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 10):
            raise InvalidRequest(f"logit_bias has {token[:20]!r}; a token's number is expected")
        found[int(token)] = bias
    return found
