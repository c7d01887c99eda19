"""Ends an answer's text at the first of its stop strings, also where one comes in pieces. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The stop strings of one answer, with the text that may yet become one: it is held back, less than the longest of them."""

    __slots__ = ("_held", "_keeps", "_stops")

    def __init__(self, stops: Sequence[str], *, keeps: bool = False) -> None:
        """With `keeps` the text goes out with the stop string that ends it."""
        self._stops = tuple(stops)
        self._keeps = keeps
        self._held: str = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Return the text that may go out now that `text` has come, and whether a stop string ended it."""
        if not self._stops:
            return text, False
        text = self._held + text
        ends = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if ends:
            self._held = ""
            end, stop = min(ends)
            return text[: end + len(stop) if self._keeps else end], True
        held = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """Return what is held back: the answer ended otherwise."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` begin `stop`, at most all but one of it."""
    for count in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:count]):
            return count
    return 0
