"""Reads the bodies of requests as Ollama's clients write them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from capamesh.router.requests.generation.asked import MOST_BYTES, Asked, affinity_of
from capamesh.router.requests.generation.bodies import (
    OllamaChatRequest,
    OllamaOptions,
    OllamaTextRequest,
)
from capamesh.router.requests.generation.chat_request import chat_affinity, common_settings
from capamesh.router.requests.generation.completion_request import PREFIX
from capamesh.router.requests.generation.fields import (
    Values,
    as_list,
    as_object,
    flag,
    items,
    json_bytes,
    model_of,
    table,
    text,
    wrong,
)
from capamesh.router.requests.generation.foreign_fields import taken
from capamesh.router.requests.generation.messages import MOST_MESSAGES, Messages, tools_of
from capamesh.router.requests.generation.sampling import sampling_of
from capamesh.router.requests.invalid_parameter import InvalidParameter

LATEST: Final = ":latest"
"""The tag that Ollama's clients give a model which they name without one."""
_RENAMED: Final = {"repeat_penalty": "repetition_penalty"}
"""The options that have another name elsewhere."""


def read_ollama_chat(values: Values) -> Asked:
    """Return what a body of `/api/chat` asks for. Raises `InvalidParameter`."""
    taken(values, OllamaChatRequest)
    given = items(values, "messages", MOST_MESSAGES)
    if not given:
        raise InvalidParameter("messages", "messages are missing or empty; send at least one")
    messages = _messages(given)
    tools = tools_of(values)
    settings, max_tokens = _settings(values)
    return Asked(
        model=_model(values),
        prompts=({"messages": messages, **tools},),
        settings=settings,
        max_tokens=max_tokens,
        is_streamed=_is_streamed(values),
        affinity=chat_affinity(values, messages, tools),
    )


def read_ollama_text(values: Values) -> Asked:
    """Return what a body of `/api/generate` asks for: an answer to one message, or with `raw` how a text goes on. Raises `InvalidParameter`."""
    taken(values, OllamaTextRequest)
    given = text(values, "prompt", MOST_BYTES)
    if not given:
        raise InvalidParameter("prompt", "prompt is missing or empty; give a text")
    settings, max_tokens = _settings(values)
    prompt: Mapping[str, Any]
    if flag(values, "raw"):
        prompt, affinity = {"prompt": given}, affinity_of(given[:PREFIX])
    else:
        messages = [{"role": "user", "content": given}]
        system = text(values, "system", MOST_BYTES)
        if system:
            messages.insert(0, {"role": "system", "content": system})
        prompt, affinity = {"messages": messages}, affinity_of(messages)
    return Asked(
        model=_model(values),
        prompts=(prompt,),
        settings=settings,
        max_tokens=max_tokens,
        is_streamed=_is_streamed(values),
        affinity=affinity,
    )


def _model(values: Values) -> str:
    return model_of(values).removesuffix(LATEST)


def _is_streamed(values: Values) -> bool:
    """Return whether the answer comes as it is made, which is so unless the request says otherwise."""
    return values.get("stream") is None or flag(values, "stream")


def _messages(given: list[object]) -> list[dict[str, Any]]:
    """Return messages as nodes get them: calls of tools have objects as arguments here, and no ids."""
    reader = Messages()
    found: list[dict[str, Any]] = []
    last_id = ""
    for place, each in enumerate(given):
        at = f"messages[{place}]"
        values = dict(as_object(each))
        if values.get("images"):
            raise InvalidParameter(
                f"{at}.images", f"{at}.images is not supported: models read texts"
            )
        calls: list[object] = []
        for number, call in enumerate(as_list(values.get("tool_calls"))):
            function = dict(as_object(as_object(call).get("function")))
            function["arguments"] = _json_text(function.get("arguments"), f"{at}.tool_calls")
            last_id = f"call_{place}_{number}"
            calls.append({"id": last_id, "function": function})
        if calls:
            values["tool_calls"] = calls
        if values.get("role") == "tool" and not values.get("tool_call_id"):
            values["tool_call_id"] = last_id or "call"
        found.append(reader.message(values or each, at))
    return found


def _json_text(arguments: object, at: str) -> object:
    return arguments if isinstance(arguments, str) else json_bytes(arguments or {}, at).decode()


def _settings(values: Values) -> tuple[dict[str, Any], int | None]:
    """Return how the answer is drawn and ends, and the most tokens of it."""
    options = taken(table(values, "options") or {}, OllamaOptions, at="options.")
    most = options.get("num_predict")
    max_tokens = most if most and most > 0 else None  # -1 and -2: as many as there is room for
    named = {_RENAMED.get(name, name): options[name] for name in options}
    settings = sampling_of(named, max_tokens)
    form = values.get("format")
    if form == "json":
        settings["guide"] = {"json": True}
    elif isinstance(form, dict):
        settings["guide"] = {"schema": form}
    elif form:
        raise wrong("format", form, '"json" or a JSON schema is expected')
    settings.update(common_settings(1, max_tokens, None))
    return settings, max_tokens
