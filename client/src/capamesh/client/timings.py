"""The seconds that an answer took. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple


class Timings(NamedTuple):
    """The seconds that an answer took, as its client measured them; what routers and nodes need is part of `wait_s`."""

    connect_s: float
    """Seconds until there was a connection; next to nothing where one was kept."""
    wait_s: float
    """Seconds from there to the beginning of the answer: sending, the router, the node."""
    receive_s: float
    """Seconds from there to the answer's last byte."""
    attempts: int = 1
    """The times that the request was sent; those before the last one are in none of the seconds."""

    @property
    def total_s(self) -> float:
        """Return the seconds of the last attempt."""
        return self.connect_s + self.wait_s + self.receive_s


NOT_TIMED: Final = Timings(0.0, 0.0, 0.0)
"""Nothing was measured."""
