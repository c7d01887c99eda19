"""What a flight says and whom it asks: its actions, its attempts, and the desk on the other side. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.deaths import Stand
    from capamesh.router.fleet.replica import Host


@dataclass(slots=True)  # not frozen: one is made for every request
class Send:
    """Ask `host`. Attempts count from 0; the host has `budget_ms` milliseconds, at least 1."""

    attempt: int
    host: Host
    budget_ms: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask `host` for a sign of life, and call `linked` when it has given one."""

    host: Host


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Cancel an attempt that is under way: its result is not wanted, what still comes of it is ignored."""

    attempt: int


@dataclass(slots=True)  # not frozen: one is made for every request
class Answered:
    """Deliver the attempt's answer. Final."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Deliver the error. Final."""

    error: CapameshError


Action = Send | Probe | Withdraw | Answered | Failed


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

    def refuted(
        self, host: Host, by: Host, error: CapameshError, elapsed_s: float, now_s: float
    ) -> None:
        """`error`, of which `failed` has told after `elapsed_s`, is not the caller's fault: `by` has answered."""
        ...

    def is_ample(self, host: Host, remaining_s: float) -> bool:
        """Return whether `host` is wrong to say that the deadline has passed while `remaining_s` are left."""
        ...

    def is_back(self, host: Host, since_s: float) -> bool:
        """Return whether the link of `host` is newer than that instant."""
        ...

    def died(self, host: Host, now_s: float) -> None:
        """The link of `host` ended without a word while the request was under way there: its process may have ended."""
        ...

    def stand(self, *, is_final: bool = False) -> Stand:
        """Return how it stands with the request after `died`; `is_final`: there is no time to learn more."""
        ...

    def is_far_above_usual(self, host: Host) -> bool:
        """Return whether the request is so much larger than is usual that `host` may have ended of that alone."""
        ...

    def ended(self, *, is_guilty: bool) -> None:
        """The request ended unanswered after `died`."""
        ...

    def left(self, host: Host, now_s: float) -> None:
        """An attempt that is under way will be withdrawn without an answer: it may go on at the node."""
        ...

    def is_alive(self, host: Host, since_s: float) -> bool:
        """Return whether the process of `host` was certainly there after that instant."""
        ...

    def wait_until_s(self, asked: Collection[Host], now_s: float) -> float:
        """Return until when some host not in `asked` that lacks but a link is likely to have one, `now_s` if unknown.

        Minus infinity: there is no such host, or too many wait for one.
        """
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

    def second(self, of: Host, asked: Collection[Host], now_s: float) -> Host | None:
        """Return a host not in `asked` to say whether the caller is wrong, as `of` says; None: there is none to spare.

        It is paid for from a budget of its own, unless `of` was wrong of late: the caller may as well be wrong.
        """
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


class Attempt:
    """One send of the request, until it ends and after."""

    __slots__ = (
        "end",
        "ended_s",
        "host",
        "is_death",
        "is_silent",
        "is_unsent",
        "judged_s",
        "number",
        "sent_s",
        "silent_s",
    )

    def __init__(self, number: int, host: Host, sent_s: float, silent_s: float) -> None:
        self.number = number
        self.host = host
        self.sent_s = sent_s
        self.judged_s = sent_s
        """When `silent_s` was reckoned."""
        self.silent_s = silent_s
        """When its silence is a fault."""
        self.is_silent = False
        self.is_death = False
        """Whether its process ended while it ran it, as it seems."""
        self.is_unsent = False
        """Whether no byte of it left."""
        self.end: CapameshError | str = "under way"
        self.ended_s: float | None = None

    def record(self) -> AttemptRecord:
        """Return what became of it, for people."""
        end = self.end if isinstance(self.end, str) else f"{self.end.code}: {self.end.message}"
        outcome = f"silent, {end}" if self.is_silent else end
        return AttemptRecord(self.host, self.sent_s, self.ended_s, outcome)
