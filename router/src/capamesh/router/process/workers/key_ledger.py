"""Knows which worker of a router has each idempotency key, and passes on what came of its call. Pure.

The first worker that asks for a key has it, until it says that it knows nothing of the key any more. What a worker had that has ended may
have been run, and nobody can tell: such keys are refused for as long as keys are remembered.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from typing_extensions import override

from capamesh.protocol.errors import KeyUsed, Overloaded
from capamesh.router.process.workers.messages import Claim, Claimed, Recall, Recalled, Unclaim
from capamesh.router.process.workers.verdicts import error_told
from capamesh.router.requests.keyed_run import KEY_BYTES
from capamesh.router.requests.repeated_calls import KEPT_S, MOST_BYTES

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.router.process.workers.handle import WorkerHandle
    from capamesh.router.requests.key_claims import KeyName

MOST_KEYS: Final = MOST_BYTES // KEY_BYTES
"""The most keys of all workers, which have no more room than for so many together."""
_LOST: Final = (
    "the worker of this router that had the request with this idempotency key has ended: it may have run; use another key to run"
    " it again"
)
_BUSY: Final = "the worker of this router that has the request with this idempotency key is busy"


class _Recalling(NamedTuple):
    """A question that one worker is asked for another."""

    holder: WorkerHandle
    asker: WorkerHandle
    claim: Claim


class KeyLedger:
    """The keys of one router's workers."""

    def __init__(self, clock: Callable[[], float], *, most_keys: int = MOST_KEYS) -> None:
        """`clock` is in seconds and never goes back."""
        self._clock = clock
        self._most_keys = most_keys
        self._holders: dict[KeyName, WorkerHandle | None] = {}
        """The worker that has each key; None: it has ended."""
        self._lost: deque[tuple[float, KeyName]] = deque()
        """The keys of workers that have ended, and when they are forgotten, the oldest first."""
        self._recalling: dict[int, _Recalling] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._holders)

    @override
    def __repr__(self) -> str:
        return f"KeyLedger({len(self)} keys, {len(self._recalling)} questions)"

    def received(self, worker: WorkerHandle, message: Claim | Unclaim | Recalled) -> None:
        """Take what a worker says of a key."""
        match message:
            case Claim():
                self._claim(worker, message)
            case Unclaim(tenant, key):
                if self._holders.get((tenant, key)) is worker:
                    del self._holders[tenant, key]
            case Recalled(number, told):
                self._recalled(number, told)

    def lost(self, worker: WorkerHandle) -> None:
        """Take in that a worker has ended, and that nobody knows what became of its calls."""
        ends_s = self._clock() + KEPT_S
        for name in [name for name, holder in self._holders.items() if holder is worker]:
            self._holders[name] = None
            self._lost.append((ends_s, name))
        for number, one in list(self._recalling.items()):
            if worker in (one.holder, one.asker):
                del self._recalling[number]
                if one.asker is not worker:
                    _refuse(one.asker, one.claim, KeyUsed(_LOST))

    def _claim(self, worker: WorkerHandle, claim: Claim) -> None:
        self._forget_lost()
        name = (claim.tenant, claim.key)
        holder = self._holders.get(name, worker)
        if name not in self._holders and len(self._holders) >= self._most_keys:
            text = f"the router's workers have {len(self._holders)} idempotency keys; send fewer, or some without a key"
            _refuse(worker, claim, Overloaded(text, 1.0))
        elif holder is worker:  # it is new, or known no more where it was
            self._holders[name] = worker
            worker.ask(Claimed(claim.number, {}))
        elif holder is None:
            _refuse(worker, claim, KeyUsed(_LOST))
        else:
            number = next(self._numbers)
            if holder.ask(Recall(number, claim.tenant, claim.key, claim.fingerprint)):
                self._recalling[number] = _Recalling(holder, worker, claim)
            else:
                _refuse(worker, claim, Overloaded(_BUSY, 1.0))

    def _recalled(self, number: int, told: dict[str, Any]) -> None:
        recalling = self._recalling.pop(number, None)
        if recalling is None:
            return
        holder, asker, claim = recalling
        if told:
            asker.ask(Claimed(claim.number, told))
            return
        name = (claim.tenant, claim.key)
        if self._holders.get(name) is holder:
            del self._holders[name]
        self._claim(asker, claim)

    def _forget_lost(self) -> None:
        now_s = self._clock()
        while self._lost and self._lost[0][0] <= now_s:
            del self._holders[self._lost.popleft()[1]]


def _refuse(worker: WorkerHandle, claim: Claim, error: CapameshError) -> None:
    worker.ask(Claimed(claim.number, error_told(error)))
