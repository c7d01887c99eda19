"""Counts what a reader of answers in parts has been given and has not released yet. Pure.

A part is small to send and may be many: without a bound one request would let its peer fill the memory of whoever
asked. A reader releases the parts that it has passed on, and the peer is told now and then; it may send the next part
while it knows less than a window of them to be not released. So a reader that stalls stops its own answer at the peer,
and holds a window and one part.
"""

from __future__ import annotations

from typing import Final

from typing_extensions import override

PART_BYTES: Final = 512
"""The bytes that a part takes of its holder's memory beside its data: an answer, a view, a place in some list (guess)."""
TELL_SHARE: Final = 4
"""The peer is told once a window divided by this is released (guess: so early that a reader that keeps up never stalls it)."""


class _Held:
    """The parts of one answer."""

    __slots__ = ("held_bytes", "untold_bytes")

    def __init__(self) -> None:
        self.held_bytes = 0
        self.untold_bytes = 0
        """The bytes that are released, of which the peer was not told yet."""


class HeldParts:
    """The parts that one link has given to its readers, by the stream of their request."""

    __slots__ = ("_held", "_most_of_all_bytes", "_window_bytes", "size_bytes")

    def __init__(self, window_bytes: int, most_of_all_bytes: int) -> None:
        """`window_bytes` is what the peer keeps to with each answer, `most_of_all_bytes` bounds what is held of all together."""
        self._held: dict[int, _Held] = {}
        self._window_bytes = window_bytes
        self._most_of_all_bytes = most_of_all_bytes
        self.size_bytes = 0
        """The bytes held of all answers."""

    def __bool__(self) -> bool:
        """Return whether any answer is coming in parts."""
        return bool(self._held)

    @override
    def __repr__(self) -> str:
        return f"HeldParts({len(self._held)} answers, {self.size_bytes} bytes)"

    def take(self, stream: int, data_bytes: int) -> str:
        """Count one more part of `data_bytes`; return why it is one too many, or ""."""
        one = self._held.get(stream)
        unreleased_bytes = 0 if one is None else one.held_bytes + one.untold_bytes
        if unreleased_bytes >= self._window_bytes:
            return (
                f"a part came while {unreleased_bytes} bytes of the parts before it were not released; less than"
                f" {self._window_bytes} have to be"
            )
        part_bytes = data_bytes + PART_BYTES
        if self.size_bytes + part_bytes > self._most_of_all_bytes:
            return (
                f"{self.size_bytes + part_bytes} bytes of all answers in parts are not released; at most"
                f" {self._most_of_all_bytes} may be"
            )
        if one is None:
            one = self._held[stream] = _Held()
        one.held_bytes += part_bytes
        self.size_bytes += part_bytes
        return ""

    def release(self, stream: int, data_bytes: int) -> int:
        """Forget a part of `data_bytes` that was counted; return how many released bytes the peer is to be told of now.

        After the answer's end this does nothing.
        """
        one = self._held.get(stream)
        if one is None:
            return 0
        part_bytes = min(one.held_bytes, data_bytes + PART_BYTES)
        one.held_bytes -= part_bytes
        self.size_bytes -= part_bytes
        one.untold_bytes += part_bytes
        if one.untold_bytes * TELL_SHARE < self._window_bytes:
            return 0
        told_bytes, one.untold_bytes = one.untold_bytes, 0
        return told_bytes

    def end(self, stream: int) -> None:
        """Forget an answer: no more of its parts come."""
        one = self._held.pop(stream, None)
        if one is not None:
            self.size_bytes -= one.held_bytes
