"""A worker's end of the idempotency keys of its router: it asks for keys, and tells what came of its own. IO: the channel."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, Overloaded
from capamesh.router.process.workers.messages import Claim, Recalled, Unclaim
from capamesh.router.process.workers.verdicts import answer_told, error_told, verdict_of
from capamesh.router.requests.call import Responder
from capamesh.router.requests.key_claims import Claims

if TYPE_CHECKING:
    from capamesh.protocol.tensors import Limits
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.process.workers.messages import Claimed, Recall, ToMain
    from capamesh.router.requests.call import Outcome
    from capamesh.router.requests.key_claims import KeyName, Verdict
    from capamesh.router.requests.repeated_calls import RepeatedCalls


MOST_WAITING: Final = 1024
"""The most keys that one worker asks for at a time (guess: what the main process answers in 100 ms)."""


class WorkerClaims(Claims):
    """The keys that one worker asks for, and those that it is asked about."""

    def __init__(
        self,
        send: Callable[[ToMain], bool],
        repeated: RepeatedCalls,
        balancer: Balancer,
        limits: Limits,
        *,
        clock: Callable[[], float],
    ) -> None:
        """`send` sends to the main process, and says whether it could; `clock` is that of `repeated`."""
        self._send = send
        self._repeated = repeated
        self._balancer = balancer
        self._limits = limits
        self._clock = clock
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[KeyName, Callable[[Verdict], None]]] = {}
        self._asked: dict[KeyName, int] = {}
        """The keys that are asked for, and the numbers of the questions."""

    @override
    def __repr__(self) -> str:
        return f"WorkerClaims({len(self._waiting)} asked)"

    @override
    def claim(self, name: KeyName, fingerprint: bytes, then: Callable[[Verdict], None]) -> None:
        number = self._asked[name] = next(self._numbers)
        is_full = len(self._waiting) >= MOST_WAITING
        self._waiting[number] = name, then
        if is_full or not self._send(Claim(number, *name, fingerprint)):
            text = "the router's main process, which knows the idempotency keys of all workers, has too much to do; try again"
            answered = partial(self._decided, number, Overloaded(text, 1.0))
            asyncio.get_running_loop().call_soon(answered)

    @override
    def free(self, name: KeyName) -> None:
        number = self._asked.pop(name, None)
        if number is not None:
            self._waiting.pop(number, None)
        self._send(Unclaim(*name))

    def claimed(self, claimed: Claimed) -> None:
        """Take the answer of the main process; what is not waited for any more was freed before, and so it is nobody's."""
        if claimed.number in self._waiting:
            verdict = verdict_of(claimed.told, self._balancer, self._limits, self._clock())
            self._decided(claimed.number, verdict)

    def recalled(self, recall: Recall) -> None:
        """Tell another worker what came, or comes, of a call that was run here."""
        teller = _Teller(self._clock, lambda told: self._tell(recall.number, told))
        name = (recall.tenant, recall.key)
        if not self._repeated.recall(name, recall.fingerprint, teller):
            self._tell(recall.number, {})

    def _decided(self, number: int, verdict: Verdict) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            name, then = waiting
            del self._asked[name]
            then(verdict)

    def _tell(self, number: int, told: dict[str, Any]) -> None:
        self._send(Recalled(number, told))


class _Teller(Responder):
    """Tells another worker what came of a call."""

    def __init__(self, clock: Callable[[], float], tell: Callable[[dict[str, Any]], None]) -> None:
        self._clock = clock
        self._tell = tell

    @override
    def complete(self, outcome: Outcome) -> None:
        self._tell(answer_told(outcome, self._clock()))

    @override
    def fail(self, error: CapameshError) -> None:
        self._tell(error_told(error))
