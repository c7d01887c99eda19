"""One chat from question to question: its messages, what people type between them, what is told of an answer. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import InvalidRequest, ModelNotFound
from capamesh.protocol.plain_text import HARMFUL
from capamesh.protocol.tasks import Task

if TYPE_CHECKING:
    from capamesh.client import Generation

_KEPT: Final = "\n\t\u200c\u200d"
"""The characters that lines, code and the scripts of Persia and India need; the others drive terminals, or turn lines around."""
_IMPORT: Final = "import one: capamesh model import-llm --help"
HELP: Final = """\
/system TEXT   what the model is told before all else; without TEXT: nothing
/clear         forget the messages so far
/save FILE     write the messages as JSON, as OpenAI's clients take them
/bye           end; Ctrl-D does as well
\"\"\"            begins and ends a text of several lines
Ctrl-C ends the answer that is being written."""
_COMMAND: Final = re.compile(r"/(\w+)(?:\s+(.*))?", re.DOTALL)


class ChatSession:
    """The messages of one chat."""

    def __init__(self, system: str = "") -> None:
        """`system` is what the model is told before all else; empty: nothing."""
        self.system = system
        self._messages: list[dict[str, object]] = []

    @property
    def messages(self) -> list[dict[str, object]]:
        """The messages so far, as OpenAI has them."""
        first: list[dict[str, object]] = []
        if self.system:
            first.append({"role": "system", "content": self.system})
        return first + self._messages

    def asking(self, text: str) -> list[dict[str, object]]:
        """Return the messages to send for a question, which is kept only once it is answered."""
        return [*self.messages, _question(text)]

    def answered(self, text: str, answer: Generation) -> None:
        """Keep a question and its answer, which may have been ended early; one that never began leaves no question either."""
        if answer.text:
            self._messages += [_question(text), answer.choices[0].as_message()]

    def clear(self) -> None:
        """Forget the questions and answers."""
        self._messages.clear()


def command_of(line: str) -> tuple[str, str] | None:
    """Return the command that a line is, and what stands behind it; None: it is a question."""
    match = _COMMAND.fullmatch(line)
    return None if match is None else (match[1].lower(), (match[2] or "").strip())


def model_for_chat(asked: str, tasks: Mapping[str, str]) -> str:
    """Return the model to chat with: the one that was `asked` for, or else the only one; `tasks` has all by their names.

    Raises:
        ModelNotFound: there is none, or not this one.
        InvalidRequest: this one is for something else, or one has to be named.
    """
    names = sorted(name for name, task in tasks.items() if task == Task.CHAT)
    others = f"those for chat are: {', '.join(names)}" if names else f"none is for chat: {_IMPORT}"
    if asked:
        if tasks and asked not in tasks:
            raise ModelNotFound(f"there is no model {asked!r:.80} here; {others}")
        if tasks and asked not in names:
            raise InvalidRequest(f"model {asked!r:.80} is for something else; {others}")
        return asked
    if not names:
        raise ModelNotFound(f"no model here is for chat: {_IMPORT}")
    if len(names) > 1:
        raise InvalidRequest(f"name the model to chat with; {others}")
    return names[0]


def shown(text: str) -> str:
    """Return a model's words without what could drive a terminal."""
    return HARMFUL.sub(lambda match: match[0] if match[0] in _KEPT else "\ufffd", text)


def rate_of(answer: Generation, first_s: float, total_s: float) -> float | None:
    """Return the tokens a second behind the first one; None: there were too few, or their number was not told."""
    more = answer.usage.completion_tokens - 1
    return more / (total_s - first_s) if more > 0 and total_s > first_s else None


def summary(answer: Generation, first_s: float, total_s: float, node: str) -> str:
    """Return what is told below an answer: `first_s` and `total_s` are the seconds to its first token, and to its end."""
    tokens = answer.usage.completion_tokens
    said = [f"{tokens} token{'' if tokens == 1 else 's'}"] if tokens else []
    rate = rate_of(answer, first_s, total_s)
    if rate is not None:
        said.append(f"{rate:.1f} tokens/s")
    said.append(f"{first_s:.2f} s to the first token")
    if node:
        said.append(f"by {node}")
    if answer.resumes:
        said.append("another node went on, for one was lost")
    if answer.finish == "length":
        said.append("cut off at the most tokens")
    return ", ".join(said)


def _question(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}
