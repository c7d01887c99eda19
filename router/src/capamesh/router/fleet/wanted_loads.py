"""Chooses the node that is asked to load a model that requests came for and that no node has ready, for want of memory. Pure.

A node unloads nothing for a model that nobody asks for, so a router must ask. Strangers decide which models are asked
for, so their influence is bounded here: a model is loaded by one node at a time, a node loads one at a time, and one that
could not is left alone with it for a while. The node itself lets only those models give way that were idle.

Nor may a node keep a model from being loaded by others. A node that does not answer, or says that it has loaded a model
and then does not have it, has broken its word, until it has the model ready: nodes of its invite are asked after all others, for whatever
model; and those of one invite have half of the loads at most.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, Overloaded

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId

MAX_LOADS = 8
"""The most loads that one router asks for at the same time (guess: a router in front of hundreds of nodes has few cold models)."""
MAX_OF_INVITE = 4
"""The most loads at nodes of one invite (guess: the holder of one invite must not hold up all loads)."""
MAX_RESTS = 1024
"""Nodes and models whose failures are remembered; the oldest are forgotten first (guess)."""
FIRST_REST_S = 2.0
MOST_REST_S = 60.0
"""A node that could not load a model is left alone with it for the first, then twice as long each time, up to the
second; one that says when it could, until then (guess)."""


class Away(NamedTuple):
    """One node that has a version in its folder and no memory for it."""

    peer: PeerId
    version: ModelVersion
    invite: str
    """The invite that admitted the node."""


@dataclass(frozen=True, slots=True)
class WantedLoad:
    """One load to ask for."""

    peer: PeerId
    model: ModelName
    version: ModelVersion
    invite: str


@dataclass(slots=True)
class _Rest:
    until_s: float
    failures: int
    reason: str
    invite: str
    broken: int
    """The times that the node has broken its word by it."""


class WantedLoads:
    """All loads that one router asks for. Every `now_s` is the caller's monotonic clock in seconds."""

    def __init__(self) -> None:
        self._under_way: set[WantedLoad] = set()
        self._rests: OrderedDict[tuple[PeerId, ModelName], _Rest] = OrderedDict()
        self._broken: OrderedDict[str, int] = OrderedDict()
        """The number of times that nodes of an invite have broken their word and not kept it since."""

    @override
    def __repr__(self) -> str:
        return f"WantedLoads({len(self._under_way)} under way, {len(self._rests)} rest)"

    def next(
        self,
        model: ModelName,
        away: Iterable[Away],
        can_ask: Callable[[PeerId], bool],
        now_s: float,
    ) -> WantedLoad | None:
        """Return the load to ask for now, which counts as under way; None: none may be, or one is.

        `away` are the nodes that have the model in their folder and no memory for it. Who broke its word least, then
        who failed least is asked first, for the newest version.
        """
        if self.is_under_way(model) or len(self._under_way) >= MAX_LOADS:
            return None
        busy = {load.peer for load in self._under_way}
        best: Away | None = None
        best_rank = (0, 0, 0)
        for one in away:
            rest = self._rests.get((one.peer, model))
            if one.peer in busy or (rest is not None and now_s < rest.until_s):
                continue
            failures = rest.failures if rest is not None else 0
            rank = (self._broken.get(one.invite, 0), failures, -int(one.version))
            if (
                (best is None or rank < best_rank)
                and self._has_room(one.invite)
                and can_ask(one.peer)
            ):
                best, best_rank = one, rank
        if best is None:
            return None
        load = WantedLoad(best.peer, model, best.version, best.invite)
        self._under_way.add(load)
        return load

    def is_under_way(self, model: ModelName) -> bool:
        """Return whether some node loads the model for this router."""
        return any(load.model == model for load in self._under_way)

    def again_s(self, model: ModelName, away: Iterable[Away], now_s: float) -> float:
        """Return when the next of these nodes may be asked again; `now_s` where that depends on others' loads."""
        rests = [self._rests.get((one.peer, model)) for one in away]
        return min((rest.until_s if rest is not None else now_s for rest in rests), default=now_s)

    def has_hope(self, model: ModelName, away: Iterable[Away], now_s: float) -> bool:
        """Return whether it may help to wait: not where each of these nodes has tried and failed of late."""
        rests = [self._rests.get((one.peer, model)) for one in away]
        return any(rest is None or not rest.failures or now_s >= rest.until_s for rest in rests)

    def reason(self, model: ModelName, away: Iterable[Away]) -> str:
        """Return why one of these nodes could not load the model, "" where none was asked."""
        for one in away:
            rest = self._rests.get((one.peer, model))
            if rest is not None:
                return rest.reason
        return ""

    def loaded(self, load: WantedLoad) -> None:
        """The node has the model ready."""
        self._under_way.discard(load)
        self._rests.pop((load.peer, load.model), None)
        self._forgive(load.invite, 1)

    def ready(self, peer: PeerId, model: ModelName) -> None:
        """A node has a model ready: where it had not answered in time it was slow, and no more than that."""
        rest = self._rests.pop((peer, model), None)
        if rest is not None:
            self._forgive(rest.invite, rest.broken)

    def failed(
        self, load: WantedLoad, error: CapameshError, now_s: float, *, is_broken: bool = False
    ) -> None:
        """The node could not, or its link was lost; `is_broken`: it did not answer, or not as it was."""
        self._under_way.discard(load)
        key = (load.peer, load.model)
        before = self._rests.get(key)
        failures = before.failures + 1 if before is not None else 1
        doubled = min(failures - 1, 10)  # a thousand times are too many for a float
        rest_s = min(MOST_REST_S, FIRST_REST_S * 2.0**doubled)
        if isinstance(error, Overloaded) and error.retry_after_s > 0:
            failures, rest_s = 0, min(MOST_REST_S, max(FIRST_REST_S, error.retry_after_s))
        broken = is_broken + (before.broken if before is not None else 0)
        reason = error.message or error.code
        self._rests[key] = _Rest(now_s + rest_s, failures, reason, load.invite, broken)
        self._rests.move_to_end(key)
        if len(self._rests) > MAX_RESTS:
            self._rests.popitem(last=False)
        if is_broken:
            self._broken[load.invite] = self._broken.pop(load.invite, 0) + 1
            if len(self._broken) > MAX_RESTS:
                self._broken.popitem(last=False)

    def eased(self, peer: PeerId) -> None:
        """A node has more room than when it failed, or started anew: it may be asked again now."""
        for (one, _), rest in self._rests.items():
            if one == peer:
                rest.until_s = -math.inf

    def _forgive(self, invite: str, times: int) -> None:
        broken = self._broken.pop(invite, 0)
        if broken > times:
            self._broken[invite] = broken - times

    def _has_room(self, invite: str) -> bool:
        return sum(load.invite == invite for load in self._under_way) < MAX_OF_INVITE
