"""The threads of a process: what they work off, and how they are started. IO: threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from mypy_extensions import mypyc_attr
from typing_extensions import override

_Item = TypeVar("_Item")


@mypyc_attr(native_class=False)
class WorkQueue(Protocol[_Item]):
    """A queue that one thread fills and another empties: `queue.SimpleQueue`, or one in virtual time."""

    def put(self, item: _Item, /) -> None:
        """Add an item; does not block."""

    def get(self, block: bool = True) -> _Item:
        """Return the next item, once there is one; raise `queue.Empty` where it must not block."""
        ...

    def empty(self) -> bool:
        """Return whether nothing is in it."""
        ...

    def qsize(self) -> int:
        """Return the number of items."""
        ...


@mypyc_attr(native_class=False)
class Worker(Protocol):
    """A thread that has been started."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""

    def is_alive(self) -> bool:
        """Return whether it has not ended."""
        ...


@mypyc_attr(native_class=False)
class Threads(Protocol):
    """Starts threads: those of the system, or some that run in virtual time, one at a time."""

    def start(self, work: Callable[[], None], name: str) -> Worker:
        """Start a thread that does not hold up the end of the process."""
        ...

    def queue(self) -> WorkQueue[Any]:
        """Return an empty queue, by which threads and the event loop hand work to one another."""
        ...


class SystemThreads(Threads):
    """The threads of the system."""

    @override
    def start(self, work: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    @override
    def queue(self) -> queue.SimpleQueue[Any]:
        return queue.SimpleQueue()
