"""Watches whether the peer of a link is alive: deadlines for its HELLO, its bytes and its goodbye. IO: asyncio's timers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """The patience of a link, in seconds."""

    hello_s: float = 5.0
    """The time from connection to a checked HELLO; the membership limit of the mesh."""
    ping_every_s: float = 2.0
    """The time between two pings (guess: a third of the silence that is borne)."""
    silent_s: float = 6.0
    """The time without a byte from the peer after which the link is given up (half-open socket, frozen peer)."""


class Liveness:
    """The patience of one link with its peer. One timer runs at most."""

    __slots__ = (
        "_beat_due_s",
        "_clock",
        "_give_up",
        "_loop",
        "_on_beat",
        "_pinged_s",
        "_timer",
        "_times",
        "heard_s",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        times: LinkTimes,
        *,
        on_beat: Callable[[], bool],
        give_up: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_beat` pings and returns whether to go on; `give_up` is told why, once.

        `clock` times pings: the loop's stands still for a turn in uvloop.
        """
        self._loop = loop
        self._times = times
        self._on_beat = on_beat
        self._give_up = give_up
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._beat_due_s = 0.0
        self._pinged_s = 0.0
        """The time when the ping was sent that is not answered yet; 0: none."""
        self.heard_s = loop.time()
        """The time when the last byte came, on the loop's clock."""

    def await_hello(self) -> None:
        """Give up unless `begin` is called in time."""
        self._timer = self._loop.call_later(self._times.hello_s, self._hello_overdue)

    def begin(self) -> None:
        """Ping from now on: the peer is verified."""
        self.stop()
        self._beat_later()

    def stop(self) -> None:
        """Wait for nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def await_end(self, abort: Callable[[], None]) -> None:
        """Call `abort` unless `stop` is called in time: a peer that does not read must not keep the socket open."""
        self.stop()
        self._timer = self._loop.call_later(self._times.hello_s, abort)

    def pinged(self) -> None:
        """Remember when a ping is sent, unless another is still to be answered."""
        if not self._pinged_s:
            self._pinged_s = self._clock()

    def ponged(self) -> float | None:
        """Return how many seconds the ping took whose answer is here; None: there was none."""
        pinged_s, self._pinged_s = self._pinged_s, 0.0
        return self._clock() - pinged_s if pinged_s else None

    def _hello_overdue(self) -> None:
        self._give_up(f"no HELLO within {self._times.hello_s} s")

    def _beat(self) -> None:
        now_s = self._loop.time()
        if now_s - self._beat_due_s > self._times.ping_every_s:
            self.heard_s = now_s  # this process itself was stopped: the peer is not to blame
        silent_s = now_s - self.heard_s
        if silent_s > self._times.silent_s:
            self._give_up(f"silent for {silent_s:.1f} s")
        elif self._on_beat():
            self._beat_later()

    def _beat_later(self) -> None:
        self._beat_due_s = self._loop.time() + self._times.ping_every_s
        self._timer = self._loop.call_at(self._beat_due_s, self._beat)
