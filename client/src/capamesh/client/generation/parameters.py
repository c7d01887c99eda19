"""The parameters of a request for generation, and the check that no other is named. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

from capamesh.protocol.errors import InvalidRequest


class TextParameters(TypedDict, total=False):
    """The parameters of all requests; one that is left out, or None, is as the model has it."""

    max_tokens: int | None
    """The most tokens of each answer."""
    temperature: float | None
    """A number from 0, the likeliest token each time, to 2."""
    top_p: float | None
    """The likeliest tokens that together have this probability are drawn from."""
    top_k: int | None
    """The number of the likeliest tokens that are drawn from."""
    min_p: float | None
    """The part of the likeliest token's probability that a token must have."""
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    seed: int | None
    """The number that stands for all draws: the same one makes the same text."""
    stop: str | Sequence[str] | None
    """The texts before which an answer ends, up to four."""
    n: int | None
    """The answers to a prompt, up to eight."""
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    ignore_eos: bool | None
    """True if an answer goes on behind the model's own end, up to `max_tokens`."""
    stop_token_ids: Sequence[int] | None
    include_stop_str_in_output: bool | None
    """True if the text of `stop` that ends an answer is part of it."""
    min_tokens: int | None
    """The tokens of an answer before which nothing ends it."""
    guided_json: Mapping[str, Any] | None
    """The JSON schema that answers follow."""
    guided_regex: str | None
    guided_choice: Sequence[str] | None
    """The texts of which an answer is one."""
    guided_grammar: str | None
    """Rules in Lark or GBNF that answers follow."""
    prompt_cache_key: str | None
    """Requests with the same one go to the same node."""


class ChatParameters(TextParameters, total=False):
    """The parameters of a request for a chat's next message."""

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: Literal["auto", "none", "required"] | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    response_format: Mapping[str, Any] | None
    """`{"type": "json_schema", "json_schema": {"schema": ...}}` holds the answer to a schema."""
    logprobs: bool | None
    top_logprobs: int | None
    chat_template_kwargs: Mapping[str, Any] | None


class CompletionParameters(TextParameters, total=False):
    """The parameters of a request for the continuation of prompts."""

    logprobs: int | None
    echo: bool | None
    """True if an answer begins with its prompt."""


CHAT_NAMES: Final = frozenset(ChatParameters.__annotations__)
COMPLETION_NAMES: Final = frozenset(CompletionParameters.__annotations__)


def given(parameters: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Return those parameters that are given. Raises `InvalidRequest` for one that is none of `names`.

    Routers refuse it, too, one round trip later.
    """
    for name in parameters:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(names))}"
            raise InvalidRequest(f"there is no parameter {name!r:.80}; {hint}")
    return {name: value for name, value in parameters.items() if value is not None}
