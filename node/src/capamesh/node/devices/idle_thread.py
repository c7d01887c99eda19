"""Has a thread of this process run on what others leave of the processor: little more, or nothing else. IO: system calls; Linux alone.

Linux stops such a thread (SCHED_IDLE) at once when another wants its core. A thread that was made so stays so: without a privilege
that a worker does not have there is no way back.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from functools import cache


def give_way() -> bool:
    """Make the calling thread give way to all others; return whether it does."""
    if sys.platform != "linux":
        return False
    try:
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        return False
    return True


class ThreadTime:
    """The time that the thread which made it has had of the processor since then."""

    __slots__ = ("_began_s", "_clock")

    def __init__(self) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._began_s = time.clock_gettime(self._clock)

    def seconds(self) -> float:
        """Return it, asked in any thread; 0.0 once that thread has ended."""
        with suppress(OSError):
            return time.clock_gettime(self._clock) - self._began_s
        return 0.0


def be_nice(nice: int) -> None:
    """Let the calling thread have the less of the cores where they are short the larger `nice` is, which is 0 to 19 more than it has."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        thread = threading.get_native_id()
        before = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(before + nice, 19))


@cache
def can_give_way() -> bool:
    """Return whether a thread of this process can be made to give way, by one that tries it."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(give_way()), name="try", daemon=True)
    thread.start()
    thread.join()
    return found == [True]
