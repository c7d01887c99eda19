"""Log lines for people: time, level, what happened, and what it is about, on one line of a terminal. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from datetime import datetime
from typing import Any, Final, cast

from capamesh.protocol.plain_text import plain, plain_lines

EVENT_COLUMNS: Final = 24
"""The columns of what happened, before what it is about (guess: most fit)."""
_RESET: Final = "\x1b[0m"
_DIM: Final = "\x1b[2m"
_COLOURS: Final = {
    "debug": _DIM,
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[31m",
}


class LineRenderer:
    """Makes a line of text of an event. The last of structlog's chain."""

    def __init__(self, *, has_colours: bool) -> None:
        self._has_colours = has_colours

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        """Return the line, and below it a traceback if there is one; nothing in it can drive the terminal."""
        fields = dict(event)
        moment = datetime.fromisoformat(str(fields.pop("timestamp"))).astimezone()
        level = str(fields.pop("level"))
        happened = plain(str(fields.pop("event")).replace("_", " "))
        trace = plain_lines(str(fields.pop("exception", "")))
        about = "  ".join(f"{plain(key)}={_shown(value)}" for key, value in fields.items())
        stamp = f"{moment:%H:%M:%S}"
        word = f"{level.upper():<7}"
        if self._has_colours:
            stamp, word = f"{_DIM}{stamp}{_RESET}", f"{_COLOURS.get(level, '')}{word}{_RESET}"
        line = f"{stamp} {word} {happened:<{EVENT_COLUMNS}} {about}".rstrip()
        return f"{line}\n{trace}" if trace else line


def _shown(value: object) -> str:
    """Return a value as people read it: a text with blanks in quotes, a list with commas."""
    match value:
        case str():
            text = plain(value)
            return text if text and " " not in text else json.dumps(text, ensure_ascii=False)
        case list() | tuple():
            return ",".join(map(_shown, cast("list[object]", value)))
        case dict():
            items = cast("Mapping[object, object]", value).items()
            return ",".join(f"{_shown(key)}:{_shown(item)}" for key, item in items)
        case _:
            return plain(str(value))
