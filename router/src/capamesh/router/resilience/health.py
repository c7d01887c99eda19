"""Decides whether, and how much, a node or one of its models should be sent to: a circuit breaker. Pure.

One failure is enough to look away for a moment; how long depends on what failed and how often in a row:

    closed -- a failure --> inhibited -- its time, or a probe's answer --> ramping -- 2 s --> closed
    any    -- 5 in a row, or an outlier --> ejected -- its time, or answers in a trial --> ramping

Hard failures (link lost, silent, protocol broken) say that the node may be gone: 5 s, ended at once by the
answer to a probe, and not by time while probes are asked and none is answered. Soft ones (the model's run failed) say nothing of the node: 0.1 s, twice as long each time.
Failures that arrive while it is inhibited belong to what has been noticed already: a lost link fails all
that was under way on it, which is one failure and not many.

An ejection lasts long, but has trials: every 2.5 s it lets a small share of requests through until one of them
fails or enough are answered, so that who recovers is back within 5 s although nobody says so. Beside all this
a moving average of errors lowers the share of requests of one who fails now and then, or fails fast and so
looks idle.

`is_full` is what a hot path reads: true for the healthy, and then nothing else need be asked.
"""

from __future__ import annotations

import math
from enum import StrEnum

from typing_extensions import override

from capamesh.protocol.errors import ConfigError

INHIBITED_S = 5.0
"""A hard failure inhibits for this long (Dynamo's local inhibition)."""
SOFT_S = 0.1
"""The first soft failure inhibits for this long, each further one in a row for twice as long (guess: a few runs of a model)."""
PROBE_FIRST_S = 0.05
PROBE_MOST_S = 1.0
"""Re-probes while inhibited: after 50 ms, then at doubling distances up to 1 s (guess)."""
PROBE_HOLD_S = 0.5
"""The shortest inhibition that a probe's answer ends, from the second hard failure in a row on, doubling (guess): a node that
answers probes but no requests must not come back at each probe."""
EJECT_AFTER = 5
"""Failures in a row (Envoy, gRPC A50)."""
EJECTED_S = 30.0
MOST_EJECTED_S = 300.0
"""An ejection lasts the first times how many there were of late, up to the second (Envoy, gRPC A50)."""
HEALTHY_INTERVAL_S = 10.0
"""The count of ejections falls by one for each of these intervals without an ejection (Envoy's interval)."""
TRIAL_EVERY_S = 2.5
"""Trial requests go to an inhibited replica this often (guess: with the ramp of 2 s, in full use 5 s after a recovery)."""
TRIAL_ANSWERS = 3
"""Answers in a row that end an outlier's ejection; one ends that of who failed always (guess)."""
RAMP_S = 2.0
"""Seconds of the ramp (guess; Envoy calls it the slow start window)."""
RAMP_FROM = 0.1
"""The share that a ramp begins with, and a trial's (Envoy's min_weight_percent)."""
UNHEARD_S = 2.0
"""A probe that is asked makes an inhibition last so much longer at least, until it is answered: requests are no
better probes (guess: twice the distance of probes). Found with benchmarks/chaos.py: a frozen node was sent one
request in a hundred, whose hedges hid that it was silent, from when its 5 s were over until its link was given up."""
BLIP_S = 0.2
"""A replica that was away for less returns without a ramp (guess: nothing has gone cold, no queue has formed)."""
REFUSED_S = 0.05
MOST_REFUSED_S = 2.0
"""A replica that refused and named no time is avoided for this long, which is also the longest that one may ask for (guess)."""
ERROR_WEIGHT = 1 / 16
"""The weight of the newest outcome in the average (guess: 16 requests of memory)."""
ERROR_DECAY_S = 2.0
"""The average also falls by time, or one whose share is small would hardly have the answers to earn
it back (guess, from the 5 s in which who recovers must be back)."""
MOST_ERRORS = 0.5
"""The average counts no further: the share is at its least before (so a recovery takes no longer)."""
FEW_ERRORS = 0.005
"""Less is none."""
AVERSION = 8
"""Share = (1 - errors) ** this: 10 % errors leave less than half of it (guess)."""
MIN_SHARE = 0.05
"""Errors alone take no more, so that there are answers to recover by (guess)."""
SETTLE_EVERY_S = 0.01
"""The average is computed anew no more often (guess)."""
BACKWARDS_S = 1.0
"""A clock this far behind what it showed was set back, and all due times move with it; less is callers
that read it at different moments (guess)."""


class CircuitState(StrEnum):
    """The state of a circuit as people are shown it; `held_*` was set by the operator."""

    CLOSED = "closed"
    INHIBITED = "inhibited"
    EJECTED = "ejected"
    RAMPING = "ramping"
    FORCED_OPEN = "forced_open"
    FORCED_CLOSED = "forced_closed"


class Health:
    """The state of one node or replica. Every `now_s` is the caller's monotonic clock in seconds."""

    __slots__ = (
        "_answers_left",
        "_answers_wanted",
        "_avoid_until_s",
        "_cause",
        "_ejections",
        "_ended_s",
        "_errors",
        "_held",
        "_is_hard",
        "_probe_ends_s",
        "_probe_s",
        "_probe_wait_s",
        "_ramp_s",
        "_seen_s",
        "_state",
        "_trial_s",
        "_until_s",
        "consecutive",
        "is_full",
        "since_s",
    )

    def __init__(self) -> None:
        self.is_full = True
        """True if it may be sent to with a share of 1. It may be False for a while although both are so: `may_send` sets it right."""
        self.since_s = -math.inf
        """The time at which the present inhibition, ejection or refusal, or else the last one, began."""
        self._state = CircuitState.CLOSED
        self._held: CircuitState | None = None
        self._cause = ""
        self._is_hard = False
        self._until_s = -math.inf
        self._ramp_s = -math.inf
        self._avoid_until_s = -math.inf
        self._trial_s = -math.inf
        self._answers_wanted = 1
        self._answers_left = 1
        self._probe_s = -math.inf
        self._probe_wait_s = PROBE_FIRST_S
        self._probe_ends_s = -math.inf
        self.consecutive = 0
        """The number of failures since the last answer."""
        self._ejections = 0
        self._ended_s = -math.inf
        self._errors = 0.0
        self._seen_s = -math.inf

    @override
    def __repr__(self) -> str:
        return f"Health({self._held or self._state}, {self._errors:.0%} errors)"

    # reading

    def may_send(self, now_s: float) -> bool:
        """Return whether a request may be sent there now; `share` says how many of them."""
        if self.is_full:
            return True
        self._settle(now_s)
        if self._held is not None:
            return self._held is CircuitState.FORCED_CLOSED
        if now_s < self._avoid_until_s:
            return False
        if self._state is CircuitState.EJECTED:
            return now_s >= self._trial_s
        return self._state is not CircuitState.INHIBITED

    def is_resting(self, now_s: float) -> bool:
        """Return whether it gets nothing only because it asked for a moment without requests."""
        if self.is_full or self._held is not None:
            return False
        self._settle(now_s)
        return now_s < self._avoid_until_s and self._state in {
            CircuitState.CLOSED,
            CircuitState.RAMPING,
        }

    def share(self, now_s: float) -> float:
        """Return which part of its requests it should have, above 0 and at most 1, given that it may be sent to.

        Who draws a number from 0 to 1 that is not below it looks elsewhere.
        """
        if self.is_full:
            return 1.0
        self._settle(now_s)
        if self._held is not None:
            return 1.0
        share = 1.0 if self._errors == 0 else max(MIN_SHARE, (1.0 - self._errors) ** AVERSION)
        if self._state is CircuitState.CLOSED:
            return share
        if self._state is CircuitState.RAMPING:
            risen = min(1.0, max(0.0, now_s - self._ramp_s) / RAMP_S)
            return share * (RAMP_FROM + (1.0 - RAMP_FROM) * risen)
        return RAMP_FROM

    def state(self, now_s: float) -> CircuitState:
        """Return the state to show; who refused is `inhibited` for as long as it is avoided."""
        self._settle(now_s)
        if self._held is not None:
            return self._held
        if now_s < self._avoid_until_s and self._state is not CircuitState.EJECTED:
            return CircuitState.INHIBITED
        return self._state

    @property
    def reason(self) -> str:
        """Return, for people, why it is or last was not sent to; empty when nothing ever happened."""
        if self._held is CircuitState.FORCED_OPEN:
            return "the operator holds it open"
        if self._held is CircuitState.FORCED_CLOSED:
            return "the operator holds it closed"
        return self._cause

    # what happens

    def failed(self, now_s: float, *, is_hard: bool, cause: str = "") -> None:
        """A request failed there. `cause` is for people."""
        self._settle(now_s)
        is_open = self._state is CircuitState.INHIBITED or (
            self._state is CircuitState.EJECTED and now_s < self._trial_s
        )
        if not is_open or not is_hard:
            self._errors = min(MOST_ERRORS, self._errors + (1.0 - self._errors) * ERROR_WEIGHT)
        if is_open:
            if is_hard and not self._is_hard and self._state is CircuitState.INHIBITED:
                self._inhibit(now_s, is_hard=True, cause=cause)
        else:
            self.consecutive += 1
            if self._state is CircuitState.EJECTED:
                self._trial_s = now_s + TRIAL_EVERY_S
                self._answers_left = self._answers_wanted
                self._until_s = max(self._until_s, self._trial_s)
            elif self.consecutive >= EJECT_AFTER:
                self._eject(now_s, f"{self.consecutive} failures in a row", answers_wanted=1)
            else:
                self._inhibit(now_s, is_hard=is_hard, cause=cause)
        self.is_full = self._held is CircuitState.FORCED_CLOSED

    def refused(
        self, now_s: float, retry_after_s: float = 0.0, *, cause: str = "overloaded"
    ) -> None:
        """Avoid a replica that is overloaded, or that refused for `cause`, for the time that it named, within bounds.

        That is no fault of the replica.
        """
        self._settle(now_s)
        wait_s = min(retry_after_s, MOST_REFUSED_S) if retry_after_s > 0 else REFUSED_S
        self._avoid_until_s = max(self._avoid_until_s, now_s + wait_s)
        if self._state in {CircuitState.CLOSED, CircuitState.RAMPING}:
            self._cause = f"{cause}: asked to wait {wait_s:.2f} s"
            self.since_s = now_s
        self.is_full = self._held is CircuitState.FORCED_CLOSED

    def answered(self, now_s: float) -> None:
        """A request was answered there: an error of the caller's is an answer, too.

        That changes nothing while it `is_full` and there are no `consecutive` failures: whoever is answered much looks first.
        """
        self._settle(now_s)
        if self._state is CircuitState.INHIBITED and self._is_hard:
            self._return(now_s)  # silent, but not gone
        elif self._state is CircuitState.EJECTED:
            if now_s < self._trial_s:
                return  # sent before the ejection
            self._answers_left -= 1
            if self._answers_left > 0:
                return
            self._return(now_s)
        self.consecutive = 0
        self._forgive(1.0 - ERROR_WEIGHT)
        self._refresh(now_s)

    def probed(self, now_s: float) -> None:
        """A probe was answered: the node is there, which ends an inhibition for a hard failure."""
        if self.is_full:
            return
        self._settle(now_s)
        if self._state is CircuitState.INHIBITED and self._is_hard and now_s >= self._probe_ends_s:
            self._return(now_s)
            self._refresh(now_s)

    def eject(self, now_s: float, cause: str = "an outlier among its peers") -> None:
        """Take it out for long: its failures or its successes stand out among all that host the model."""
        self._settle(now_s)
        if self._state is not CircuitState.EJECTED:
            self._eject(now_s, cause, answers_wanted=TRIAL_ANSWERS)
        self.is_full = self._held is CircuitState.FORCED_CLOSED

    def hold(self, held: CircuitState | None) -> None:
        """Take the operator's word: `forced_open` never send, `forced_closed` always, None: as it goes.

        Raises `ConfigError` for any other state.
        """
        if held not in {None, CircuitState.FORCED_OPEN, CircuitState.FORCED_CLOSED}:
            raise ConfigError(
                f"cannot hold a circuit {held!r}: use forced_open (never send), forced_closed or none"
            )
        self._held = held
        self.is_full = held is CircuitState.FORCED_CLOSED

    # re-probing

    def probe_due(self, now_s: float) -> bool:
        """Return whether it should be asked for a sign of life now."""
        if self.is_full:
            return False
        self._settle(now_s)
        return self._state is CircuitState.INHIBITED and self._is_hard and now_s >= self._probe_s

    def probe_asked(self, now_s: float) -> None:
        """A probe has been sent: the next is due later."""
        self._settle(now_s)
        self._probe_wait_s = min(2.0 * self._probe_wait_s, PROBE_MOST_S)
        self._probe_s = now_s + self._probe_wait_s
        if self._state is CircuitState.INHIBITED:
            self._until_s = max(self._until_s, now_s + UNHEARD_S)

    # turns of the state

    def _inhibit(self, now_s: float, *, is_hard: bool, cause: str) -> None:
        again = max(0, self.consecutive - 1)
        self._state = CircuitState.INHIBITED
        self._is_hard = is_hard
        self.since_s = now_s
        self._until_s = now_s + (INHIBITED_S if is_hard else SOFT_S * 2.0**again)
        self._probe_wait_s = PROBE_FIRST_S
        self._probe_s = now_s + PROBE_FIRST_S
        self._probe_ends_s = now_s + (PROBE_HOLD_S * 2.0 ** (again - 1) if again else 0.0)
        self._cause = cause or ("no answer" if is_hard else "a run failed")

    def _eject(self, now_s: float, cause: str, *, answers_wanted: int) -> None:
        if self._ejections:
            healthy = max(0.0, now_s - self._ended_s) // HEALTHY_INTERVAL_S
            self._ejections = max(0, self._ejections - int(healthy))
        self._ejections += 1
        self._state = CircuitState.EJECTED
        self.since_s = now_s
        self._until_s = now_s + min(EJECTED_S * self._ejections, MOST_EJECTED_S)
        self._trial_s = now_s + TRIAL_EVERY_S
        self._answers_wanted = self._answers_left = answers_wanted
        self._cause = cause

    def _return(self, at_s: float) -> None:
        if self._state is CircuitState.EJECTED:
            self._ended_s = at_s
        is_blip = at_s - self.since_s < BLIP_S
        self._state = CircuitState.CLOSED if is_blip else CircuitState.RAMPING
        self._ramp_s = at_s

    def _forgive(self, left: float) -> None:
        errors = self._errors * left
        self._errors = errors if errors >= FEW_ERRORS else 0.0

    def _settle(self, now_s: float) -> None:
        """Let happen what time alone brings about."""
        if now_s < self._seen_s - BACKWARDS_S:
            self._set_back(self._seen_s - now_s)
        if now_s >= self._seen_s + SETTLE_EVERY_S:
            if self._errors:
                self._forgive(math.exp((self._seen_s - now_s) / ERROR_DECAY_S))
            self._seen_s = now_s
        state = self._state
        if state is not CircuitState.CLOSED:
            if state is not CircuitState.RAMPING and now_s >= self._until_s:
                self._return(self._until_s)
            if self._state is CircuitState.RAMPING and now_s >= self._ramp_s + RAMP_S:
                self._state = CircuitState.CLOSED
        self._refresh(now_s)

    def _refresh(self, now_s: float) -> None:
        if self._held is None:
            self.is_full = (
                self._state is CircuitState.CLOSED
                and self._errors == 0
                and now_s >= self._avoid_until_s
            )

    def _set_back(self, by_s: float) -> None:
        self.since_s -= by_s
        self._until_s -= by_s
        self._ramp_s -= by_s
        self._avoid_until_s -= by_s
        self._trial_s -= by_s
        self._probe_s -= by_s
        self._probe_ends_s -= by_s
        self._ended_s -= by_s
        self._seen_s -= by_s
