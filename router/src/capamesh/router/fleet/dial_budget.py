"""Decides when an address of a node may be dialled: dials are bounded in number and rate, for each invite and in all. Pure.

Members choose what a router dials, so dials are rationed by the invite that admitted them: a token makes any number of
identities, but there are only as many invites as the owner gave. An address that has answered before is `known` and has a
larger ration of its own, so that addresses that never answer cannot keep a restarted node waiting.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from typing_extensions import override


@dataclass(frozen=True, slots=True)
class Ration:
    """The number of dials that may be under way, and that may begin in a second beyond a first few."""

    at_once: int
    per_s: float
    burst: float

    def part(self, share: float) -> Ration:
        """Return the part of it that one of several processes has: one dial at a time at least."""
        return Ration(
            max(1, math.ceil(self.at_once * share)),
            self.per_s * share,
            max(1.0, self.burst * share),
        )


NEW: Final = Ration(at_once=32, per_s=20.0, burst=40.0)
"""The ration of all addresses that never answered (guess: a fleet that answers is given its dials back at once)."""
NEW_OF_INVITE: Final = Ration(at_once=5, per_s=5.0, burst=5.0)
"""The ration of one invite for addresses that never answered: at most 10 dials in any second."""
KNOWN: Final = Ration(at_once=64, per_s=100.0, burst=200.0)
"""The ration of all addresses that answered: at 1 to 2 ms of CPU a handshake, a sixth of a core (guess)."""
KNOWN_OF_INVITE: Final = Ration(at_once=32, per_s=50.0, burst=100.0)
"""The ration of one invite for addresses that answered (guess: 64 nodes with 8 devices each are linked again within 10 s)."""


class _Bucket:
    """Tokens that come back with time; `free` says whether a dial may begin."""

    __slots__ = ("_at_s", "_ration", "_tokens", "running")

    def __init__(self, ration: Ration, now_s: float) -> None:
        self._ration = ration
        self._tokens = ration.burst
        self._at_s = now_s
        self.running = 0

    def wait_s(self, now_s: float) -> float:
        """Return in how long a dial may begin; infinity: not before another ends."""
        self._fill(now_s)
        if self.running >= self._ration.at_once:
            return float("inf")
        return max(0.0, (1.0 - self._tokens) / self._ration.per_s)

    def begin(self) -> None:
        self._tokens -= 1.0
        self.running += 1

    def end(self, *, is_given_back: bool) -> None:
        self.running -= 1
        if is_given_back:
            self._tokens = min(self._ration.burst, self._tokens + 1.0)

    def is_idle(self, now_s: float) -> bool:
        """Return whether it is as good as a new one."""
        self._fill(now_s)
        return not self.running and self._tokens >= self._ration.burst

    def _fill(self, now_s: float) -> None:
        gained = max(0.0, now_s - self._at_s) * self._ration.per_s
        self._tokens = min(self._ration.burst, self._tokens + gained)
        self._at_s = now_s


@dataclass(eq=False, slots=True)
class Dial:
    """One dial that is wanted, under way or over; compared by identity."""

    invite: str
    is_known: bool
    is_running: bool = False
    is_over: bool = False


@dataclass(slots=True)
class _Queue:
    bucket: _Bucket
    waiting: deque[Dial] = field(default_factory=deque[Dial])


class DialBudget:
    """Says which dials may begin. Of those that wait, invites take turns."""

    def __init__(self, now_s: float, share: float = 1.0) -> None:
        """`share` is the part of the rations that this process of a router has."""
        self._of_invite = {False: NEW_OF_INVITE.part(share), True: KNOWN_OF_INVITE.part(share)}
        self._all = {
            False: _Bucket(NEW.part(share), now_s),
            True: _Bucket(KNOWN.part(share), now_s),
        }
        self._queues: OrderedDict[tuple[str, bool], _Queue] = OrderedDict()
        """The next to have its turn first; those without anything waiting or running go when they are idle."""

    def want(self, invite: str, *, is_known: bool, now_s: float) -> Dial:
        """A dial is wanted; `due` says when it may begin, and `over` must follow."""
        dial = Dial(invite, is_known)
        queue = self._queues.get((invite, is_known))
        if queue is None:
            queue = _Queue(_Bucket(self._of_invite[is_known], now_s))
            self._queues[invite, is_known] = queue
        queue.waiting.append(dial)
        return dial

    def over(self, dial: Dial, *, has_answered: bool, now_s: float) -> None:
        """A dial has ended, or is not wanted any more. What answered for the first time costs nothing."""
        if dial.is_over:
            return
        dial.is_over = True
        key = (dial.invite, dial.is_known)
        queue = self._queues[key]
        if dial.is_running:
            is_given_back = has_answered and not dial.is_known
            queue.bucket.end(is_given_back=is_given_back)
            self._all[dial.is_known].end(is_given_back=is_given_back)
        else:
            queue.waiting.remove(dial)
        if not queue.waiting and queue.bucket.is_idle(now_s):
            del self._queues[key]

    def due(self, now_s: float) -> list[Dial]:
        """Return the dials that may begin now: they are under way from here on."""
        begun: list[Dial] = []
        is_any = True
        while is_any:
            is_any = False
            for key, queue in list(self._queues.items()):
                of_all = self._all[key[1]]
                if of_all.wait_s(now_s) or not queue.waiting:
                    continue
                if queue.bucket.wait_s(now_s):
                    continue
                dial = queue.waiting.popleft()
                dial.is_running = True
                queue.bucket.begin()
                of_all.begin()
                begun.append(dial)
                self._queues.move_to_end(key)
                is_any = True
        return begun

    def wait_s(self, now_s: float) -> float | None:
        """Return in how long `due` may have something that only waits for time; None: nothing does."""
        waits = [
            max(queue.bucket.wait_s(now_s), self._all[key[1]].wait_s(now_s))
            for key, queue in self._queues.items()
            if queue.waiting
        ]
        least = min(waits, default=float("inf"))
        return None if least == float("inf") else least

    def forget_idle(self, now_s: float) -> None:
        """Drop what is kept of invites of which nothing waits or runs."""
        for key, queue in list(self._queues.items()):
            if not queue.waiting and queue.bucket.is_idle(now_s):
                del self._queues[key]

    @override
    def __repr__(self) -> str:
        waiting = sum(len(queue.waiting) for queue in self._queues.values())
        running = sum(one.running for one in self._all.values())
        return f"DialBudget({running} under way, {waiting} waiting)"
