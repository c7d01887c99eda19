"""Time as the mesh sees it: it stands still while nothing can be heard. Pure.

An advert must not expire because this router's own sidecar was down: the last fleet stays usable.
"""

from __future__ import annotations

STOPPED_S = 2.0
"""No load delays a tick for so long; SIGSTOP and a suspended machine do (guess)."""


class MeshClock:
    """Counts the seconds in which adverts could have been heard. Starts paused."""

    def __init__(self, now_s: float) -> None:
        self._paused_at_s: float | None = now_s
        self._lost_s = now_s
        self._last_tick_s = now_s

    def now_s(self, now_s: float) -> float:
        """Return mesh time at monotonic time `now_s`."""
        return (now_s if self._paused_at_s is None else self._paused_at_s) - self._lost_s

    def tick(self, now_s: float) -> float:
        """Return mesh time, as `now_s` does; called regularly.

        A call that is late by `STOPPED_S` means that this process itself was stopped and could hear nobody:
        the time since the last call does not count.
        """
        gap_s, self._last_tick_s = now_s - self._last_tick_s, now_s
        if gap_s > STOPPED_S and self._paused_at_s is None:
            self._lost_s += gap_s
        return self.now_s(now_s)

    def pause(self, now_s: float) -> None:
        """The sidecar is down; again is harmless."""
        if self._paused_at_s is None:
            self._paused_at_s = now_s

    def resume(self, now_s: float) -> None:
        """The sidecar is up; again is harmless."""
        if self._paused_at_s is not None:
            self._lost_s += now_s - self._paused_at_s
            self._paused_at_s = None
