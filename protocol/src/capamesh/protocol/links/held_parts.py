"""Counts what a reader of answers in parts has been given and has not released yet. Pure.

A part is small to send and may be many: without a bound one request would let its peer fill the memory of whoever
asked. A reader releases the parts that it has passed on; one that releases nothing may be given as much as a whole
answer may have.
"""

from __future__ import annotations

from typing import Final

from typing_extensions import override

PART_BYTES: Final = 512
"""The bytes that a part takes of its holder's memory beside its data: an answer, a view, a place in some list (guess)."""


class HeldParts:
    """The parts that one link has given to its readers, by the stream of their request."""

    __slots__ = ("_held", "_most_bytes", "_most_of_all_bytes", "size_bytes")

    def __init__(self, most_bytes: int, most_of_all_bytes: int) -> None:
        """`most_bytes` bounds what is held of one answer, `most_of_all_bytes` what is held of all together."""
        self._held: dict[int, int] = {}
        self._most_bytes = most_bytes
        self._most_of_all_bytes = most_of_all_bytes
        self.size_bytes = 0
        """The bytes held of all answers."""

    def __bool__(self) -> bool:
        """Return whether any part is held."""
        return bool(self._held)

    @override
    def __repr__(self) -> str:
        return f"HeldParts({len(self._held)} answers, {self.size_bytes} bytes)"

    def take(self, stream: int, data_bytes: int) -> str:
        """Count one more part of `data_bytes`; return why it is one too many, or ""."""
        held_bytes = self._held.get(stream, 0) + data_bytes + PART_BYTES
        if held_bytes > self._most_bytes:
            return f"{held_bytes} bytes of an answer in parts are not released; at most {self._most_bytes} may be"
        of_all_bytes = self.size_bytes + data_bytes + PART_BYTES
        if of_all_bytes > self._most_of_all_bytes:
            return (
                f"{of_all_bytes} bytes of all answers in parts are not released; at most"
                f" {self._most_of_all_bytes} may be"
            )
        self._held[stream] = held_bytes
        self.size_bytes = of_all_bytes
        return ""

    def release(self, stream: int, data_bytes: int) -> None:
        """Forget a part of `data_bytes` that was counted; after the answer's end this does nothing."""
        held_bytes = self._held.get(stream)
        if held_bytes is not None:
            part_bytes = min(held_bytes, data_bytes + PART_BYTES)
            self._held[stream] = held_bytes - part_bytes
            self.size_bytes -= part_bytes

    def end(self, stream: int) -> None:
        """Forget an answer: no more of its parts come."""
        self.size_bytes -= self._held.pop(stream, 0)
