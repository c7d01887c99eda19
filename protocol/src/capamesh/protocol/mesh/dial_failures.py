"""Tells an operator why a dial failed, which libp2p hides in errors within errors. Pure but for the system's texts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, cast

from capamesh.protocol.plain_text import plain

MOST_ERRORS: Final = 32
"""The errors within errors that are looked at (guess: an address has three of them)."""
MOST_CHARS: Final = 120
"""The longest reason (guess: a line, with the address before it)."""
_OF_ANOTHER_KEY: Final = "peer id does not correspond"
"""The beginning of what libp2p's noise says of a listener that has another key than its address names."""
SOMEBODY_ELSE: Final = "somebody else listens there than the address names: its network was made anew, or the address is another machine's now"


def reason_of_failure(error: BaseException) -> str:
    """Return why a dial failed: in the operating system's words, or else in those of the innermost error."""
    innermost = error
    for each in _within(error):
        if str(each).startswith(_OF_ANOTHER_KEY):
            return SOMEBODY_ELSE
        if isinstance(each, OSError) and each.errno is not None:
            # of a name that is not found the number is the resolver's, and its text stands in the error
            known = os.strerror(each.errno) if each.errno > 0 else str(each.strerror)
            return known.lower()
        innermost = each
    return plain(str(innermost).strip() or "it did not answer as a member does")[:MOST_CHARS]


def _within(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those in it that it came of, the outermost first, each once."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting and len(seen) < MOST_ERRORS:
        each = waiting.pop(0)
        if any(each is known for known in seen):
            continue
        seen.append(each)
        yield each
        held = [
            *cast("tuple[object, ...]", getattr(each, "exceptions", ())),
            *cast("list[object]", getattr(each, "errors", [])),
        ]
        waiting += [
            one
            for one in (each.__cause__, each.__context__, *held)
            if isinstance(one, BaseException)
        ]
