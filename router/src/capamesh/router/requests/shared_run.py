"""One run of a request for all who ask the same while it is under way: single flight. Pure.

The run belongs to none of them: it goes on as long as one waits, whoever began it and has left. Each has its own deadline. What
fails fails for whoever it was sent for; the others, whose time, priority and tenant are their own, set off anew together,
unless the error says that the request itself is wrong, which is true for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    ClientError,
    DeadlineExceeded,
    LocalError,
)
from capamesh.router.requests.call import Handle, Responder

if TYPE_CHECKING:
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.requests.call import Call, Outcome
    from capamesh.router.timers import Alarms

Start = Callable[["Call", Responder], Handle]
"""Sends a call on its way, and raises what keeps it from that."""


class Waiter(Handle):
    """One call that waits for a run, and what it goes on with when that fails."""

    __slots__ = ("_armed_s", "_next", "_picker", "_run", "call", "responder")

    def __init__(self, run: SharedRun, call: Call, responder: Responder) -> None:
        self._run: SharedRun | None = run
        """The run that it waits for; None: it waits for none any more."""
        self._picker: RequestPicker | None = None
        """The picker of the run that it has waited for."""
        self._next: Handle | None = None
        """The call's handle since it has set off by itself."""
        self._armed_s = math.inf
        self.call = call
        self.responder = responder

    @property
    @override
    def picker(self) -> RequestPicker | None:
        if self._next is not None:
            return self._next.picker
        return self._picker if self._run is None else self._run.picker

    @override
    def cancel(self) -> None:
        run, following = self.leave(), self._next
        if run is not None:
            run.leave(self)
        if following is not None:
            following.cancel()

    def arm(self, alarms: Alarms) -> None:
        """Fail at the call's own deadline."""
        self._armed_s = self.call.deadline_s
        alarms.set(self._armed_s, self._overdue)

    def leave(self) -> SharedRun | None:
        """Wait for no run any more; return which it was."""
        run, self._run = self._run, None
        if run is not None:
            self._picker = run.picker
            if self._armed_s < math.inf:
                run.alarms.call_off(self._armed_s, self._overdue)
                self._armed_s = math.inf
        return run

    def start_anew(self, start: Start) -> None:
        """Set off by itself."""
        try:
            self._next = start(self.call, self.responder)
        except CapameshError as error:
            self.responder.fail(error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - the others are not to wait for ever
            self.responder.fail(LocalError(f"the router failed on this request: {error!r:.80}"))

    def _overdue(self) -> None:
        run = self.leave()
        if run is not None:
            run.leave(self)
            self.responder.fail(
                DeadlineExceeded("the time was over while an equal request was under way")
            )


class SharedRun(Responder, Handle):
    """A run that is under way: the responder of the call that began it, and for whoever sent that call its handle."""

    __slots__ = (
        "_handle",
        "_is_over",
        "_picker",
        "_responder",
        "_start",
        "_waiters",
        "alarms",
        "call",
    )

    def __init__(self, call: Call, responder: Responder, start: Start, alarms: Alarms) -> None:
        """`responder` is told what becomes of the run; `start` sends those on their way who are left when it has failed."""
        self.call = call
        """The call that began it."""
        self._responder: Responder | None = responder
        """The responder of the call that began it; None: it waits no more."""
        self._waiters: dict[Waiter, None] | None = None
        """The calls that have joined; None: none has."""
        self._start = start
        self._handle: Handle | None = None
        self._picker: RequestPicker | None = None
        self._is_over = False
        self.alarms = alarms

    @property
    @override
    def picker(self) -> RequestPicker | None:
        return self._picker if self._handle is None else self._handle.picker

    @property
    def is_awaited_first(self) -> bool:
        """Return whether the call waits that began it."""
        return self._responder is not None

    def began(self, handle: Handle) -> None:
        """Take the handle of the run."""
        if self._is_over:
            self._picker = handle.picker
        else:
            self._handle = handle

    def join(self, call: Call, responder: Responder) -> Waiter:
        """Let another call wait for the run."""
        waiter = Waiter(self, call, responder)
        if self._waiters is None:
            self._waiters = {}
        self._waiters[waiter] = None
        if call.deadline_s < self.call.deadline_s:  # else it ends before by itself
            waiter.arm(self.alarms)
        return waiter

    @override
    def cancel(self) -> None:
        if self._responder is not None:
            self._responder = None
            self.left()

    def leave(self, waiter: Waiter) -> None:
        """Let a call wait no more."""
        if self._waiters is not None:
            self._waiters.pop(waiter, None)
        self.left()

    def left(self) -> None:
        """Withdraw the run if the last has left who waited for it."""
        if self._responder is None and not self._waiters and not self._is_over:
            handle = self._end()
            if handle is not None:
                handle.cancel()

    def close(self) -> None:
        """Let nobody else join: the run is over, or has not begun."""
        self._is_over = True

    @override
    def complete(self, outcome: Outcome) -> None:
        responder, waiters = self._responder, self._waiters
        self._end()
        if responder is not None:
            responder.complete(outcome)
        if waiters:
            shared = outcome.replace(attempts=0)
            for waiter in waiters:
                waiter.leave()
                waiter.responder.complete(shared)

    @override
    def fail(self, error: CapameshError) -> None:
        responder, waiters = self._responder, self._waiters
        self._end()
        if responder is not None:
            responder.fail(error)
        if not waiters:
            return
        is_everybodys = self.is_everybodys(error)
        for waiter in waiters:
            waiter.leave()
        for waiter in waiters:
            if is_everybodys:
                waiter.responder.fail(error)
            else:
                waiter.start_anew(self._start)

    def is_everybodys(self, error: CapameshError) -> bool:
        """Return whether an error is one of all who wait, and not only of the call that was sent."""
        return isinstance(error, ClientError) and not isinstance(
            error, DeadlineExceeded | Cancelled
        )

    def _end(self) -> Handle | None:
        """Leave no circle, which would keep bodies until it is collected; return the handle of the run."""
        self.close()
        handle, self._handle = self._handle, None
        if handle is not None:
            self._picker = handle.picker
        self._responder = self._waiters = None
        return handle
