"""Reads calls of tools out of an answer's text, as it comes. Pure.

What comes out is a function of the text alone, however it is cut into pieces: who goes on with an answer at another node reads what
there is so far, and is where the first one was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from typing_extensions import override

from capamesh.node.runtime.text_generation.tool_formats import (
    ARGUMENTS,
    NAME,
    PARAMETERS,
    ToolFormat,
)

MAX_CALLS: Final = 128
"""The most calls of one answer: each tool once."""
MAX_HEAD: Final = 512
"""The most characters before a call's arguments (guess: a name has 64, and there is some white space)."""
_SPACES: Final = " \t\r\n"
_KEYS: Final = (f'"{ARGUMENTS}"', f'"{PARAMETERS}"')
"""The keys that arguments may have, whatever the form: models mix them up."""
_WAITS: Final = -1
_WRONG: Final = -2


@dataclass(frozen=True, slots=True)
class ToolPiece:
    """A piece of one call: `id` and `name` stand in its first alone."""

    index: int
    """The number of the call in its answer, from 0."""
    id: str = ""
    name: str = ""
    arguments: str = ""
    """More of the text of the arguments, which is JSON."""


class _Place(Enum):
    """The place in an answer where its text ends.

    It is in text before any call, in a call before its arguments, in these, behind a call, or where nothing more is looked for: what
    seemed a call was none.
    """

    TEXT = 0
    HEAD = 1
    ARGUMENTS = 2
    BETWEEN = 3
    PLAIN = 4


class ToolCallReader:
    """The calls in one answer."""

    __slots__ = (
        "_begun",
        "_depth",
        "_form",
        "_held",
        "_in_string",
        "_is_escaped",
        "_names",
        "_place",
        "count",
    )

    def __init__(self, form: ToolFormat, names: Collection[str]) -> None:
        """`names` are those of the tools: what calls another is text."""
        self._form = form
        self._names = tuple(f'"{name}"' for name in names)
        self._place = _Place.TEXT
        self._held: str = ""
        """The text of which it is not known yet what it is."""
        self._begun = False
        """True once the answer has text that is not white space."""
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self.count = 0
        """The calls so far."""

    @override
    def __repr__(self) -> str:
        return f"ToolCallReader({self._form.name}, {self.count} calls, {self._place.name})"

    def push(self, text: str) -> tuple[str, list[ToolPiece]]:
        """Return the text that is no call's, and the pieces of calls, now that `text` has come."""
        out: list[str] = []
        pieces: list[ToolPiece] = []
        self._held += text
        while self._step(out, pieces):
            pass
        return "".join(out), pieces

    def flush(self) -> str:
        """Return the text that is still held back, for nothing more comes."""
        text, self._held = self._held, ""
        if self._place in (_Place.TEXT, _Place.PLAIN):
            return text
        return text if self._place is _Place.HEAD and not self.count else ""

    def _step(self, out: list[str], pieces: list[ToolPiece]) -> bool:
        """Take what is held as far as it is of one kind; return whether to look again."""
        match self._place:
            case _Place.TEXT:
                return self._text(out)
            case _Place.HEAD:
                return self._head(out, pieces)
            case _Place.ARGUMENTS:
                return self._arguments(pieces)
            case _Place.BETWEEN:
                return self._between()
            case _Place.PLAIN:
                out.append(self._held)
                self._held = ""
                return False

    def _text(self, out: list[str]) -> bool:
        held, mark = self._held, self._form.mark
        at = held.find(mark)
        blank = len(held) - len(held.lstrip())
        if self._form.is_bare and not self._begun and held[blank : blank + 1] == "{":
            at = blank
        if at >= 0:
            if self._begun or held[:at].strip():
                out.append(held[:at])
            self._held = held[at:]
            self._place = _Place.HEAD
            return True
        keep = _overlap(held, mark)
        if not self._begun and blank >= len(held) - keep:
            return False  # white space before a call is none of the answer
        self._begun = True
        out.append(held[: len(held) - keep])
        self._held = held[len(held) - keep :]
        return False

    def _head(self, out: list[str], pieces: list[ToolPiece]) -> bool:
        at, name = self._behind_head()
        if at == _WAITS and len(self._held) < MAX_HEAD:
            return False
        if at < 0 and self.count:
            self._held = self._held[1:]
            self._place = _Place.BETWEEN
            return True
        if at < 0:
            self._place = _Place.PLAIN
            return True
        pieces.append(ToolPiece(self.count, self._form.draw_id(), name))
        self.count += 1
        self._held = self._held[at - 1 :]
        self._depth, self._in_string, self._is_escaped = 0, False, False
        self._place = _Place.ARGUMENTS
        return True

    def _behind_head(self) -> tuple[int, str]:
        """Return the place behind the brace of the arguments, and the name before; `_WAITS`: more must come, `_WRONG`: it is no call."""
        held, form = self._held, self._form
        at = len(form.mark) if held.startswith(form.mark) else 0
        if form.before and not self.count:
            at = _behind(held, at, ("[",))
        for wanted in ("{",), (f'"{NAME}"',), (":",):
            at = _behind(held, at, wanted)
        name_at = at
        at = _behind(held, at, self._names)
        name = held[name_at:at].strip(f'{_SPACES}"') if at >= 0 else ""
        for following in (",",), _KEYS, (":",), ("{",):
            at = _behind(held, at, following)
        return at, name

    def _arguments(self, pieces: list[ToolPiece]) -> bool:
        held = self._held
        for at, letter in enumerate(held):
            if self._is_escaped:
                self._is_escaped = False
            elif self._in_string:
                self._is_escaped = letter == "\\"
                self._in_string = letter != '"'
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if not self._depth:
                    pieces.append(ToolPiece(self.count - 1, arguments=held[: at + 1]))
                    self._held = held[at + 1 :]
                    self._place = _Place.BETWEEN
                    return True
        if held:
            pieces.append(ToolPiece(self.count - 1, arguments=held))
            self._held = ""
        return False

    def _between(self) -> bool:
        """Skip what is before the next call: no form has anything to say there."""
        mark = self._form.mark if self._form.opening else "{"
        at = self._held.find(mark)
        if at < 0:
            keep = _overlap(self._held, mark)
            self._held = self._held[len(self._held) - keep :]
            return False
        if self.count >= MAX_CALLS:
            self._held = ""
            return False
        self._held = self._held[at:]
        self._place = _Place.HEAD
        return True


def _skip(text: str, at: int) -> int:
    """Return where white space that begins `at` ends."""
    while at < len(text) and text[at] in _SPACES:
        at += 1
    return at


def _behind(text: str, at: int, wanted: Sequence[str]) -> int:
    """Return the place behind one of the texts that are wanted `at` a place, behind white space; an `at` that is none stays what it is."""
    if at < 0:
        return at
    at = _skip(text, at)
    for each in wanted:
        if text.startswith(each, at):
            return at + len(each)
    rest = text[at:]
    return _WAITS if any(each.startswith(rest) for each in wanted) else _WRONG


def _overlap(text: str, mark: str) -> int:
    """Return how many characters at the end of `text` begin `mark`, at most all but one of it."""
    for count in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:count]):
            return count
    return 0
