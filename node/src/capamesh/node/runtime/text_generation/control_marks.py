"""Keeps the texts of a chat's messages from being read as control tokens. Pure.

A message that has the text of a special token, as `<|im_end|>`, gets a character inside of it that no text has. So the template writes it as
it writes any text, and no tokenizer finds the token there; `GenerationTokenizer` leaves the character out again. So does one that ends with the
beginning of such a text, for a template may write another behind it, as the parts of a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

from capamesh.protocol.errors import InvalidRequest

BREAK: Final = "\ufdd0"
"""The character inside such a text: a noncharacter of Unicode, which is never exchanged (Unicode 16, section 23.7)."""


class ControlMarks:
    """The texts of one tokenizer's control tokens."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(sorted({text for text in texts if len(text) > 1}))
        self._firsts = frozenset(text[0] for text in self.texts)
        self._beginnings = frozenset(
            text[:size] for text in self.texts for size in range(1, len(text))
        )
        self._longest = max(map(len, self._beginnings), default=0)

    def broken(self, value: Any) -> Any:  # noqa: ANN401 - what JSON has
        """Return `value`, of JSON, with all such texts in it broken. Raises `InvalidRequest`: it is nested too deep."""
        try:
            return self._broken(value)
        except RecursionError as exc:
            raise InvalidRequest("the messages or tools are nested too deep") from exc

    def _broken(self, value: Any) -> Any:  # noqa: ANN401 - what JSON has
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            pairs = cast("dict[str, Any]", value).items()
            return {self._broken(key): self._broken(each) for key, each in pairs}
        if isinstance(value, list | tuple):
            return [self._broken(each) for each in cast("list[Any]", value)]
        return value

    def _text(self, text: str) -> str:
        if BREAK in text:
            text = text.replace(BREAK, "")
        if not any(first in text for first in self._firsts):
            return text  # nearly all
        for mark in self.texts:
            while mark in text:  # again for those that overlap
                text = text.replace(mark, broken(mark))
        end = text.rstrip()  # of which templates leave the rest out
        for size in range(1, min(self._longest, len(end)) + 1):
            if end[-size:] in self._beginnings:
                at = len(end) - size
                return text[:at] + broken(text[at:])
        return text


def broken(mark: str) -> str:
    """Return `mark` with the character inside of it."""
    return mark[0] + BREAK + mark[1:]
