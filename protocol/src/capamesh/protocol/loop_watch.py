"""Watches how late an event loop is, and what kept it. IO: a timer on the loop, and a thread that looks at its stack.

A loop that is kept for as long as its peers wait for a sign of life loses them. The thread sees what runs while the loop
is late; also a call of C that holds the interpreter, whose caller is what the thread finds as soon as it ends.

Two things are measured at each beat. How late it is: what clients and peers feel, whatever it comes from, a machine that
runs something else meanwhile included. And the CPU time of the loop's thread since the beat before: what the loop's own
callbacks took, however busy the machine is. Each callback lies between two beats, so none took more than that.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

BEAT_S: Final = 0.05
"""Seconds between two signs of the loop that it runs (guess: 20 timers a second cost it 0.1 %)."""
TELL_S: Final = 0.25
"""Seconds of lateness above which the loop is reported with what ran (guess: what a person notices)."""
_FRAMES: Final = 6
"""The innermost frames of the stack that are shown (guess)."""


class LoopWatch:
    """Measures the running loop's delay from `start` to `stop`."""

    def __init__(
        self,
        log: FilteringBoundLogger,
        on_beat: Callable[[float, float], None] = lambda _late_s, _busy_s: None,
        doing: Callable[[], str] = lambda: "",
        *,
        steady_s: Callable[[], float] = time.monotonic,
        used_s: Callable[[], float] = time.thread_time,
        look_every_s: float = TELL_S / 2,
    ) -> None:
        """`on_beat` is told of each beat how late it was, and the CPU time since the one before, in seconds.

        `doing` may tell what the loop works for; `used_s` tells the CPU time of the loop's thread.
        """
        self._log = log
        self._on_beat = on_beat
        self._doing = doing
        self._clock_s = steady_s
        self._cpu_s = used_s
        self._look_every_s = look_every_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._used_s = 0.0
        """The CPU time of the loop's thread up to the last beat."""
        self._seen = ""
        """The code that ran when the loop was last found late."""
        self._thread_id = 0
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._used_s = self._cpu_s()
        self._wait()
        threading.Thread(target=self._look_on, name="loop-watch", daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        assert self._loop is not None  # noqa: S101 - it has started
        self._due_s = self._clock_s() + BEAT_S
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        late_s = max(0.0, self._clock_s() - self._due_s)
        used_s = self._cpu_s()
        busy_s, self._used_s = used_s - self._used_s, used_s
        self._on_beat(late_s, busy_s)
        if late_s >= TELL_S:
            seen, self._seen = self._seen, ""
            self._log.warning(
                "loop_late",
                late_s=round(late_s, 3),
                busy_s=round(busy_s, 3),
                ran=seen,
                doing=self._doing(),
            )
        self._wait()

    def _look_on(self) -> None:
        while not self._ended.wait(self._look_every_s):
            self.look()

    def look(self) -> None:
        """Note what runs if the loop is late; from any thread."""
        due_s = self._due_s
        if self._clock_s() - due_s < TELL_S / 2:
            return
        # public, for all its name: see the documentation of sys
        frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        frame = frames.get(self._thread_id)
        if frame is not None and due_s == self._due_s:  # it is late still
            self._seen = stack_of(frame)


def stack_of(frame: FrameType) -> str:
    """Return the innermost frames in a line, the innermost last."""
    frames = traceback.extract_stack(frame)[-_FRAMES:]
    return " > ".join(
        f"{each.filename.rpartition('/')[2]}:{each.lineno} {each.name}" for each in frames
    )
