"""The clocks by which a router judges what it hears: the time of day, a steady one, and the mesh's. IO: reads the first two."""

from __future__ import annotations

import time
from collections.abc import Callable

from capamesh.router.fleet.hearing import Now

STOPPED_S = 2.0
"""No load delays a tick for so long; SIGSTOP and a suspended machine do (guess)."""


class MeshClock:
    """Counts the seconds in which adverts could have been heard. Starts paused.

    An advert must not expire because this router's own sidecar was down: the last fleet stays usable.

    Whatever is asked or told of it first after a gap of `STOPPED_S` means that this process itself was stopped and
    could hear nobody: that time does not count. So `now_s` is to be called more often than that.
    """

    def __init__(self, now_s: float) -> None:
        self._paused_at_s: float | None = now_s
        self._lost_s = now_s
        self._seen_s = now_s

    def now_s(self, now_s: float) -> float:
        """Return mesh time at monotonic time `now_s`."""
        self._notice_stop(now_s)
        return (now_s if self._paused_at_s is None else self._paused_at_s) - self._lost_s

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


class Clocks:
    """The three clocks of one router; the mesh's stands still until `resume`."""

    def __init__(
        self,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wall_ns` returns the time of day in nanoseconds since the epoch, `steady_s` seconds that go on at any setting of it."""
        self.wall_ns = wall_ns
        self.steady_s = steady_s
        self._mesh = MeshClock(steady_s())

    def now(self) -> Now:
        """Return this moment by each of the clocks."""
        steady_s = self.steady_s()
        return Now(self.wall_ns() // 1_000_000, steady_s, self._mesh.now_s(steady_s))

    def resume(self) -> None:
        """Let the mesh's clock go on: adverts can be heard."""
        self._mesh.resume(self.steady_s())

    def pause(self) -> None:
        """Stop the mesh's clock: no advert can be heard."""
        self._mesh.pause(self.steady_s())
