"""Waits before the next try, and limits of silence. Pure: time comes in as arguments."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The shape of an exponential backoff, in seconds.

    The first wait is `first_s`, each further one `factor` times longer up to `most_s`; what ran for
    `stable_after_s` begins again at `first_s`. The defaults are guesses: fast enough that one crash goes
    unnoticed (an advert lives for about 30 s), slow enough that a crash loop costs little.
    """

    first_s: float = 0.2
    factor: float = 2.0
    most_s: float = 10.0
    stable_after_s: float = 30.0


class Backoff:
    """Counts failures in a row and tells the wait after each."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._next_s = policy.first_s

    def failed(self, ran_s: float, jitter: float = 0.0) -> float:
        """Return the wait in seconds after a failure that followed `ran_s` seconds of success.

        `jitter` from 0 to 1 is the caller's random number: the wait is shortened by up to half of itself,
        so that many peers that lost the same one do not come back in step.
        """
        if ran_s >= self._policy.stable_after_s:
            self.reset()
        wait_s = self._next_s
        self._next_s = min(self._next_s * self._policy.factor, self._policy.most_s)
        return wait_s * (1.0 - 0.5 * jitter)

    def reset(self) -> None:
        """Begin again at the first wait."""
        self._next_s = self._policy.first_s


class SilenceWatch:
    """Tells when a child has left too many pings unanswered.

    It counts pings and reads no clock, so an owner that was itself suspended for an hour does not blame
    its children: one ping is due when it wakes, as always.
    """

    def __init__(self, *, ping_every_s: float, start_limit_s: float, silent_limit_s: float) -> None:
        self._start_limit = max(1, round(start_limit_s / ping_every_s))
        self._silent_limit = max(1, round(silent_limit_s / ping_every_s))
        self._has_spoken = False
        self._unanswered = 0

    def heard(self) -> None:
        """Note a message, of whatever type."""
        self._has_spoken = True
        self._unanswered = 0

    def pinged(self) -> bool:
        """Note a ping that is sent now; return whether the pings before it went unanswered too long."""
        limit = self._silent_limit if self._has_spoken else self._start_limit
        is_silent = self._unanswered >= limit
        self._unanswered += 1
        return is_silent
