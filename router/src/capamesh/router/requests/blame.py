"""Decides who is to blame for what becomes of one request: its caller, a node, or the request itself. Pure.

That a request is wrong is believed of one node where the router sees it for itself; else another node is asked, of
another invite where there is one (`Picker.cross_check`). What cannot be the caller's fault (a deadline that is far away, a
model that the node itself advertises) is the node's. A request in whose runs processes end is to blame for it once the
picker says so.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    ClientError,
    DeadlineExceeded,
    LinkLost,
    ModelNotFound,
    ModelUnavailable,
    PeerError,
    RequestKills,
    RunFailed,
    is_refusal,
)
from capamesh.router.balancing.deaths import Stand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.router.balancing.attempt import Attempt
    from capamesh.router.balancing.picking import Picker
    from capamesh.router.fleet.replica import Replica

LIFE_S: Final = 0.25
"""Seconds for which a sign of life is waited for from the node that is to repeat what a process may have died of: were all
killed at once, one after the other would count as a death of the request's (guess: a busy worker answers a probe sooner)."""

_KILLS_TWICE: Final = (
    "two workers ended while they ran this request: it is not sent to another; ask for less, or have the"
    " model's owner look at it"
)
_KILLS_BY_SIZE: Final = (
    "a worker ended while it ran this request, which is far larger than is usual for the model: it is not"
    " sent to another; send fewer rows at once"
)


class Fault(enum.Enum):
    """The side whose fault an attempt's failure is, and whether the request was run."""

    CALLER = enum.auto()
    """The node says that the request is wrong."""
    REFUSED = enum.auto()
    """The node has not run it: it refused, or not a byte was sent."""
    FAILED = enum.auto()
    """The node may have run it."""
    ROUTER = enum.auto()
    """Nobody's but this process's."""


def fault_of(error: CapameshError, *, is_unsent: bool) -> Fault:
    """Return whose fault an error is that `judged` has returned."""
    if isinstance(error, ClientError) and not is_unsent:
        return Fault.CALLER
    if not isinstance(error, PeerError):
        return Fault.ROUTER
    return Fault.REFUSED if is_unsent or is_refusal(error) else Fault.FAILED


def judged(error: CapameshError, remaining_s: float, *, has_time_left: bool) -> CapameshError:
    """Return what a node's error says: some that name the caller's fault can only be the node's.

    `has_time_left` says that in `remaining_s` the node would certainly have had time enough.
    """
    made: type[CapameshError]
    match error:
        case ModelNotFound():
            made = ModelUnavailable  # it advertises the model: it has just unloaded it
        case Cancelled():
            made = PeerError  # nobody has withdrawn the request
        case RequestKills():
            made = RunFailed  # for the router to find out
        case DeadlineExceeded() if has_time_left:
            made = PeerError
        case _:
            return error
    return made(f"the node answered {error.code} with {remaining_s:.3f} s left: {error.message}")


def is_death(*, is_sudden: bool, is_first: bool, is_alive: bool) -> bool:
    """Return whether a link that ended counts as a death of the process in the request's run.

    `is_sudden`: it ended without a word. `is_first`: no process has ended in this request's runs so far. `is_alive`:
    since the last that did, this one has given a sign of life; without one it may have ended with that.
    """
    return is_sudden and (is_first or is_alive)


def is_run(*, is_sudden: bool, is_death: bool, is_before_last: bool, is_silent: bool) -> bool:
    """Return whether an attempt whose link ended counts as a run of the request.

    `is_before_last`: it was sent before the last process ended. `is_silent`: it was silent for too long.
    """
    return (is_death or is_before_last) if is_sudden else not is_silent


def killing(stand: Stand, *, is_too_large: bool) -> RequestKills | None:
    """Return the error of a request that ends processes; None: it is not known to.

    `is_too_large`: one process has ended, and may have of the request's size alone.
    """
    if stand is Stand.GUILTY:
        return RequestKills(_KILLS_TWICE)
    if not is_too_large:
        return None
    error = RequestKills(_KILLS_BY_SIZE)
    error.deaths = 1
    return error


class Blame:
    """The evidence of the failures of one request's attempts. One is made with a request's first failure."""

    __slots__ = (
        "_attempts",
        "_is_replaced",
        "_life_s",
        "_lost_s",
        "_picker",
        "doubted",
        "probed",
    )

    def __init__(self, picker: Picker, attempts: Sequence[Attempt]) -> None:
        self._picker = picker
        self._attempts = attempts
        self.doubted: list[Attempt] = []
        """The attempts whose replicas say that the caller is wrong, while another is asked what it says."""
        self._lost_s = -math.inf
        """The time when a process ended, as it seems, while it ran the request; minus infinity: none has."""
        self._life_s = math.inf
        """Seconds for which a sign of life is waited for."""
        self.probed: Replica | None = None
        """The replica that is asked for a sign of life."""
        self._is_replaced = False
        """True if an attempt was taken off the runs: its process was silent, or had ended before."""

    # the caller

    @property
    def verdict(self) -> CapameshError | None:
        """Return what the first doubted replica has said of the caller, which holds unless another answers; None: nothing."""
        end = self.doubted[0].end if self.doubted else ""
        return None if isinstance(end, str) else end

    def refute(self, by: Attempt, now_s: float) -> None:
        """Tell the picker that the doubted replicas were wrong, if there are any: another has answered."""
        for doubted in self.doubted:
            if not isinstance(doubted.end, str):
                elapsed_s = (doubted.ended_s or now_s) - doubted.sent_s
                self._picker.refuted(doubted.replica, by.replica, doubted.end, elapsed_s, now_s)

    # the request

    def link_lost(self, it: Attempt, error: LinkLost, now_s: float) -> bool:
        """Take in that an attempt's link has ended; return whether the attempt is to be taken off the runs."""
        last_s = self._lost_s
        is_sudden = error.is_sudden
        it.is_death = is_death(
            is_sudden=is_sudden,
            is_first=last_s == -math.inf,
            is_alive=is_sudden and self._picker.is_alive(it.replica, last_s),
        )
        if is_sudden:
            self._lost_s = now_s
            self._life_s = math.inf
        if it.is_death:
            self._picker.died(it.replica, now_s)
        is_counted = is_run(
            is_sudden=is_sudden,
            is_death=it.is_death,
            is_before_last=it.sent_s < last_s,
            is_silent=it.is_silent,
        )
        if is_counted or self._is_replaced:
            return False
        self._is_replaced = True
        return True

    def is_held(self) -> bool:
        """Return whether the request must not be sent now, for it may be what processes ended of."""
        return self._lost_s > -math.inf and (
            self._picker.stand() is not Stand.FREE or self._is_too_large()
        )

    def told(self, error: CapameshError, *, is_final: bool = False) -> CapameshError:
        """Return what to tell the caller: that it is the request that ends processes, if so; else `error`."""
        if self._lost_s == -math.inf:
            return error
        stand = self._picker.stand(is_final=is_final)
        return killing(stand, is_too_large=self._is_too_large()) or error

    def must_show_life(self, replica: Replica, now_s: float) -> bool:
        """Return whether `replica` is to give a sign of life before it is asked, and there is time for that."""
        if not self._picker.is_alive(replica, self._lost_s):
            if self._life_s == math.inf:
                self._life_s = now_s + LIFE_S
            if now_s < self._life_s:
                return True  # after that its link stands: it is busy
        self.probed = None
        return False

    @property
    def life_s(self) -> float:
        """Return how long a sign of life is waited for."""
        return self._life_s

    def ended(self, error: CapameshError | None) -> None:
        """Tell the picker that the request has ended with an error, or with None because its client left."""
        if self._lost_s > -math.inf:
            self._picker.ended(is_guilty=isinstance(error, RequestKills) and error.deaths > 1)

    def _is_too_large(self) -> bool:
        """Return whether a process that ran the request may have ended of its size."""
        return any(
            it.is_death and self._picker.is_far_above_usual(it.replica) for it in self._attempts
        )
