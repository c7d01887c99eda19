"""The clocks by which a router judges what it hears: the time of day, a steady one, and the mesh's. IO: reads the first two."""

from __future__ import annotations

import time
from collections.abc import Callable

from capamesh.router.fleet.hearing import Now
from capamesh.router.fleet.mesh_clock import MeshClock


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
