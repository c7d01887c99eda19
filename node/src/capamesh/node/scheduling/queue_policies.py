"""Decides what becomes of requests that wait for one model, by their priority. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import DEFAULT_PRIORITY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capamesh.node.repository.rules import QueuePolicy, QueueRules
    from capamesh.node.scheduling.pending_request import PendingRequest


class QueuePolicies:
    """The rules of one model's queue, applied to each request as it comes."""

    __slots__ = ("_by_level", "_rules")

    def __init__(self, rules: QueueRules) -> None:
        self._rules = rules
        self._by_level = dict(rules.by_level)

    def enter(self, request: PendingRequest) -> None:
        """Give a request that has just come its priority here, and the time by which its run must begin."""
        rules = self._rules
        if rules.levels and (
            request.priority == DEFAULT_PRIORITY or not 1 <= request.priority <= rules.levels
        ):
            request.priority = float(rules.default_level)
        policy = self._policy(request)
        if policy.timeout_us:
            request.start_by_s = request.arrived_s + policy.timeout_us / 1e6
            request.is_delayable = policy.is_delaying

    def check_room(
        self,
        request: PendingRequest,
        waiting: Iterable[PendingRequest],
        count: int,
        retry_after_s: float,
    ) -> None:
        """Raise `Overloaded` where as many of its priority as may wait do; `waiting` has `count` of all priorities."""
        most = self._policy(request).max_queue
        if not most or count < most:
            return
        level = level_of(request)
        if sum(level_of(other) == level for other in waiting) >= most:
            raise Overloaded(
                f"{most} requests of priority {level} wait at this model, as many as its max_queue_size allows;"
                " try another node",
                retry_after_s=retry_after_s,
            )

    def _policy(self, request: PendingRequest) -> QueuePolicy:
        return self._by_level.get(level_of(request), self._rules.default)


def level_of(request: PendingRequest) -> int:
    """Return the priority that a request has, or had before it waited too long."""
    return math.floor(request.priority)
