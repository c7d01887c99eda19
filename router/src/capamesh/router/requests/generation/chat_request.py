"""Reads the body of a request for a chat's next message, as OpenAI has it. Pure."""

from __future__ import annotations

from typing import Any, Final, cast

from capamesh.router.requests.generation.asked import Asked, affinity_of
from capamesh.router.requests.generation.fields import (
    Values,
    flag,
    model_of,
    refuse,
    table,
    text,
    whole,
    wrong,
)
from capamesh.router.requests.generation.messages import MOST_ID, Messages, tools_of
from capamesh.router.requests.generation.sampling import (
    MOST_LOGPROBS,
    choices_of,
    most_tokens_of,
    sampling_of,
    stream_of,
)
from capamesh.router.requests.invalid_parameter import InvalidParameter

_UNSUPPORTED: Final[dict[str, tuple[tuple[object, ...], str]]] = {
    "functions": (([],), "use tools"),
    "function_call": (("none", "auto"), "use tool_choice"),
    "modalities": ((["text"],), "models answer texts"),
    "audio": ((), "models answer texts"),
    "prediction": ((), "leave it out"),
    "web_search_options": ((), "give the model a tool that searches"),
    "store": ((False,), "nothing is stored; leave it out"),
    "service_tier": (("auto", "default"), "leave it out"),
    "reasoning_effort": ((), "templates of models take it, if any does: use chat_template_kwargs"),
    "verbosity": (("medium",), "ask for it in a message"),
}
"""Fields that OpenAI has and nodes have not, with the values that ask for nothing and with what to do instead."""


def read_chat(values: Values) -> Asked:
    """Return what a body asks for. Fields that are not known are skipped, as OpenAI's server does. Raises `InvalidParameter`."""
    model = model_of(values)
    refuse(values, _UNSUPPORTED)
    messages = Messages().read(values)
    tools = tools_of(values)
    settings = sampling_of(values)
    choices = choices_of(values)
    max_tokens = most_tokens_of(values, "max_completion_tokens", "max_tokens")
    logprobs = _logprobs(values)
    is_streamed, has_usage = stream_of(values)
    guide = guide_of(values.get("response_format"), "response_format")
    if guide is not None:
        settings["guide"] = guide
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


def guide_of(given: object, at: str) -> dict[str, Any] | None:
    """Return what an answer's text must follow; None: nothing. Raises `InvalidParameter`."""
    if given is None:
        return None
    if not isinstance(given, dict):
        raise wrong(at, given, "an object is expected")
    values = cast("dict[str, Any]", given)
    match values.get("type"):
        case "text":
            return None
        case "json_object":
            return {"json": True}
        case "json_schema":
            holder, inside = values, at  # as /v1/responses has it
            if values.get("json_schema") is not None:
                holder, inside = (
                    table(values, "json_schema", at=f"{at}.") or {},
                    f"{at}.json_schema",
                )
            schema = table(holder, "schema", at=f"{inside}.")
            if schema is None:
                raise InvalidParameter(f"{inside}.schema", f"{inside}.schema is missing; add it")
            return {"schema": schema}
        case other:
            raise wrong(f"{at}.type", other, "text, json_object or json_schema is expected")


def _logprobs(values: Values) -> int | None:
    """Return how many alternatives are told beside each token; None: no log probabilities are wanted."""
    most = whole(values, "top_logprobs", 0, MOST_LOGPROBS)
    if flag(values, "logprobs"):
        return most or 0
    if most:
        raise InvalidParameter(
            "top_logprobs", "top_logprobs are told beside logprobs; set logprobs to true, too"
        )
    return None
