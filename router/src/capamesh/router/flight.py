"""One request's attempts, from the first send to its one outcome: retries, hedge, silence, deadline. Pure.

Events go in (`start`, `answered`, `failed`, `tick`, `abandon`), actions come out, to be done in their order;
timers are data (`due_s`). Whom to ask and what an event says of a node are the `Desk`'s matter.

An attempt is lost when it fails or stays silent over its limit; the limit of one whose node went on answering
others meanwhile is reckoned anew when it has passed, for then the node is slow, not silent. What was certainly
not run is asked elsewhere at once. What may have been run is asked elsewhere only if running it twice is
harmless (`is_safe`), the retry budget has a token and no other attempt may still bring the answer. A hedge is a
second attempt beside one that is merely slow (Dean and Barroso, "The Tail at Scale", 2013; gRPC proposal A6):
the first answer wins.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    Overloaded,
    PeerError,
    is_refusal,
)

if TYPE_CHECKING:
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.hosts import Host

MAX_ATTEMPTS = 3
"""How many nodes may run one request, hedge included (guess; gRPC A6 allows at most 5)."""
MAX_REFUSALS = 3
"""So many full nodes are passed by; one more and the fleet counts as full (guess). Without a bound, each
request to a full fleet asks every node of it."""


@dataclass(frozen=True, slots=True)
class Send:
    """Ask `host`. Attempts count from 0; the host has `budget_ms` milliseconds, at least 1."""

    attempt: int
    host: Host
    budget_ms: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Cancel an attempt that is under way: its result is not wanted, what still comes of it is ignored."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Answered:
    """Deliver the attempt's answer. Final."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Deliver the error. Final."""

    error: CapameshError


Action = Send | Withdraw | Answered | Failed


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """What became of one attempt, for people."""

    host: Host
    sent_s: float
    ended_s: float | None
    """None while it is under way."""
    outcome: str


class Desk(Protocol):
    """One request's side of the balancer: chooses hosts, keeps their counters, holds the budgets.

    Times are seconds on the clock of `now_s`; `elapsed_s` counts from the attempt's `sent`. Of `answered`,
    `failed` and `withdrawn` exactly one follows each `sent`, and ends the in-flight count that it began.
    """

    def choose(self, asked: Collection[Host], now_s: float) -> Host:
        """Return a host not in `asked`. Raises `ModelNotFound` or `NoCandidate` when nobody is left."""
        ...

    def sent(self, host: Host, now_s: float) -> None:
        """An attempt begins."""
        ...

    def answered(
        self,
        host: Host,
        load: LoadReport,
        elapsed_s: float,
        at_node_s: float,
        size_bytes: int,
        now_s: float,
    ) -> None:
        """It ended with an answer; `size_bytes` of request and answer together."""
        ...

    def failed(self, host: Host, error: CapameshError, elapsed_s: float, now_s: float) -> None:
        """It ended with an error: a refusal, the node's failure, or the caller's fault (`ClientError`)."""
        ...

    def silent(self, host: Host, elapsed_s: float, now_s: float) -> None:
        """It has been silent over its limit; it stays under way. At most once an attempt."""
        ...

    def withdrawn(self, host: Host, elapsed_s: float, now_s: float) -> None:
        """It ended unanswered: another was faster, the deadline passed or the client left."""
        ...

    def try_retry(self, now_s: float) -> bool:
        """Take a token from the retry budget; False: there is none."""
        ...

    def try_pass_on(self, now_s: float) -> bool:
        """Return whether another node may be asked after one that was full."""
        ...

    def try_hedge(self, now_s: float) -> bool:
        """Take a token from the hedge budget; False: there is none."""
        ...

    def hedge_delay_s(self, now_s: float) -> float | None:
        """Return how long one attempt may be alone under way before another joins it; None: for ever."""
        ...

    def first_byte_limit_s(self, host: Host, remaining_s: float, now_s: float) -> float:
        """Return how long `host` may be silent when `remaining_s` are left of the request's time, both from `sent`."""
        ...

    def has_answered(self, host: Host, since_s: float) -> bool:
        """Return whether `host` has answered any request for this model since that instant."""
        ...


class _Attempt:
    __slots__ = ("end", "ended_s", "host", "is_silent", "judged_s", "number", "sent_s", "silent_s")

    def __init__(self, number: int, host: Host, sent_s: float, silent_s: float) -> None:
        self.number = number
        self.host = host
        self.sent_s = sent_s
        self.judged_s = sent_s
        """When `silent_s` was reckoned."""
        self.silent_s = silent_s
        self.is_silent = False
        self.end: CapameshError | str = "under way"
        self.ended_s: float | None = None

    def record(self) -> AttemptRecord:
        end = self.end if isinstance(self.end, str) else f"{self.end.code}: {self.end.message}"
        outcome = f"silent, {end}" if self.is_silent else end
        return AttemptRecord(self.host, self.sent_s, self.ended_s, outcome)


class Flight:
    """The attempts of one request. It ends once: by `Answered`, by `Failed` or by `abandon`.

    `deadline_s` is a finite instant on the clock of `now_s`, `size_bytes` the request's size. `is_safe`: running it
    twice does no harm. `is_hedged`: it may be, if also safe. `max_attempts` (at least 1) bounds how many nodes
    may run it; the nodes that refused it do not count. Methods return the actions to do, in order; a final
    action comes first in its tuple and only `Withdraw`s come after it.
    """

    __slots__ = (
        "_attempts",
        "_deadline_s",
        "_desk",
        "_due_s",
        "_hedge_s",
        "_is_safe",
        "_max_attempts",
        "_max_refusals",
        "_may_hedge",
        "_overloads",
        "_runs",
        "_size_bytes",
        "_softest",
        "_under_way",
    )

    def __init__(
        self,
        desk: Desk,
        *,
        deadline_s: float,
        size_bytes: int,
        is_safe: bool,
        is_hedged: bool,
        max_attempts: int = MAX_ATTEMPTS,
        max_refusals: int = MAX_REFUSALS,
    ) -> None:
        self._desk = desk
        self._deadline_s = deadline_s
        self._size_bytes = size_bytes
        self._is_safe = is_safe
        self._may_hedge = is_hedged and is_safe
        self._max_attempts = max_attempts
        self._max_refusals = max_refusals
        self._attempts: list[_Attempt] = []
        self._under_way: list[_Attempt] = []
        self._runs = 0
        """Attempts that were run, or may have been or be yet."""
        self._overloads = 0
        """Nodes that were full."""
        self._softest: Overloaded | None = None
        """The refusal with the smallest hint: once any one node has room, the request can be answered."""
        self._hedge_s = math.inf
        self._due_s = math.inf

    def __repr__(self) -> str:
        return f"Flight({len(self._attempts)} attempts, {len(self._under_way)} under way)"

    @property
    def due_s(self) -> float:
        """When `tick` has something to do next; infinity: never."""
        return self._due_s

    @property
    def attempts(self) -> int:
        """How often it was sent."""
        return len(self._attempts)

    def explain(self) -> tuple[AttemptRecord, ...]:
        """Return what became of each attempt so far, by number."""
        return tuple(attempt.record() for attempt in self._attempts)

    # events

    def start(self, now_s: float) -> tuple[Action, ...]:
        """Begin. To be called once, before all else."""
        if now_s >= self._deadline_s:
            return self._finish(self._too_late(), now_s)
        try:
            host = self._desk.choose((), now_s)
        except CapameshError as error:
            return self._finish(Failed(error), now_s)
        return (self._send(host, now_s),)

    def answered(
        self, attempt: int, load: LoadReport, at_node_s: float, answer_bytes: int, now_s: float
    ) -> tuple[Action, ...]:
        """The answer is there, of `answer_bytes`, after `at_node_s` at the node; a late one counts too."""
        it = self._attempts[attempt]
        if it.ended_s is not None:
            return ()
        self._end(it, "answered", now_s)
        self._desk.answered(
            it.host, load, now_s - it.sent_s, at_node_s, self._size_bytes + answer_bytes, now_s
        )
        return self._finish(Answered(attempt), now_s)

    def failed(
        self, attempt: int, error: CapameshError, now_s: float, *, is_unsent: bool = False
    ) -> tuple[Action, ...]:
        """The attempt failed. `is_unsent`: no byte of it left, so that it certainly was not run."""
        it = self._attempts[attempt]
        if it.ended_s is not None:
            return ()
        self._end(it, error, now_s)
        self._desk.failed(it.host, error, now_s - it.sent_s, now_s)
        if not isinstance(error, PeerError):
            return self._finish(Failed(error), now_s)
        if now_s >= self._deadline_s:
            return self._finish(self._too_late(), now_s)
        if is_unsent or is_refusal(error):
            send = self._after_refusal(error, now_s)
        else:
            send = self._retry(now_s)
        if send is not None:
            return (send,)
        if self._under_way:
            self._plan(now_s)
            return ()
        if isinstance(error, Overloaded) and self._softest is not None:
            error = self._softest
        return self._finish(Failed(error), now_s)

    def tick(self, now_s: float) -> tuple[Action, ...]:
        """Time has passed; does nothing before `due_s`."""
        if now_s < self._due_s:
            return ()
        if now_s >= self._deadline_s:
            return self._finish(self._too_late(), now_s)
        send: Send | None = None
        if self._notice_silence(now_s):
            send = self._retry(now_s)
        if send is None and now_s >= self._hedge_s:
            send = self._hedge(now_s)
        if send is not None:
            return (send,)
        self._reckon_due()
        return ()

    def abandon(self, now_s: float) -> tuple[Action, ...]:
        """The client left: nobody waits for an outcome."""
        self._due_s = math.inf
        return self._withdraw_all(now_s)

    def _notice_silence(self, now_s: float) -> bool:
        """Tell the desk of the attempts that have become silent; return whether there are any."""
        desk = self._desk
        is_any = False
        for it in self._under_way:
            if it.is_silent or it.silent_s > now_s:
                continue
            if desk.has_answered(it.host, it.judged_s):
                it.judged_s = now_s
                remaining_s = self._deadline_s - it.sent_s
                it.silent_s = it.sent_s + desk.first_byte_limit_s(it.host, remaining_s, now_s)
                if it.silent_s > now_s:
                    continue
            is_any = it.is_silent = True
            desk.silent(it.host, now_s - it.sent_s, now_s)
        return is_any

    # another host

    def _after_refusal(self, error: PeerError, now_s: float) -> Send | None:
        self._runs -= 1
        if isinstance(error, Overloaded):
            self._overloads += 1
            softest = self._softest.retry_after_s if self._softest is not None else 0.0
            if not softest or 0 < error.retry_after_s < softest:
                self._softest = error
            if self._has_hope():
                return None  # a hedge that finds no room is no reason to look for more
            if self._overloads <= self._max_refusals and not self._desk.try_pass_on(now_s):
                return None
        return self._elsewhere(now_s)

    def _retry(self, now_s: float) -> Send | None:
        """Replace an attempt that is lost but may have been run."""
        if not self._is_safe or self._has_hope() or not self._has_room():
            return None
        return self._elsewhere(now_s) if self._desk.try_retry(now_s) else None

    def _hedge(self, now_s: float) -> Send | None:
        self._hedge_s = math.inf
        self._may_hedge = False  # once a request, whatever comes of it
        if not self._has_room() or not self._desk.try_hedge(now_s):
            return None
        return self._elsewhere(now_s)

    def _elsewhere(self, now_s: float) -> Send | None:
        """Ask a host that was not asked; None when there is none or too many were full."""
        if self._overloads > self._max_refusals:
            return None
        try:
            host = self._desk.choose({it.host for it in self._attempts}, now_s)
        except CapameshError:
            return None
        return self._send(host, now_s)

    def _send(self, host: Host, now_s: float) -> Send:
        remaining_s = self._deadline_s - now_s
        number = len(self._attempts)
        self._desk.sent(host, now_s)
        limit_s = self._desk.first_byte_limit_s(host, remaining_s, now_s)
        it = _Attempt(number, host, now_s, now_s + limit_s)
        self._attempts.append(it)
        self._under_way.append(it)
        self._runs += 1
        self._plan(now_s)
        return Send(number, host, max(1, int(remaining_s * 1000)))

    def _has_hope(self) -> bool:
        """Whether an attempt is under way that is not known to be silent."""
        return any(not attempt.is_silent for attempt in self._under_way)

    def _has_room(self) -> bool:
        """Whether one more node may run the request."""
        return self._runs < self._max_attempts and self._overloads <= self._max_refusals

    # time

    def _plan(self, now_s: float) -> None:
        """Start the hedge's clock if one attempt is alone under way from now on."""
        self._hedge_s = math.inf
        if self._may_hedge and len(self._under_way) == 1:
            delay_s = self._desk.hedge_delay_s(now_s)
            if delay_s is not None:
                self._hedge_s = now_s + delay_s
        self._reckon_due()

    def _reckon_due(self) -> None:
        due_s = min(self._deadline_s, self._hedge_s)
        for attempt in self._under_way:
            if attempt.silent_s < due_s and not attempt.is_silent:
                due_s = attempt.silent_s
        self._due_s = due_s

    # the end

    def _too_late(self) -> Failed:
        text = f"no answer before the request's deadline, from {len(self._attempts)} nodes asked"
        return Failed(DeadlineExceeded(f"{text}; allow more time or try again later"))

    def _end(self, attempt: _Attempt, end: str | CapameshError, now_s: float) -> None:
        attempt.end = end
        attempt.ended_s = now_s
        self._under_way.remove(attempt)

    def _finish(self, final: Answered | Failed, now_s: float) -> tuple[Action, ...]:
        self._due_s = math.inf
        if self._under_way:
            return (final, *self._withdraw_all(now_s))
        return (final,)

    def _withdraw_all(self, now_s: float) -> tuple[Withdraw, ...]:
        withdrawn = tuple(self._under_way)
        for attempt in withdrawn:
            self._end(attempt, "withdrawn", now_s)
            self._desk.withdrawn(attempt.host, now_s - attempt.sent_s, now_s)
        return tuple([Withdraw(attempt.number) for attempt in withdrawn])
