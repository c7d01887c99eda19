"""Decides how long one request waits for a link, where a link is all that is missing. Pure."""

from __future__ import annotations

from typing import Final

from capamesh.protocol.errors import CapameshError, NoEndpoint

MOST_WAIT_S: Final = 20.0
"""The longest wait where the picker knows that one is to be back (a frozen worker is given up after 10 s and is back 3 s later,
measured on a busy machine; the rest is for models that load slowly: a guess)."""


class Patience:
    """The wait of one request, in all its parts. One is made when the request first has to wait."""

    __slots__ = ("_begun_s", "_deadline_s", "_max_wait_s")

    def __init__(self, begun_s: float, max_wait_s: float, deadline_s: float) -> None:
        self._begun_s = begun_s
        self._max_wait_s = max_wait_s
        self._deadline_s = deadline_s

    @property
    def most_s(self) -> float:
        """Return when the wait is over, whatever is to be back."""
        return min(self._deadline_s, self._begun_s + MOST_WAIT_S)

    def until_s(self, back_s: float) -> float:
        """Return when the wait is over if a link is likely to be back by `back_s`."""
        least_s = min(self._deadline_s, self._begun_s + self._max_wait_s)
        return max(least_s, min(back_s, self.most_s))

    def gave_up(self, error: CapameshError, now_s: float) -> NoEndpoint:
        """Return the error of a request that has waited in vain, for which `error` was the reason."""
        text = f"{error.message} (waited {now_s - self._begun_s:.1f} s for a link)"
        return NoEndpoint(text, error.retry_after_s if isinstance(error, NoEndpoint) else 0.0)
