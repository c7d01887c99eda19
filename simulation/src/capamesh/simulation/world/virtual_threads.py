"""Threads in virtual time: each is a greenlet, and the event loop's turn decides which one runs. Pure but for these.

A thread runs until it waits at a queue or sleeps; then the loop goes on. What a frozen or killed machine's threads wait for does not
come, for it comes by way of the loop.
"""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

from greenlet import (  # type: ignore[import-untyped]  # no types of its own
    getcurrent,
    greenlet,
)
from typing_extensions import override

from capamesh.protocol.threads import Threads
from capamesh.simulation.sim_loop import SimLoop

RUNNING: ContextVar[VirtualThread] = ContextVar("RUNNING")
"""The thread that runs."""


class VirtualThread:
    """One thread, which runs while the loop waits for it."""

    def __init__(self, loop: SimLoop, work: Callable[[], None]) -> None:
        self._loop = loop
        self._context = copy_context()
        self._context.run(RUNNING.set, self)
        self._greenlet = greenlet(lambda: self._run(work))
        self._back: Any
        """What runs once this one waits."""
        self._handle: asyncio.Handle | None = None
        self._is_over = False
        self.wake()

    def wake(self) -> None:
        """Let it go on in the loop's next turn."""
        if not self._is_over:
            self._handle = self._loop.call_soon(self._resume, context=self._context)

    def park(self) -> None:
        """Wait, in the thread, until it is woken."""
        if not self._is_over:
            self._back.switch()
        if self._is_over:  # the world; a runner takes this for a failed run, and comes back
            raise SystemExit

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass in the thread."""
        self._loop.call_later(seconds, self._resume, context=self._context)
        self.park()

    def join(self, timeout: float | None = None) -> None:
        """Let it run on as long as it has something to do now."""
        del timeout
        while not self._is_over and self._handle is not None:
            self._handle.cancel()
            self._resume()

    def is_alive(self) -> bool:
        """Return whether it has not ended."""
        return not self._is_over

    def end(self) -> None:
        """End it where it waits, for its world is over."""
        if not self._is_over:
            self._is_over = True
            self._go_on()

    def _resume(self) -> None:
        self._handle = None
        if not self._is_over:
            self._go_on()

    def _go_on(self) -> None:
        """Run it until it waits."""
        self._greenlet.parent = self._back = getcurrent()
        self._loop.as_thread(self._greenlet.switch)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            if not self._is_over:
                self._context.copy().run(work)
        except SystemExit:
            return
        finally:
            self._is_over = True


class _VirtualQueue:
    """A queue at which one thread waits."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiting: deque[VirtualThread] = deque()

    def put(self, item: Any, /) -> None:  # noqa: ANN401 - as of `queue.SimpleQueue`
        self._items.append(item)
        if self._waiting:
            self._waiting.popleft().wake()

    def get(self, block: bool = True) -> Any:  # noqa: ANN401 - likewise
        while not self._items:
            if not block:
                raise queue.Empty
            thread = RUNNING.get()
            self._waiting.append(thread)
            thread.park()
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)


class VirtualThreads(Threads):
    """Starts the threads of one world."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._threads: list[VirtualThread] = []

    @override
    def start(self, work: Callable[[], None], name: str) -> VirtualThread:
        del name
        thread = VirtualThread(self._loop, work)
        self._threads.append(thread)
        return thread

    @override
    def queue(self) -> _VirtualQueue:
        return _VirtualQueue()

    def end_all(self) -> None:
        """End them all, for the world is over."""
        for thread in self._threads:
            thread.end()
