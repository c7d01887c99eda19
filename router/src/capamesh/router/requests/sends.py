"""The book of what one request has sent: its attempts, those under way, their silence, and when to look at them next. Pure.

`RequestAttempts` decides what is sent and what comes of it; here is the book that it keeps. An attempt is counted in with
`sent` at the picker, and out with one of `answered`, `failed` and `withdrawn`.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, DeadlineExceeded, LinkLost, Overloaded
from capamesh.router.balancing.attempt import Attempt
from capamesh.router.balancing.picking import Picker
from capamesh.router.balancing.purpose import Purpose
from capamesh.router.requests.attempt_events import (
    Failed,
    Send,
    Withdraw,
)

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica


class Sends:
    """The attempts of one request by number, and their clocks."""

    __slots__ = (
        "_attempts",
        "_deadline_s",
        "_due_s",
        "_hedge_s",
        "_max_attempts",
        "_max_refusals",
        "_may_hedge",
        "_overloads",
        "_picker",
        "_runs",
        "_softest",
        "_under_way",
    )

    # `RequestAttempts` sets them, in the one call that makes a request's object
    _picker: Picker
    _deadline_s: float
    _max_attempts: int
    _max_refusals: int
    _may_hedge: bool
    _attempts: list[Attempt]
    _under_way: list[Attempt]
    _runs: int
    """Attempts that were run, or may have been or be yet."""
    _overloads: int
    """Nodes that were full."""
    _softest: Overloaded | None
    """The refusal with the smallest hint: once any one node has room, the request can be answered."""
    _hedge_s: float
    _due_s: float

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._attempts)} attempts, {len(self._under_way)} under way)"

    @property
    def due_s(self) -> float:
        """Return when the request has something to do next; infinity: never."""
        return self._due_s

    @property
    def attempts(self) -> int:
        """Return how often it was sent."""
        return len(self._attempts)

    # in and out

    def _send(self, replica: Replica, now_s: float) -> Send:
        remaining_s = self._deadline_s - now_s
        number = len(self._attempts)
        self._picker.sent(replica, now_s)
        limit_s = self._picker.first_byte_limit_s(replica, remaining_s, now_s)
        it = Attempt(number, replica, now_s, now_s + limit_s)
        self._attempts.append(it)
        self._under_way.append(it)
        self._runs += 1
        self._plan(now_s)
        return Send(number, replica, max(1, int(remaining_s * 1000)))

    def _end(self, attempt: Attempt, end: str | CapameshError, now_s: float) -> None:
        attempt.end = end
        attempt.ended_s = now_s
        self._under_way.remove(attempt)

    def _withdraw_all(self, now_s: float, *, is_unanswered: bool) -> tuple[Withdraw, ...]:
        withdrawn = tuple(self._under_way)
        for attempt in withdrawn:
            if is_unanswered:
                self._picker.left(attempt.replica, now_s)
            self._end(attempt, "withdrawn", now_s)
            self._picker.withdrawn(attempt.replica, now_s - attempt.sent_s, now_s)
        return tuple([Withdraw(attempt.number) for attempt in withdrawn])

    # who was asked

    def _count_overload(self, error: Overloaded) -> None:
        """Count a node that was full."""
        self._overloads += 1
        softest = self._softest.retry_after_s if self._softest is not None else 0.0
        if not softest or 0 < error.retry_after_s < softest:
            self._softest = error

    def _has_room(self) -> bool:
        """Return whether one more node may run the request."""
        return self._runs < self._max_attempts and self._overloads <= self._max_refusals

    def _asked(self) -> set[Replica]:
        """Return all replicas that were asked."""
        return {it.replica for it in self._attempts}

    def _not_to_be_asked_again(self) -> set[Replica]:
        """Return those whose last attempt did not end with its link, so that a new link would change nothing."""
        last = {it.replica: it for it in self._attempts}
        return {replica for replica, it in last.items() if not isinstance(it.end, LinkLost)}

    def _not_back(self) -> set[Replica]:
        """Return those that have no new link since their last attempt ended with the old one."""
        last = {it.replica: it for it in self._attempts}
        return {replica for replica, it in last.items() if not self._is_back(it)}

    def _is_back(self, it: Attempt) -> bool:
        ended_s = it.ended_s
        return (
            ended_s is not None
            and isinstance(it.end, LinkLost)
            and self._picker.is_back(it.replica, ended_s)
        )

    def _other(self, now_s: float, purpose: Purpose) -> Replica | None:
        """Return a replica that was not asked, or only over a link that was lost and has been replaced."""
        asked = self._asked()
        with contextlib.suppress(CapameshError):
            return self._picker.choose(asked, now_s, purpose)
        left = self._not_back()
        if len(left) < len(asked):
            with contextlib.suppress(CapameshError):
                return self._picker.choose(left, now_s, purpose)
        return None

    # time

    def _has_hope(self) -> bool:
        """Return whether an attempt is under way that is not known to be silent."""
        return any(not attempt.is_silent for attempt in self._under_way)

    def _notice_silence(self, now_s: float) -> bool:
        """Tell the picker of the attempts that have become silent; return whether there are any."""
        picker = self._picker
        is_any = False
        for it in self._under_way:
            if it.is_silent or it.silent_s > now_s:
                continue
            if picker.has_answered(it.replica, it.judged_s):
                it.judged_s = now_s
                remaining_s = self._deadline_s - it.sent_s
                it.silent_s = it.sent_s + picker.first_byte_limit_s(it.replica, remaining_s, now_s)
                if it.silent_s > now_s:
                    continue
            is_any = it.is_silent = True
            picker.silent(it.replica, now_s - it.sent_s, now_s)
        return is_any

    def _plan(self, now_s: float) -> None:
        """Start the hedge's clock if one attempt is alone under way from now on."""
        self._hedge_s = math.inf
        if self._may_hedge and len(self._under_way) == 1:
            delay_s = self._picker.hedge_delay_s(now_s)
            if delay_s is not None:
                self._hedge_s = now_s + delay_s
        self._reckon_due()

    def _reckon_due(self) -> None:
        due_s = min(self._deadline_s, self._hedge_s)
        for attempt in self._under_way:
            if attempt.silent_s < due_s and not attempt.is_silent:
                due_s = attempt.silent_s
        self._due_s = due_s

    def _too_late(self) -> Failed:
        return Failed(DeadlineExceeded(too_late(len(self._attempts))))


def too_late(asked: int) -> str:
    """Return what is told of a request whose deadline passed after `asked` attempts, each at one node."""
    if not asked:
        return "the request's deadline passed before any node was asked; allow more time or try again later"
    nodes = "the one node" if asked == 1 else f"any of the {asked} nodes"
    return f"no answer before the request's deadline from {nodes} asked; allow more time or try again later"
