"""A token bucket for retries: the requests that may be sent once more, as a share of those sent. Pure.

Retries help against a fault of one node and make a fault of all worse: under overload each retry is more load.
So retries are paid from what first attempts bring in, and from a small reserve that is there from the start. The
reserve does not leak, so that a model that is asked for seldom can retry too. It is whole again once so many requests were
answered that were sent after the last that asked for a retry that the fault must be over; time does not refill it, for it says nothing of that
(Finagle's RetryBudget grants 10 retries a second whatever the rate: at 5 requests a second, all may be retried
twice). What is above the reserve leaks: at a steady rate a deposit is there for `ttl_s` on average, as in Finagle's
window, without its list of time slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from typing_extensions import override

TTL_S = 10.0
RETRY_SHARE = 0.2
"""Finagle's defaults: deposits count for 10 s, and 20 % may be retried. With the 5 % that may be hedged, that is the
quarter of extra load that the design allows."""
RESERVE = 50.0
"""Retries that are there from the first (guess: a third of 150 requests in flight, which one of three nodes takes
along when it dies; 0.5 % of 10,000 requests)."""
QUIET_REQUESTS = 20
"""Requests answered by the first that was asked, since one asked for a retry, that make the reserve whole (guess: of requests of which a quarter fails, 3 of 1,000 such rows
have none that does; those that fail less may all be retried by their share)."""
BACKWARDS_S = 1.0
"""A clock this far behind what it showed was set back; less is callers that read it at different moments,
and their time must not be counted twice (guess)."""


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """The terms of a budget. `ttl_s` is how long a deposit counts, in seconds; `reserve` is in tokens."""

    share: float = RETRY_SHARE
    ttl_s: float = TTL_S
    reserve: float = RESERVE


RETRIES = BudgetTerms()


class RetryBudget:
    """A balance of tokens; a withdrawal takes one. Never below 0.

    While no `QUIET_REQUESTS` are answered in a row, withdrawals are at most `reserve` + `share` x
    deposits, however much time passes. Within any time, they are at most that and what deposits of the `ttl_s` before it left.
    """

    __slots__ = ("_balance", "_seen_s", "_terms", "asked_s", "quiet", "spent")

    def __init__(self, terms: BudgetTerms = RETRIES) -> None:
        self._terms = terms
        self._balance = terms.reserve
        self._seen_s = -math.inf
        self.asked_s = -math.inf
        """The time when a withdrawal was last asked for."""
        self.quiet = 0
        """The requests that were sent once, since then, and answered; counted by who has the answers, for a call for each costs."""
        self.spent = 0
        """The number of tokens that were taken."""

    @override
    def __repr__(self) -> str:
        return f"RetryBudget({self._balance:.1f} retries saved)"

    def deposit(self, now_s: float) -> None:
        """A request is sent for the first time."""
        self._pass(now_s)
        self._balance += self._terms.share

    def try_withdraw(self, now_s: float) -> bool:
        """Take a token for one more attempt; return False, and take none, when there is none."""
        self._pass(now_s)
        if self.quiet >= QUIET_REQUESTS:
            self._balance = max(self._balance, self._terms.reserve)
        self.quiet = 0
        self.asked_s = now_s
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        self.spent += 1
        return True

    def balance(self, now_s: float) -> float:
        """Return how many attempts could be paid now, as a fraction."""
        self._pass(now_s)
        return self._balance

    def _pass(self, now_s: float) -> None:
        passed_s = now_s - self._seen_s
        if passed_s <= 0:
            if passed_s < -BACKWARDS_S:
                self._seen_s = now_s
            return
        self._seen_s = now_s
        above = self._balance - self._terms.reserve
        if above > 0:
            self._balance -= above * -math.expm1(-passed_s / self._terms.ttl_s)
