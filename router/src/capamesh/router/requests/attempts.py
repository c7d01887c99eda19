"""One request's attempts, from the first send to its one outcome: retries, hedge, silence, deadline. Pure.

Events go in (`start`, `answered`, `failed`, `linked`, `tick`, `abandon`), actions come out, to be done in their order;
timers are data (`due_s`). Whom to ask and what an event says of a node are the `Picker`'s matter.

An attempt is lost when it fails or stays silent over its limit; the limit of one whose node went on answering
others meanwhile is reckoned anew when it has passed, for then the node is slow, not silent. What was certainly
not run is asked elsewhere at once. What may have been run is asked elsewhere only if running it twice is
harmless (`is_safe`), the retry budget has a token and no other attempt may still bring the answer. A hedge is a
second attempt beside one that is merely slow (Dean and Barroso, "The Tail at Scale", 2013; gRPC proposal A6):
the first answer wins.

Whose fault a failure is: `blame`. Where a link is all that is missing, the request waits a moment for one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    LinkLost,
    Overloaded,
    is_refusal,
)
from capamesh.router.balancing.picking import Picker
from capamesh.router.balancing.purpose import Purpose
from capamesh.router.requests.attempt_events import Action, Answered, Failed, Probe
from capamesh.router.requests.blame import Blame, Fault, fault_of, judged
from capamesh.router.requests.patience import Patience
from capamesh.router.requests.sends import Sends

if TYPE_CHECKING:
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.attempt import Attempt
    from capamesh.router.fleet.replica import Replica

MAX_ATTEMPTS = 3
"""The most nodes that may run one request, hedge included (guess; gRPC A6 allows at most 5)."""
MAX_REFUSALS = 3
"""The most full nodes that are passed by; with one more the fleet counts as full (guess). Without a bound, each
request to a full fleet asks every node of it."""
MAX_WAIT_S = 3.0
"""Seconds for which a request waits for a link, in all (guess: a router that was frozen, or a node that restarts, is linked
within a second; a caller that waits longer may as well be told)."""

_SILENT = LinkLost("no answer")
"""The error of silence, which nobody is told: a request that is asked elsewhere for it has another attempt under way."""


class RequestAttempts(Sends):
    """One request's attempts, which end once: by `Answered`, by `Failed` or by `abandon`.

    `deadline_s` is a finite instant on the clock of `now_s`, `size_bytes` the request's size. `is_safe`: running it
    twice does no harm, as most invites say; `may_be_safe`: if it does, only by their word. `is_hedged`: it may be, if also
    safe. `max_attempts` (at least 1) bounds how many nodes may run it; the nodes that refused it do not count.
    `is_pinned`: what it needs is at one node, so that no other is asked when that refuses. `max_wait_s`: how long it may
    wait for a link, longer where one is to be back; 0: not at all. Methods return the actions to do, in order; a final
    action comes first in its tuple, and only `Withdraw`s come after it.
    """

    __slots__ = (
        "_blame",
        "_is_pinned",
        "_is_safe",
        "_is_stranded",
        "_max_wait_s",
        "_may_be_safe",
        "_patience",
        "_size_bytes",
        "_waits_for",
    )

    def __init__(
        self,
        picker: Picker,
        *,
        deadline_s: float,
        size_bytes: int,
        is_safe: bool,
        is_hedged: bool,
        may_be_safe: bool = False,
        is_pinned: bool = False,
        max_attempts: int = MAX_ATTEMPTS,
        max_refusals: int = MAX_REFUSALS,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self._picker, self._attempts, self._under_way = picker, picker.attempts, []
        self._max_attempts, self._max_refusals = max_attempts, max_refusals
        self._may_hedge = is_hedged and is_safe
        self._runs = self._overloads = 0
        self._softest = None
        self._hedge_s = self._due_s = math.inf
        self._deadline_s, self._max_wait_s = deadline_s, max_wait_s
        self._size_bytes = size_bytes
        self._is_safe, self._is_pinned = is_safe, is_pinned
        self._may_be_safe = may_be_safe
        self._blame: Blame | None = None
        """The blame, which is made when a link is lost or a node blames the caller."""
        self._is_stranded = False
        """True if another replica was to be asked, and there was none."""
        self._waits_for: CapameshError | None = None
        """The reason why there is nobody to ask without a link, while the request waits for one."""
        self._patience: Patience | None = None
        """The patience, which is made when the request first has to wait."""

    @property
    def is_waiting(self) -> bool:
        """Return whether it waits for a link: `linked` is to be called when one is up."""
        return self._waits_for is not None

    @property
    def awaits_life(self) -> bool:
        """Return whether `linked` is to be called when the replica of a `Probe` has given a sign of life, too."""
        blame = self._blame
        return self._waits_for is not None and blame is not None and blame.probed is not None

    # events

    def start(self, now_s: float) -> tuple[Action, ...]:
        """Begin. To be called once, before all else."""
        if now_s >= self._deadline_s:
            return self._finish(self._too_late(), now_s)
        try:
            replica = self._picker.choose((), now_s)
        except CapameshError as error:
            return self._wait(error, now_s)
        return (self._send(replica, now_s),)

    def answered(
        self, attempt: int, load: LoadReport, at_node_s: float, answer_bytes: int, now_s: float
    ) -> tuple[Action, ...]:
        """The answer is there, of `answer_bytes`, after `at_node_s` at the node; a late one counts too."""
        it = self._attempts[attempt]
        if it.ended_s is not None:
            return ()
        self._end(it, "answered", now_s)
        if self._blame is not None:
            self._blame.refute(it, now_s)
        self._picker.answered(
            it.replica, load, now_s - it.sent_s, at_node_s, self._size_bytes + answer_bytes, now_s
        )
        return self._finish(Answered(attempt), now_s)

    def failed(
        self,
        attempt: int,
        error: CapameshError,
        now_s: float,
        *,
        is_unsent: bool = False,
        is_certain: bool = False,
    ) -> tuple[Action, ...]:
        """The attempt failed. `is_unsent`: no byte of it left, so that it certainly was not run.

        `is_certain`: if the error names the caller's fault, that is so whatever another node says.
        """
        it = self._attempts[attempt]
        if it.ended_s is not None:
            return ()
        reported = error
        it.is_unsent = is_unsent
        if not is_unsent:
            remaining_s = self._deadline_s - now_s
            has_time_left = self._picker.has_time_left(it.replica, remaining_s)
            error = judged(reported, remaining_s, has_time_left=has_time_left)
            if not isinstance(reported, DeadlineExceeded):
                reported = error
        self._end(it, error, now_s)
        self._picker.failed(it.replica, error, now_s - it.sent_s, now_s)
        if isinstance(error, LinkLost) and not is_unsent:
            self._link_lost(it, error, now_s)
        fault = fault_of(error, is_unsent=is_unsent)
        if fault is Fault.ROUTER:
            return self._finish(Failed(error), now_s)
        if fault is Fault.CALLER:
            return self._cross_check(it, error, now_s, is_certain=is_certain)
        if self._is_doubted():
            self._runs -= fault is Fault.REFUSED
            if isinstance(error, Overloaded):
                self._count_overload(error)
            return self._ask_another(now_s)
        if now_s >= self._deadline_s:
            return self._finish(self._too_late(), now_s)
        self._is_stranded = False
        if fault is Fault.REFUSED:
            more = self._after_refusal(error, now_s)
        else:
            more = self._retry(it, reported, now_s)
        return self._lost(reported, now_s) if more is None else more

    def linked(self, now_s: float) -> tuple[Action, ...]:
        """A link is up; does nothing unless it waits for one."""
        error, self._waits_for = self._waits_for, None
        if error is None:
            return ()
        if now_s >= self._due_s or self._is_doubted():
            return self._look_again_or_give_up(error, now_s)
        more = self._elsewhere(error, now_s)
        return self._wait(error, now_s) if more is None else more

    def tick(self, now_s: float) -> tuple[Action, ...]:
        """Time has passed; does nothing before `due_s`."""
        if now_s < self._due_s:
            return ()
        if self._waits_for is not None:
            error, self._waits_for = self._waits_for, None
            return self._look_again_or_give_up(error, now_s)
        if now_s >= self._deadline_s:
            return self._no_opinion(now_s) or self._finish(self._too_late(), now_s)
        more: tuple[Action, ...] | None = None
        if self._notice_silence(now_s):
            if self._is_doubted():
                return self._ask_another(now_s)
            more = self._retry(self._attempts[-1], _SILENT, now_s)
        if more is None and now_s >= self._hedge_s:
            more = self._hedge(now_s)
        if more is not None:
            return more
        self._reckon_due()
        return ()

    def abandon(self, now_s: float) -> tuple[Action, ...]:
        """The client left: nobody waits for an outcome."""
        is_open = self._waits_for is not None or bool(self._under_way)
        self._due_s = math.inf
        self._waits_for = None
        if is_open and self._blame is not None:
            self._blame.ended(None)
        return self._withdraw_all(now_s, is_unanswered=True)

    def _lost(self, error: CapameshError, now_s: float) -> tuple[Action, ...]:
        """An attempt has failed and no other replaces it."""
        if self._under_way:
            self._plan(now_s)
            return ()
        if isinstance(error, Overloaded):
            error = self._softest or error
            # all who waited fall on the first link, and others may be up in a moment
            if self._is_stranded and self._patience is not None:
                return self._wait(error, now_s)
            return self._finish(Failed(error), now_s)
        if self._is_stranded:
            return self._wait(error, now_s)
        return self._finish(Failed(self._told(error)), now_s)

    # who is to blame

    def _link_lost(self, it: Attempt, error: LinkLost, now_s: float) -> None:
        blame = self._blame = self._blame or Blame(self._picker, self._attempts)
        if error.is_sudden:
            self._may_hedge = False
        if blame.link_lost(it, error, now_s):
            self._runs -= 1

    def _cross_check(
        self, it: Attempt, error: CapameshError, now_s: float, *, is_certain: bool
    ) -> tuple[Action, ...]:
        """A node says that it is the caller's fault: ask another what it says, if there is one to spare."""
        is_late = isinstance(error, DeadlineExceeded)
        if is_certain or (is_late and self._picker.lacks_word(now_s)):
            return self._finish(Failed(error), now_s)
        if is_late or not self._may_repeat(it):
            return self._no_opinion(now_s) or self._finish(Failed(error), now_s)
        blame = self._blame = self._blame or Blame(self._picker, self._attempts)
        blame.doubted.append(it)
        return self._ask_another(now_s)

    def _may_repeat(self, it: Attempt) -> bool:
        """Return whether the request may run at another node after `it`, which alone could forbid it, has failed or is silent."""
        if not self._is_safe and self._may_be_safe:
            self._is_safe = self._picker.may_repeat_after(it.replica)
        return self._is_safe

    def _is_doubted(self) -> bool:
        """Return whether another node is asked if the caller is wrong, as one said."""
        return self._blame is not None and bool(self._blame.doubted)

    def _ask_another(self, now_s: float) -> tuple[Action, ...]:
        """Ask one more node whether the caller is wrong; where there is none to ask, it is."""
        if self._has_hope():
            self._plan(now_s)
            return ()
        if self._blame is None or now_s >= self._deadline_s or not self._has_room():
            return self._no_opinion(now_s)
        of, verdict = self._blame.doubted[0].replica, self._blame.verdict
        replica = None
        if not self._is_held():
            replica = self._picker.cross_check(of, self._asked(), now_s)
        if replica is None or verdict is None:
            return self._no_opinion(now_s)
        return self._send_alive(replica, verdict, now_s)

    def _no_opinion(self, now_s: float) -> tuple[Action, ...]:
        """No other node has answered what one took for the caller's fault: so it is; nothing if none has.

        Where those whose word would count were full, or the time is over before they have said it, one word is no verdict.
        """
        verdict = None if self._blame is None else self._blame.verdict
        if verdict is None:
            return ()
        is_late = now_s >= self._deadline_s
        if (self._softest is not None or is_late) and self._picker.lacks_word(now_s):
            if is_late:
                return self._finish(self._too_late(), now_s)
            verdict = self._softest or verdict
        return self._finish(Failed(self._told(verdict, is_final=True)), now_s)

    def _is_held(self) -> bool:
        """Return whether the request must not be sent now, for it may be what processes died of."""
        return self._blame is not None and self._blame.is_held()

    def _told(self, error: CapameshError, *, is_final: bool = False) -> CapameshError:
        """Return what to tell the caller of `error`."""
        return error if self._blame is None else self._blame.told(error, is_final=is_final)

    # another replica

    def _after_refusal(self, error: CapameshError, now_s: float) -> tuple[Action, ...] | None:
        self._runs -= 1
        if isinstance(error, Overloaded):
            self._count_overload(error)
            if self._has_hope():
                return None  # a hedge that finds no room is no reason to look for more
            if self._overloads <= self._max_refusals and not self._picker.try_pass_on(now_s):
                return None
        if self._is_pinned and is_refusal(error):
            return None  # its node is there; what it needs is nowhere else
        return self._elsewhere(error, now_s)

    def _retry(self, it: Attempt, error: CapameshError, now_s: float) -> tuple[Action, ...] | None:
        """Replace an attempt that is lost but may have been run."""
        if not self._may_repeat(it) or self._has_hope() or not self._has_room():
            return None
        if self._is_held():
            self._is_stranded = True
            return None
        return self._elsewhere(error, now_s) if self._picker.try_retry(now_s) else None

    def _hedge(self, now_s: float) -> tuple[Action, ...] | None:
        self._hedge_s = math.inf
        self._may_hedge = False  # once a request, whatever comes of it
        if not self._has_room() or not self._picker.try_hedge(now_s):
            return None
        return self._elsewhere(_SILENT, now_s, Purpose.HEDGE)

    def _elsewhere(
        self, error: CapameshError, now_s: float, purpose: Purpose = Purpose.RETRY
    ) -> tuple[Action, ...] | None:
        """Ask a replica that was not asked; None: there is none, or too many were full.

        `error` is what to tell if nothing comes of that.
        """
        if self._overloads > self._max_refusals:
            return None
        replica = None if self._is_held() else self._other(now_s, purpose)
        if replica is None:
            self._is_stranded = True
            return None
        return self._send_alive(replica, error, now_s)

    def _send_alive(
        self, replica: Replica, error: CapameshError, now_s: float
    ) -> tuple[Action, ...]:
        """Ask a replica, or first whether it is there, if the request may have ended the process that it is to go to."""
        blame = self._blame
        if self._under_way or blame is None or not blame.must_show_life(replica, now_s):
            return (self._send(replica, now_s),)
        is_asked, blame.probed = replica is blame.probed, replica
        self._waits_for = error
        self._due_s = min(self._deadline_s, blame.life_s)
        return () if is_asked else (Probe(replica),)

    # without a link

    def _wait(self, error: CapameshError, now_s: float) -> tuple[Action, ...]:
        """Nobody can be asked, for which there is an error: wait for a link if that helps and is not over."""
        patience = self._patience
        if patience is None:
            patience = self._patience = Patience(now_s, self._max_wait_s, self._deadline_s)
        if self._is_held():
            return self._wait_for_verdict(error, patience.most_s, now_s)
        until_s = self._picker.wait_until_s(self._not_to_be_asked_again(), now_s)
        if not self._max_wait_s or until_s == -math.inf:
            return self._finish(Failed(error), now_s)
        due_s = patience.until_s(until_s)
        if now_s >= due_s:
            return self._give_up(error, now_s)
        self._waits_for = error
        self._due_s = due_s
        return ()

    def _wait_for_verdict(
        self, error: CapameshError, due_s: float, now_s: float
    ) -> tuple[Action, ...]:
        """Other requests were in the processes that ended: wait for what becomes of them."""
        blamed = self._told(error, is_final=now_s >= due_s)
        if blamed is not error or now_s >= due_s or not self._max_wait_s:
            return self._finish(Failed(blamed), now_s)
        self._waits_for = error
        self._due_s = due_s
        return ()

    def _look_again_or_give_up(self, error: CapameshError, now_s: float) -> tuple[Action, ...]:
        """No link came in time, but not only a link makes a node one that can be asked."""
        if self._is_doubted():
            return self._ask_another(now_s)
        more = self._elsewhere(error, now_s) if now_s < self._deadline_s else None
        blame = self._blame
        if more is not None:
            return more
        if blame is not None and blame.probed is not None and now_s < self._deadline_s:
            blame.probed = None  # a sign of life was waited for, not a link
            return self._wait(error, now_s)
        return self._give_up(error, now_s)

    def _give_up(self, error: CapameshError, now_s: float) -> tuple[Action, ...]:
        """No link came in time."""
        if self._attempts:
            # that it was lost tells more
            return self._finish(Failed(self._told(error, is_final=True)), now_s)
        if self._patience is not None:
            error = self._patience.gave_up(error, now_s)
        return self._finish(Failed(error), now_s)

    # the end

    def _finish(self, final: Answered | Failed, now_s: float) -> tuple[Action, ...]:
        self._due_s = math.inf
        self._waits_for = None
        if isinstance(final, Failed):
            if self._blame is not None:
                self._blame.ended(final.error)
            for it in self._attempts:
                it.settle()
        if self._under_way:
            is_unanswered = isinstance(final, Failed)
            return (final, *self._withdraw_all(now_s, is_unanswered=is_unanswered))
        return (final,)
