"""Which node is asked to load a model that requests came for, and that no node has ready for want of memory. Pure.

A node unloads nothing for a model that nobody asks for, so somebody must ask. Strangers decide which models are asked
for, so what they can bring about is bounded here: a model is loaded by one node at a time, a node loads one at a time,
and one that could not is left alone for a while. The node itself lets only those models give way that were idle.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capamesh.protocol.errors import CapameshError, Overloaded

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId

MAX_LOADS = 8
"""That one router asks for at the same time (guess: a router in front of hundreds of nodes has few cold models)."""
MAX_RESTS = 1024
"""Nodes and models whose failures are remembered; the oldest are forgotten first (guess)."""
FIRST_REST_S = 2.0
MOST_REST_S = 60.0
"""A node that could not load a model is left alone with it for the first, then twice as long each time, up to the
second; one that says when it could, until then (guess)."""
SETTLED_S = 2.0
"""A node that has loaded a model is not asked again until its advert has had time to come (guess: gossip takes less)."""


@dataclass(frozen=True, slots=True)
class WantedLoad:
    """One load to ask for."""

    peer: PeerId
    model: ModelName
    version: ModelVersion


@dataclass(slots=True)
class _Rest:
    until_s: float
    failures: int
    reason: str
    """Empty: it has loaded it."""


class WantedLoads:
    """All loads that one router asks for. Every `now_s` is the caller's monotonic clock in seconds."""

    def __init__(self) -> None:
        self._under_way: set[WantedLoad] = set()
        self._rests: OrderedDict[WantedLoad, _Rest] = OrderedDict()

    def __repr__(self) -> str:
        return f"WantedLoads({len(self._under_way)} under way, {len(self._rests)} rest)"

    def next(
        self,
        model: ModelName,
        away: Iterable[tuple[PeerId, ModelVersion]],
        can_ask: Callable[[PeerId], bool],
        now_s: float,
    ) -> WantedLoad | None:
        """Return the load to ask for now, which counts as under way; None: none may be, or one is.

        `away` are the nodes that have the model in their folder and no memory for it. Who failed least is asked
        first, for the newest version.
        """
        if self.is_under_way(model) or len(self._under_way) >= MAX_LOADS:
            return None
        busy = {load.peer for load in self._under_way}
        best: tuple[int, int, WantedLoad] | None = None
        for peer, version in away:
            load = WantedLoad(peer, model, version)
            rest = self._rests.get(load)
            if rest is not None and not rest.reason and now_s < rest.until_s:
                return None  # it has it by now
            if peer in busy or (rest is not None and now_s < rest.until_s) or not can_ask(peer):
                continue
            rank = (rest.failures if rest is not None else 0, -int(version), load)
            if best is None or rank[:2] < best[:2]:
                best = rank
        if best is None:
            return None
        self._under_way.add(best[2])
        return best[2]

    def is_under_way(self, model: ModelName) -> bool:
        """Return whether some node loads the model for this router."""
        return any(load.model == model for load in self._under_way)

    def again_s(
        self, model: ModelName, away: Iterable[tuple[PeerId, ModelVersion]], now_s: float
    ) -> float:
        """Return when the next of these nodes may be asked again; `now_s` where that depends on others' loads."""
        rests = [self._rests.get(WantedLoad(peer, model, version)) for peer, version in away]
        return min((rest.until_s if rest is not None else now_s for rest in rests), default=now_s)

    def has_hope(
        self, model: ModelName, away: Iterable[tuple[PeerId, ModelVersion]], now_s: float
    ) -> bool:
        """Return whether it may help to wait: not where each of these nodes has tried and failed of late."""
        rests = [self._rests.get(WantedLoad(peer, model, version)) for peer, version in away]
        return any(rest is None or not rest.failures or now_s >= rest.until_s for rest in rests)

    def reason(self, model: ModelName, away: Iterable[tuple[PeerId, ModelVersion]]) -> str:
        """Return why one of these nodes could not load the model, "" where none was asked."""
        for peer, version in away:
            rest = self._rests.get(WantedLoad(peer, model, version))
            if rest is not None and rest.reason:
                return rest.reason
        return ""

    def loaded(self, load: WantedLoad, now_s: float) -> None:
        """The node says that it has loaded the model; its advert follows."""
        self._under_way.discard(load)
        self._rest(load, _Rest(now_s + SETTLED_S, 0, ""))

    def failed(self, load: WantedLoad, error: CapameshError, now_s: float) -> None:
        """The node could not, or its link was lost."""
        self._under_way.discard(load)
        before = self._rests.get(load)
        failures = before.failures + 1 if before is not None else 1
        rest_s = min(MOST_REST_S, FIRST_REST_S * 2.0 ** (failures - 1))
        if isinstance(error, Overloaded) and error.retry_after_s > 0:
            failures, rest_s = 0, min(MOST_REST_S, max(FIRST_REST_S, error.retry_after_s))
        self._rest(load, _Rest(now_s + rest_s, failures, error.message or error.code))

    def _rest(self, load: WantedLoad, rest: _Rest) -> None:
        self._rests[load] = rest
        self._rests.move_to_end(load)
        if len(self._rests) > MAX_RESTS:
            self._rests.popitem(last=False)
