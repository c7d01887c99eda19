"""The forms in which models write calls of tools, and which of them a chat template teaches. Pure but for ids that it draws.

A template tells the model how to write a call, and is the only file that says it. The names are those of vLLM's and SGLang's parsers.
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import Final

NAME: Final = "name"
ARGUMENTS: Final = "arguments"
PARAMETERS: Final = "parameters"
_MISTRAL_ID: Final = 9
"""The letters and digits of an id: Mistral's templates refuse others."""
_LETTERS: Final = string.ascii_letters + string.digits
_OTHER_CALLS: Final = ("<function=", "[ARGS]", "<arg_key>")
"""Marks of forms that are not read, whose templates have the marks of others too: XML of Qwen3-Coder, later ones of Mistral, of GLM."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One form of calls: `before`, then the calls with `separator` between them, then `after`; each call is `opening`, JSON, `closing`."""

    name: str
    mark: str
    """The text that begins calls wherever it stands: a token of its own, where the vocabulary has one."""
    arguments: str
    """The key of a call's arguments."""
    before: str = ""
    opening: str = ""
    closing: str = ""
    separator: str = ""
    after: str = ""
    is_bare: bool = False
    """True if an answer that begins with JSON may be calls, with or without the mark."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the texts that may be tokens of their own in a model's vocabulary."""
        return tuple(filter(None, (self.mark, self.closing.strip())))

    def draw_id(self) -> str:
        """Return a new call's id, by chance."""
        if self is MISTRAL:
            return "".join(secrets.choice(_LETTERS) for _ in range(_MISTRAL_ID))
        return f"call_{secrets.token_hex(12)}"


HERMES: Final = ToolFormat(
    "hermes",
    "<tool_call>",
    ARGUMENTS,
    opening="<tool_call>\n",
    closing="\n</tool_call>",
    separator="\n",
)
LLAMA: Final = ToolFormat("llama3_json", "<|python_tag|>", PARAMETERS, separator="; ", is_bare=True)
MISTRAL: Final = ToolFormat(
    "mistral", "[TOOL_CALLS]", ARGUMENTS, before="[TOOL_CALLS] [", separator=", ", after="]"
)
FORMATS: Final = (HERMES, LLAMA, MISTRAL)


def format_of(template: str) -> ToolFormat | None:
    """Return the form that a chat template teaches; None: no calls, or a form that is not known here."""
    if any(mark in template for mark in _OTHER_CALLS):
        return None
    for found in (MISTRAL, HERMES):
        if found.mark in template:
            return found
    keys = (f'"{NAME}"', f'"{PARAMETERS}"')
    return LLAMA if "tools" in template and all(key in template for key in keys) else None
