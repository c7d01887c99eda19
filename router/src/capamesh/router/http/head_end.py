"""The end of an answer's head, whose date is made anew each second. Pure."""

from __future__ import annotations

from collections.abc import Callable


class HeadEnd:
    """The last lines of the heads of one front's answers."""

    __slots__ = ("_clock", "_last", "_line", "_make_date", "_until_s")

    def __init__(self, clock: Callable[[], float], make_date: Callable[[], str]) -> None:
        """`clock` is in seconds and never goes back: it tells when the date is due. `make_date` returns it as HTTP has it."""
        self._clock = clock
        self._make_date = make_date
        self._line = self._last = b""
        self._until_s = 0.0

    def line(self, *, is_last: bool) -> bytes:
        """Return the date and the empty line; `is_last` says that the connection ends with the answer."""
        now_s = self._clock()
        if now_s >= self._until_s:
            self._until_s = now_s + 1.0
            date = f"Date: {self._make_date()}\r\n"
            self._line = f"{date}\r\n".encode("ascii")
            self._last = f"{date}Connection: close\r\n\r\n".encode("ascii")
        return self._last if is_last else self._line
