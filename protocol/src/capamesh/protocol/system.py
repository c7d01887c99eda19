"""The system below a process: clocks, chance, threads and the wire of its links. Pure but for what it hands out.

Whatever waits, draws or connects is given it by a `System`, so that whole routers and nodes run in virtual time too.
"""

from __future__ import annotations

import datetime as dt
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.protocol.threads import SystemThreads, Threads

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.child import Launch
    from capamesh.protocol.links.wire import MakeWire, Wire
    from capamesh.protocol.network import Membership


def tls_wire(
    membership: Membership,
    folder: Path,
    log: FilteringBoundLogger | None,
    clock: Callable[[], float],
) -> Wire:
    """Return the wire of links over TLS; a process without links never reads it in, and NumPy with it."""
    from capamesh.protocol.links.wire import TlsWire  # noqa: PLC0415 - see above

    return TlsWire(membership, folder, log, clock)


@dataclass(frozen=True, slots=True)
class System:
    """The system of one process; by default that of the machine."""

    steady_s: Callable[[], float] = time.monotonic
    """A clock that goes on at any setting of the time of day."""
    work_s: Callable[[], float] = time.thread_time
    """The processor's time that this thread has had."""
    wall_ns: Callable[[], int] = time.time_ns
    """The time of day, in nanoseconds since the epoch."""
    rng: random.Random = field(default_factory=random.Random)
    """The source of chance of what is no secret."""
    token_bytes: Callable[[int], bytes] = secrets.token_bytes
    """The source of secrets, and of names that no one else draws."""
    threads: Threads = field(default_factory=SystemThreads)
    make_wire: MakeWire = tls_wire
    launch: Launch | None = None
    """Starts the processes that a process has; None: the system does."""
    is_virtual: bool = False
    """True where time is virtual: no event loop is ever late, and what a child process would do is done here."""
    has_figures: bool = True
    """False where nobody is told what the process takes of its machine: that is another in each run."""

    def wall_s(self) -> float:
        """Return the time of day, in seconds since the epoch."""
        return self.wall_ns() / 1e9

    def now(self) -> dt.datetime:
        """Return the time of day, in UTC."""
        return dt.datetime.fromtimestamp(self.wall_ns() / 1e9, dt.UTC)
