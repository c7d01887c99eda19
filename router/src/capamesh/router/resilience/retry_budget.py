"""How many requests may be sent once more, as a share of those sent: a token bucket. Pure.

Retries help against a fault of one node and make a fault of all worse: under overload each retry is more load.
So retries are paid from what first attempts bring in. Finagle's RetryBudget keeps its tokens in time slots of
a window; this bucket lets its balance leak with the same time constant instead, which needs two numbers and
no lists: at a steady rate a request's deposit is there for `ttl_s` on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TTL_S = 10.0
RETRY_SHARE = 0.2
RESERVE_PER_S = 10.0
"""Finagle's defaults: deposits count for 10 s, 20 % may be retried, and 10 a second whatever the rate."""
BACKWARDS_S = 1.0
"""A clock this far behind what it showed was set back; less is callers that read it at different moments,
and their time must not be counted twice (guess)."""


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """What a budget grants. `ttl_s` is how long a deposit counts, in seconds."""

    share: float = RETRY_SHARE
    ttl_s: float = TTL_S
    reserve_per_s: float = RESERVE_PER_S


RETRIES = BudgetTerms()


class RetryBudget:
    """A balance of tokens; a withdrawal takes one. Never below 0.

    Over any time, withdrawals are at most `share` x deposits + `reserve_per_s` x (seconds + `ttl_s`).
    """

    __slots__ = ("_balance", "_full_reserve", "_reserve", "_seen_s", "_terms")

    def __init__(self, terms: BudgetTerms = RETRIES) -> None:
        self._terms = terms
        self._full_reserve = terms.reserve_per_s * terms.ttl_s
        self._reserve = self._full_reserve
        """Refills by time, up to what comes in while a deposit counts."""
        self._balance = 0.0
        """Fed by deposits, leaking."""
        self._seen_s = -math.inf

    def __repr__(self) -> str:
        return f"RetryBudget({self._balance:.1f} + {self._reserve:.1f} in reserve)"

    def deposit(self, now_s: float) -> None:
        """A request is sent for the first time."""
        self._pass(now_s)
        self._balance += self._terms.share

    def try_withdraw(self, now_s: float) -> bool:
        """Take a token for one more attempt; return False, and take none, when there is none."""
        self._pass(now_s)
        if self._balance >= 1.0:
            self._balance -= 1.0
            return True
        if self._balance + self._reserve >= 1.0:
            self._reserve -= 1.0 - self._balance
            self._balance = 0.0
            return True
        return False

    def balance(self, now_s: float) -> float:
        """Return how many attempts could be paid now, as a fraction."""
        self._pass(now_s)
        return self._balance + self._reserve

    def _pass(self, now_s: float) -> None:
        passed_s = now_s - self._seen_s
        if passed_s <= 0:
            if passed_s < -BACKWARDS_S:
                self._seen_s = now_s
            return
        self._seen_s = now_s
        terms = self._terms
        if self._balance:
            self._balance *= math.exp(-passed_s / terms.ttl_s)
        if self._reserve < self._full_reserve:
            self._reserve = min(self._full_reserve, self._reserve + terms.reserve_per_s * passed_s)
