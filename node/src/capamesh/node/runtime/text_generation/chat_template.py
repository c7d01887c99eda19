"""Makes a prompt of a chat's messages by the model's own template, which is a stranger's program: it is run in a sandbox. Pure but for the library.

The sandbox is minijinja's: a template reaches no attribute that begins with an underscore and no file, and its work is counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from capamesh.node.runtime.text_generation.packages import missing
from capamesh.protocol.errors import InvalidRequest, ModelInvalid, TooLarge

MAX_PROMPT_CHARACTERS: Final = 4 * 2**20
"""The most characters of a prompt (guess: a million tokens)."""
MAX_INDENT: Final = 16
"""The most spaces by which JSON is indented (guess: templates have 2 or 4)."""
MAX_TEMPLATE_CHARACTERS: Final = 2**20
"""The most characters of a template (guess: the longest have 20,000)."""
MAX_MESSAGES: Final = 16_384
"""The most messages of a chat (guess)."""
FUEL: Final = 2_000_000
"""The most work of a template, in the library's own units; one that uses it all takes 0.15 s (measured)."""
_TRAINING_MARKS: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""The marks of what a model is trained on, which say nothing of the prompt and are no part of Jinja."""
_OWN: Final = ("messages", "tools", "add_generation_prompt")


class ChatTemplate:
    """The template of one model. Safe to use from several threads at once."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], now: Callable[[], datetime]
    ) -> None:
        """`special_tokens` has the texts of "bos_token" and the like; `now` gives the time for templates that tell the date.

        Raises `ModelInvalid`: the template is none, or the package is missing.
        """
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ModelInvalid(
                f"the chat template has {len(source)} characters; it may have {MAX_TEMPLATE_CHARACTERS}"
            )
        try:
            import minijinja  # noqa: PLC0415 - a node without texts goes without
        except ImportError as exc:
            raise missing("minijinja") from exc

        def strftime_now(form: str) -> str:
            return now().strftime(form)

        self._template_error = minijinja.TemplateError
        self._special_tokens = dict(special_tokens)
        try:
            self._environment = minijinja.Environment(
                trim_blocks=True,
                lstrip_blocks=True,
                debug=False,
                fuel=FUEL,
                auto_escape_callback=lambda _: False,
                filters={"tojson": _to_json},
                globals={
                    "raise_exception": _refuse,
                    "strftime_now": strftime_now,
                },
            )
            self._environment.add_template("chat", _TRAINING_MARKS.sub("", source))
        except minijinja.TemplateError as exc:
            raise ModelInvalid(f"the chat template cannot be read: {_line(exc)}") from exc

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        adds_prompt: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt of `messages`; `adds_prompt` begins the answer, and `extra` has what else the template may know.

        Raises:
            InvalidRequest: the template does not take these messages, and says why.
            TooLarge: too many messages, or too long a prompt.
        """
        if len(messages) > MAX_MESSAGES:
            raise TooLarge(f"the chat has {len(messages)} messages; it may have {MAX_MESSAGES}")
        known = dict(extra or {})
        own = [name for name in _OWN if name in known]
        if own:
            raise InvalidRequest(f"chat_template_kwargs has {own[0]!r}, which is the request's own")
        try:
            text = self._environment.render_template(
                "chat",
                **{
                    **self._special_tokens,
                    **known,
                    "messages": list(messages),
                    "tools": list(tools) if tools else None,
                    "add_generation_prompt": adds_prompt,
                },
            )
        except self._template_error as exc:
            raise InvalidRequest(
                f"the model's chat template does not take these messages: {_line(exc)}"
            ) from exc
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise TooLarge(
                f"the prompt has {len(text)} characters; it may have {MAX_PROMPT_CHARACTERS}: shorten the chat"
            )
        return text


def _refuse(reason: object) -> None:
    """Refuse the messages, for a `reason` of the template's."""
    raise InvalidRequest(f"the model's chat template refuses the messages: {str(reason)[:500]}")


def _to_json(value: object, indent: object = None) -> str:
    """Return `value` as JSON, as templates of others expect: nothing is escaped for HTML."""
    if indent is None:
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(indent, int) or not 0 <= indent <= MAX_INDENT:
        raise InvalidRequest(
            f"the model's chat template indents JSON by {str(indent)[:20]}; it may by 0 to {MAX_INDENT} spaces: mend the template"
        )
    made: list[str] = []
    size = 0
    try:
        for piece in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
            made.append(piece)
            size += len(piece)
            if size > MAX_PROMPT_CHARACTERS:
                raise TooLarge(
                    f"JSON in the prompt has more than {MAX_PROMPT_CHARACTERS} characters: shorten messages or tools, or nest them less"
                )
    except RecursionError as exc:
        raise InvalidRequest("the messages or tools are nested too deep") from exc
    return "".join(made)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
