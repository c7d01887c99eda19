"""The attempts at one request: which router is asked next, after how long, and when to give up. Pure; times are arguments."""

from __future__ import annotations

import dataclasses
from typing import Generic, TypeVar

from capamesh.client.answers import Answer
from capamesh.client.asks import Ask, CutOff
from capamesh.client.failover import Failover, is_for_another, none_answered
from capamesh.client.retries import Retries
from capamesh.protocol.errors import CapameshError

T = TypeVar("T")


class Attempts(Generic[T]):
    """One request of a client; `router` is to be asked `ask` now, and `deadline_s` is the time to give up.

    A request with an idempotency key that may have run at one router is asked again of that router alone: others do not know
    the key.
    """

    def __init__(self, ask: Ask[T], failover: Failover, retries: Retries, now_s: float) -> None:
        self.ask = ask
        self.deadline_s = now_s + ask.wait_s
        self.router, *self._others = failover.order(now_s)
        self._failover = failover
        self._retries = retries
        self._errors: list[CapameshError] = []
        self._attempts = self._rounds = 1
        self._is_bound = False
        """True if no other router may be asked any more."""

    def result(self, answer: Answer) -> T:
        """Return what the router's answer says; raise the error that it is."""
        if self._attempts > 1:
            timings = answer.timings._replace(attempts=self._attempts)
            answer = dataclasses.replace(answer, timings=timings)
        found = self.ask.read(answer, self.router.url)
        self._failover.answered(self.router)
        self._retries.succeeded()
        return found

    def wait_s(self, error: CapameshError, now_s: float) -> float | None:
        """Return the seconds after which to ask again, as `router` and `ask` say then; None: the error is the caller's.

        Where several routers were asked, the error is made to tell what each of them said.
        """
        ask = self.ask
        self._errors.append(error)
        if is_for_another(error, is_repeatable=ask.is_repeatable):
            self._failover.failed(self.router, now_s)
            if self._others:
                self.router, *self._others = self._others
                self._attempts += 1
                return 0.0
        left_s = self.deadline_s - ask.grace_s - now_s
        wait_s = None
        if ask.renew is not None:
            wait_s = self._retries.wait_s(
                error, attempts=self._rounds, left_s=left_s, is_idempotent=ask.is_idempotent
            )
        if wait_s is None or ask.renew is None:
            none_answered(self._errors)
            return None
        if ask.grace_s:  # the caller has named a deadline, which the router is told
            self.ask = ask.renew(left_s - wait_s)
        if isinstance(error, CutOff) and ask.is_idempotent:
            self._others = []
            self._is_bound = True
        elif not self._is_bound:
            self.router, *self._others = self._failover.order(now_s + wait_s)
        self._errors.clear()
        self._attempts += 1
        self._rounds += 1
        return wait_s
