"""Time as the mesh sees it: it stands still while nothing can be heard. Pure.

An advert must not expire because this router's own sidecar was down: the last fleet stays usable.
"""

from __future__ import annotations

STOPPED_S = 2.0
"""No load delays a tick for so long; SIGSTOP and a suspended machine do (guess)."""


class MeshClock:
    """Counts the seconds in which adverts could have been heard. Starts paused.

    Whatever is asked or told of it first after a gap of `STOPPED_S` means that this process itself was stopped and
    could hear nobody: that time does not count. So `tick` is to be called more often than that.
    """

    def __init__(self, now_s: float) -> None:
        self._paused_at_s: float | None = now_s
        self._lost_s = now_s
        self._seen_s = now_s

    def now_s(self, now_s: float) -> float:
        """Return mesh time at monotonic time `now_s`."""
        self._notice_stop(now_s)
        return (now_s if self._paused_at_s is None else self._paused_at_s) - self._lost_s

    def tick(self, now_s: float) -> float:
        """Return mesh time, as `now_s` does; called regularly."""
        return self.now_s(now_s)

    def pause(self, now_s: float) -> None:
        """The sidecar is down; again is harmless."""
        self._notice_stop(now_s)
        if self._paused_at_s is None:
            self._paused_at_s = now_s

    def resume(self, now_s: float) -> None:
        """The sidecar is up; again is harmless."""
        self._notice_stop(now_s)
        if self._paused_at_s is not None:
            self._lost_s += now_s - self._paused_at_s
            self._paused_at_s = None

    def _notice_stop(self, now_s: float) -> None:
        gap_s, self._seen_s = now_s - self._seen_s, now_s
        if gap_s > STOPPED_S and self._paused_at_s is None:
            self._lost_s += gap_s
