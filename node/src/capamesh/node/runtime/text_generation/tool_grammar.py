"""Writes the grammar of answers that call tools: what a call may be, and where text may stand. Pure.

Where the model decides whether it calls, text is free up to the mark of a call, and what stands behind the mark is bound. A form without
marks leaves such answers free: a text that begins with JSON need not be a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from capamesh.node.runtime.text_generation.tool_asked import AskedTools
from capamesh.node.runtime.text_generation.tool_formats import NAME, ToolFormat
from capamesh.node.runtime.text_generation.tool_reader import MAX_CALLS

SPACES: Final = r"[ \t\r\n]{0,16}"
"""The white space that may be between two parts of JSON (guess): without a bound some models say nothing else until they are stopped."""
_TEXT: Final = "TEXT: /(.|\\n)*/"


def tool_grammar(
    tools: AskedTools,
    form: ToolFormat,
    tokens: Mapping[str, int],
    schema: Mapping[str, Any] | bool | None = None,
) -> str:
    """Return the grammar, in Lark as llguidance has it; empty: answers are free.

    `tokens` has the numbers of the marks that are tokens of their own, which no text can be. `schema` is that of an answer without calls.
    """
    begin = form.before + form.opening
    rules: list[str] = []
    if tools.must_call:
        start = _calls(begin, tools, form, tokens)
    elif schema is not None:
        start = f"{_calls(begin, tools, form, tokens)} | answer"
        rules.append(f"answer: %json {_json(schema, is_strict=True)}")
    elif not begin:
        return ""
    elif form.mark in tokens:
        start = f"TEXT ({_calls(begin, tools, form, tokens)})?"
        rules.append(_TEXT)
    else:
        rest = begin.removeprefix(form.mark)
        start = f"TEXT | begun {_calls(rest, tools, form, tokens)}"
        rules += [_TEXT, f"begun[lazy]: TEXT {_terms(form.mark, {})}"]
    names = tools.callable_names
    rules.append("tool: " + " | ".join(f"tool_{place}" for place in range(len(names))))
    for place, name in enumerate(names):
        head = f'{{"{NAME}": {json.dumps(name)}, "{form.arguments}": '
        bound = _json(tools.schemas[name], is_strict=name in tools.strict)
        rules.append(f'tool_{place}: {_terms(head, {})} %json {bound} "}}"')
    return "\n".join(("%llguidance {}", f"start: {start}", *rules))


def _calls(begin: str, tools: AskedTools, form: ToolFormat, tokens: Mapping[str, int]) -> str:
    """Return the terms of as many calls as there may be, of which the first stands behind `begin`."""
    one = f"tool {_terms(form.closing, tokens)}"
    more = ""
    if not tools.is_single:
        more = f"({_terms(form.separator + form.opening, tokens)} {one}){{0,{MAX_CALLS - 1}}}"
    return f"{_terms(begin, tokens)} {one} {more} {_terms(form.after, tokens)}"


def _terms(text: str, tokens: Mapping[str, int]) -> str:
    """Return `text` as terms of the grammar: marks that are tokens by their numbers, all else as texts."""
    marks = "|".join(map(re.escape, tokens))
    pieces = re.split(f"({marks})", text) if marks else [text]
    return " ".join(
        f"<[{tokens[piece]}]>" if piece in tokens else json.dumps(piece)
        for piece in pieces
        if piece
    )


def _json(schema: Mapping[str, Any] | bool, *, is_strict: bool) -> str:
    """Return `schema` as the library takes it; of one that is not strict, keywords that it does not know are left out of account."""
    if isinstance(schema, bool):
        return json.dumps(schema)
    options = {"whitespace_pattern": SPACES, "lenient": not is_strict}
    return json.dumps({**schema, "x-guidance": options})
