"""Copies of requests for a shadow version, of which nobody sees an answer. Pure, seeded.

A copy's answer is thrown away and its failure is nobody's: a copy is sent after the request itself, waits for nothing
and is neither retried, hedged nor counted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.calls import MAX_PRIORITY
from capamesh.router.requests.call import Call, Handle, Outcome, Responder, RoutingOptions
from capamesh.router.requests.split import NEWEST, draw_of

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelVersion
    from capamesh.router.rules.model_rules import MirrorRule

MAX_MIRRORED = 16
"""Copies under way at one router (guess: enough to see whether a version works, too few to slow the others)."""


class Mirror:
    """Decides which requests are copied to a shadow version.

    `began` and `ended` count the copies under way.
    """

    __slots__ = ("_most", "rule", "under_way")

    def __init__(self, rule: MirrorRule, *, most: int = MAX_MIRRORED) -> None:
        self.rule = rule
        self._most = most
        self.under_way = 0

    @override
    def __repr__(self) -> str:
        return f"Mirror({self.rule.share:.0%} to {self.rule.version}, {self.under_way} under way)"

    def wants(self, rng: random.Random, *, served: ModelVersion = NEWEST, key: str = "") -> bool:
        """Return whether to copy a request that `served` answers: never when that is the shadow itself.

        Requests of one key are copied all or none, as long as not too many copies are under way: a
        sequence without its start is of no use.
        """
        rule = self.rule
        if served == rule.version or self.under_way >= self._most:
            return False
        draw = draw_of(f"mirror {rule.version}", key) if key else rng.random()
        return draw < rule.share

    def began(self) -> None:
        """Count a copy that is sent."""
        self.under_way += 1

    def ended(self) -> None:
        """Count a copy no more: it was answered, failed or was withdrawn."""
        self.under_way -= 1


class Copies:
    """All copies of one router that are under way."""

    def __init__(self, start: Callable[[Call, Responder], Handle]) -> None:
        """`start` sends a copy on its way."""
        self._start = start
        self._under_way: set[_Copy] = set()

    def __len__(self) -> int:
        return len(self._under_way)

    def send(self, call: Call, mirror: Mirror) -> None:
        """Send a copy of a call to the shadow version. It goes nowhere that the call may not."""
        request = call.request.replace(
            version=mirror.rule.version, priority=MAX_PRIORITY, is_bulk=True, takes_parts=False
        )
        options = RoutingOptions(call.options.constraints, affinity=call.options.affinity)
        copy = _Copy(self._under_way, mirror)
        try:
            copy.handle = self._start(Call(request, options, call.deadline_s, is_copy=True), copy)
        except CapameshError:
            copy.end()  # a copy's failure is nobody's

    def close(self) -> None:
        """Withdraw all copies that are under way."""
        for copy in list(self._under_way):
            copy.end()


class _Copy(Responder):
    """A copy under way; what becomes of it is nobody's matter."""

    __slots__ = ("_mirror", "_under_way", "handle")

    def __init__(self, under_way: set[_Copy], mirror: Mirror) -> None:
        self._under_way = under_way
        self._mirror = mirror
        self.handle: Handle | None = None
        under_way.add(self)
        mirror.began()

    @override
    def complete(self, outcome: Outcome) -> None:
        del outcome
        self.end()

    @override
    def fail(self, error: CapameshError) -> None:
        del error
        self.end()

    def end(self) -> None:
        """Withdraw the copy if it is still under way."""
        if self in self._under_way:
            self._under_way.discard(self)
            self._mirror.ended()
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.cancel()
