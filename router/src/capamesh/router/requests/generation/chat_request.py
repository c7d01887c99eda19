"""Reads the body of a request for a chat's next message, as OpenAI has it. Pure."""

from __future__ import annotations

from typing import Any

from capamesh.router.requests.generation.asked import Asked, affinity_of
from capamesh.router.requests.generation.bodies import ChatRequest
from capamesh.router.requests.generation.fields import Values, flag, model_of, table, text
from capamesh.router.requests.generation.foreign_fields import taken
from capamesh.router.requests.generation.guides import guide_of
from capamesh.router.requests.generation.messages import MOST_ID, Messages, tools_of
from capamesh.router.requests.generation.sampling import (
    choices_of,
    most_tokens_of,
    sampling_of,
    stream_of,
)
from capamesh.router.requests.invalid_parameter import InvalidParameter


def read_chat(values: Values) -> Asked:
    """Return what a body asks for. Raises `InvalidParameter`."""
    model = model_of(taken(values, ChatRequest))
    messages = Messages().read(values)
    tools = tools_of(values)
    choices = choices_of(values)
    max_tokens = most_tokens_of(values, "max_completion_tokens", "max_tokens")
    settings = sampling_of(values, max_tokens)
    logprobs = _logprobs(values)
    is_streamed, has_usage = stream_of(values)
    settings.update(guide_of(values))
    template = table(values, "chat_template_kwargs")
    if template:
        settings["template"] = template
    settings.update(common_settings(choices, max_tokens, logprobs))
    return Asked(
        model=model,
        prompts=({"messages": messages, **tools},),
        settings=settings,
        choices=choices,
        max_tokens=max_tokens,
        logprobs=logprobs,
        is_streamed=is_streamed,
        has_usage=has_usage,
        affinity=chat_affinity(values, messages, tools),
    )


def common_settings(choices: int, max_tokens: int | None, logprobs: int | None) -> dict[str, Any]:
    """Return the fields of what a node is asked that say how much it answers; those that are usual are left out."""
    found: dict[str, Any] = {}
    if choices != 1:
        found["n"] = choices
    if max_tokens is not None:
        found["max_tokens"] = max_tokens
    if logprobs is not None:
        found["logprobs"] = logprobs
    return found


def chat_affinity(values: Values, messages: list[dict[str, Any]], tools: dict[str, Any]) -> str:
    """Return what all requests of one chat have in common: what stands before its first answer, or the client's own word for it."""
    named = text(values, "prompt_cache_key", MOST_ID)
    if named:
        return affinity_of(named)
    first = next(
        (at for at, message in enumerate(messages) if message["role"] == "user"), len(messages) - 1
    )
    return affinity_of(tools, messages[: first + 1])


def _logprobs(values: Values) -> int | None:
    """Return how many alternatives are told beside each token; None: no log probabilities are wanted."""
    most: int | None = values.get("top_logprobs")
    if flag(values, "logprobs"):
        return most or 0
    if most:
        raise InvalidParameter(
            "top_logprobs", "top_logprobs are told beside logprobs; set logprobs to true, too"
        )
    return None
