"""Text of a peer without what could drive a terminal, break a log or turn a line around. Pure.

A peer's words reach people: errors, reasons, names. A terminal obeys escape sequences in them, a right-to-left
override shows a name as another one, a line separator starts a line that nobody printed. Such characters are
taken out where a peer's text enters (errors, adverts, introductions, refusals) and once more where it is printed.
"""

from __future__ import annotations

import re
from typing import Final

_SPACES: Final = "\t\n\x0b\x0c\r\x85\u2028\u2029"
"""Control characters and separators that stand for a gap between words."""

_HARMFUL_CLASS: Final = (
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: what terminals obey
    "\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069"  # bidi controls, and marks of no width
    "\u2028\u2029\u2060-\u2064\ufeff"  # line separators, invisible operators, byte order mark
    "\ud800-\udfff"  # halves of a surrogate pair, which cannot be printed at all
    "\U000e0000-\U000e007f"  # tags, which are never seen
)
"""The characters of UAX #9 (bidirectional algorithm), UTS #39 (security mechanisms) and ECMA-48 (control functions)."""

HARMFUL: Final = re.compile(f"[{_HARMFUL_CLASS}]")
PLAIN_PATTERN: Final = rf"\A[^{_HARMFUL_CLASS}]*\Z"
"""Matches plain text, for those who check by a schema."""
_HARMFUL_IN_LINES: Final = re.compile(f"(?!\n)[{_HARMFUL_CLASS}]")


def _harmless(match: re.Match[str]) -> str:
    return " " if match[0] in _SPACES else "\ufffd"


def plain(text: str) -> str:
    """Return `text` on one line, a space for each gap in it and U+FFFD for each other harmful character.

    The result is as long as `text`, and `plain` of it is itself.
    """
    return text if text.isprintable() else HARMFUL.sub(_harmless, text)


def plain_lines(text: str) -> str:
    """Return `text` as `plain` does, its line feeds kept: for text that this program has put into lines."""
    return text if text.isprintable() else _HARMFUL_IN_LINES.sub(_harmless, text)


def is_plain(text: str) -> bool:
    """Return whether `text` has no harmful character."""
    return text.isprintable() or HARMFUL.search(text) is None
