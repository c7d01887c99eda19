"""Reads the body of a request for a response, as OpenAI's newer route has it: a chat under other names. Pure."""

from __future__ import annotations

from typing import Any

from capamesh.router.requests.generation.asked import MOST_BYTES, Asked
from capamesh.router.requests.generation.bodies import ResponseRequest, ResponseText
from capamesh.router.requests.generation.chat_request import (
    chat_affinity,
    common_settings,
)
from capamesh.router.requests.generation.fields import (
    Values,
    as_object,
    flag,
    items,
    model_of,
    table,
    text,
    wrong,
)
from capamesh.router.requests.generation.foreign_fields import taken
from capamesh.router.requests.generation.guides import guide_of
from capamesh.router.requests.generation.messages import (
    MOST_ID,
    MOST_MESSAGES,
    Messages,
    tools_of,
)
from capamesh.router.requests.generation.sampling import most_tokens_of, sampling_of
from capamesh.router.requests.invalid_parameter import InvalidParameter


def read_response(values: Values) -> Asked:
    """Return what a body asks for. Raises `InvalidParameter`."""
    model = model_of(taken(values, ResponseRequest))
    reader = Messages()
    messages = [reader.message(each, at) for at, each in _messages(values)]
    tools = tools_of(_chat_tools(values))
    max_tokens = most_tokens_of(values, "max_output_tokens")
    form = taken(table(values, "text") or {}, ResponseText, at="text.").get("format")
    settings = {**sampling_of(values, max_tokens), **guide_of(values, form, "text.format")}
    template = table(values, "chat_template_kwargs")
    if template:
        settings["template"] = template
    settings.update(common_settings(1, max_tokens, None))
    return Asked(
        model=model,
        prompts=({"messages": messages, **tools},),
        settings=settings,
        max_tokens=max_tokens,
        is_streamed=flag(values, "stream"),
        affinity=chat_affinity(values, messages, tools),
        prompt_field="input",
    )


def _messages(values: Values) -> list[tuple[str, object]]:
    """Return the instructions and the items of the input as a chat's messages, still to be read, each with its place."""
    found: list[tuple[str, object]] = []
    instructions = text(values, "instructions", MOST_BYTES)
    if instructions:
        found.append(("instructions", {"role": "system", "content": instructions}))
    given = values.get("input")
    if isinstance(given, str):
        return [*found, ("input", {"role": "user", "content": given})]
    entries = items(values, "input", MOST_MESSAGES)
    if not entries:
        raise InvalidParameter("input", "input is missing or empty; give a text, or items")
    calls: list[object] | None = None
    """The calls of the assistant's message that the items before were of."""
    for place, entry in enumerate(entries):
        at = f"input[{place}]"
        item = as_object(entry)
        kind = item.get("type", "message")
        if kind == "function_call":
            if calls is None:
                calls = []
                found.append((at, {"role": "assistant", "content": "", "tool_calls": calls}))
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls.append({"id": item.get("call_id"), "function": function})
            continue
        calls = None
        if kind == "function_call_output":
            answer = {"content": item.get("output"), "tool_call_id": item.get("call_id")}
            found.append((at, {"role": "tool", **answer}))
        elif kind == "message":
            found.append((at, {"role": item.get("role"), "content": item.get("content")}))
        elif kind != "reasoning":  # which is nobody's but the model's that made it
            raise wrong(
                f"{at}.type", kind, "message, function_call or function_call_output is expected"
            )
    return found


def _chat_tools(values: Values) -> dict[str, Any]:
    """Return the fields about tools as chats have them: what a function is stands in an object of its own there."""
    tools: list[object] = []
    for entry in items(values, "tools", MOST_ID) or []:
        tool = as_object(entry)
        tools.append({"type": tool.get("type"), "function": tool})
    found: dict[str, Any] = {"tools": tools}
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in values:
            found[name] = values[name]
    return found
