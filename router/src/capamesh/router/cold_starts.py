"""Requests for a model that no node has ready for want of memory: one node is asked to load it, and they wait. IO: links, timers.

They wait within their deadline, as requests wait for a link, with the same bounds, and set off as soon as a node's
advert says that it has the model ready. Where no node can load it in time they are told so, why, and when to come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from capamesh.protocol.errors import (
    CapameshError,
    LinkLost,
    LocalError,
    ModelNotFound,
    ModelUnavailable,
    NoCandidate,
)
from capamesh.protocol.links.calls import ControlAction, ControlCall, encode_control
from capamesh.router.wanted_loads import WantedLoad, WantedLoads

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
    from capamesh.protocol.links.calls import InferCall
    from capamesh.protocol.links.link import Answer, Link
    from capamesh.router.balancing.desk import TrafficDesk
    from capamesh.router.balancing.link_wait import LinkWait
    from capamesh.router.dispatch import Waiter
    from capamesh.router.fleet_view import FleetView
    from capamesh.router.routing import Passage

PATIENCE_S = 60.0
"""A node that has not answered by then is taken to be unable to load the model (guess: twice the default deadline)."""
LOOK_AGAIN_S = 1.0
"""Where all that may be asked for at a time is under way, or no link is up (guess)."""


class ColdStarts:
    """All requests of one router that wait for a load."""

    def __init__(self, fleet: FleetView, links: LinkWait, *, clock: Callable[[], float]) -> None:
        """`links` wakes who waits whenever the fleet says something new."""
        self.fleet = fleet
        self.links = links
        self.clock = clock
        self._loads = WantedLoads()
        self._waiting: dict[ColdStart, None] = {}

    def __repr__(self) -> str:
        return f"ColdStarts({len(self._waiting)} waiting, {self._loads!r})"

    def begin(
        self,
        call: InferCall,
        deadline_s: float,
        waiter: Waiter,
        error: CapameshError,
        start: Callable[[], Passage],
    ) -> ColdStart:
        """Let a request wait whose model cannot be had now, for which there is an `error`; raise that where it may not.

        `start` sends it on its way with the same `waiter`, or raises what it raised before.
        """
        is_step = call.sequence is not None and not call.sequence.is_start
        if is_step or not self.away(call.model, call.version):
            raise error
        size_bytes = sum(len(tensor.data) for tensor in call.inputs)
        if not self.links.has_room(size_bytes):
            raise error
        cold = ColdStart(self, call, size_bytes, deadline_s, waiter, start)
        refusal = cold.wait()
        if refusal is not None:
            raise refusal
        return cold

    def away(self, model: ModelName, version: ModelVersion) -> list[tuple[PeerId, ModelVersion]]:
        """Return the nodes that have the model in their folder, and no memory for it, with the version that they have."""
        return self.fleet.absent.unloaded(model, version)

    def ask(
        self, model: ModelName, version: ModelVersion, deadline_s: float
    ) -> float | ModelUnavailable:
        """Ask a node to load the model, if one may be asked now; return when to look again, or why nobody can in time.

        Infinity: as soon as there is news.
        """
        now_s = self.clock()
        away = self.away(model, version)
        load = self._loads.next(model, away, lambda peer: self._link_to(peer) is not None, now_s)
        if load is not None:
            self._send(load)
        if self._loads.is_under_way(model):
            return float("inf")
        again_s = self._loads.again_s(model, away, now_s)
        if again_s <= now_s:
            return now_s + LOOK_AGAIN_S
        reason = self._loads.reason(model, away)
        has_hope = self._loads.has_hope(model, away, now_s)
        if not reason or (has_hope and again_s < deadline_s):
            return again_s
        known = self.fleet.absent.error(model, version)
        what = known.message if known is not None else f"model {model!r} is unloaded"
        return ModelUnavailable(
            f"{what}; it cannot be loaded for this request: {reason}", again_s - now_s
        )

    def add(self, cold: ColdStart) -> None:
        """Wake `cold` by the next news."""
        self._waiting[cold] = None
        self.links.add(cold, cold.look, cold.size_bytes)

    def remove(self, cold: ColdStart) -> None:
        """`cold` waits no more."""
        self._waiting.pop(cold, None)
        self.links.remove(cold)

    def ended(self, load: WantedLoad, error: CapameshError | None) -> None:
        """A node has loaded a model, or could not: wake those who wait for that model."""
        if error is None:
            self._loads.loaded(load, self.clock())
        else:
            self._loads.failed(load, error, self.clock())
        for cold in list(self._waiting):
            if cold.model == load.model and cold in self._waiting:
                cold.look()

    def _link_to(self, peer: PeerId) -> Link | None:
        for candidate in self.fleet.candidates_of(peer):
            if candidate.is_usable:
                return candidate.link
        return None

    def _send(self, load: WantedLoad) -> None:
        link = self._link_to(load.peer)
        assert link is not None  # noqa: S101 - `WantedLoads.next` has asked
        _Asked(self, load, link).begin()


class _Asked:
    """One load that a node was asked for; the `Asker` that the link knows."""

    __slots__ = ("_cold", "_link", "_load", "_stream", "_timer")

    def __init__(self, cold: ColdStarts, load: WantedLoad, link: Link) -> None:
        self._cold = cold
        self._load = load
        self._link: Link | None = link
        """None: it is over."""
        self._stream = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Ask. A link that has just ended is told of later, as any failure is."""
        load, link = self._load, self._link
        assert link is not None  # noqa: S101 - it has just been made
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PATIENCE_S, self._overdue)
        try:
            call = ControlCall(ControlAction.WANT, load.model, load.version)
            self._stream = link.ask(encode_control(call), (), self)
        except CapameshError as error:
            loop.call_soon(self.failed, error.with_traceback(None))

    def answered(self, answer: Answer) -> None:
        """Part of `Asker`."""
        del answer
        self._end(None)

    def failed(self, error: CapameshError) -> None:
        """Part of `Asker`."""
        self._end(error)

    def _overdue(self) -> None:
        if self._link is not None:
            self._link.withdraw(self._stream)
        self._end(LinkLost(f"the node has not loaded it within {PATIENCE_S:g} s"))

    def _end(self, error: CapameshError | None) -> None:
        if self._link is None:
            return
        self._link = None
        if self._timer is not None:
            self._timer.cancel()
        self._cold.ended(self._load, error)


class ColdStart:
    """One request that waits for a load, and its passage after that."""

    __slots__ = (
        "_cold",
        "_deadline_s",
        "_passage",
        "_start",
        "_timer",
        "_waiter",
        "model",
        "size_bytes",
        "version",
    )

    def __init__(
        self,
        cold: ColdStarts,
        call: InferCall,
        size_bytes: int,
        deadline_s: float,
        waiter: Waiter,
        start: Callable[[], Passage],
    ) -> None:
        self.model = call.model
        self.version = call.version
        self.size_bytes = size_bytes
        self._cold = cold
        self._deadline_s = deadline_s
        self._waiter: Waiter | None = waiter
        """None: it waits no more."""
        self._start = start
        self._passage: Passage | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def desk(self) -> TrafficDesk | None:
        """As a passage's."""
        return self._passage.desk if self._passage is not None else None

    def abandon(self) -> None:
        """Nobody waits any more: as a passage's."""
        self._leave()
        if self._passage is not None:
            self._passage.abandon()

    def wait(self) -> CapameshError | None:
        """See to it that the model is loaded, and wait for news; return why that does not help."""
        cold = self._cold
        now_s = cold.clock()
        found = cold.ask(self.model, self.version, self._deadline_s)
        if isinstance(found, ModelUnavailable):
            return found
        due_s = min(self._deadline_s, found)
        if now_s >= self._deadline_s:
            return ModelUnavailable(
                f"model {self.model!r} is unloaded for want of memory and being loaded, which takes longer than the"
                " request's time",
                LOOK_AGAIN_S,
            )
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(due_s - now_s, self.look)
        cold.add(self)
        return None

    def look(self) -> None:
        """There is news: set off if the model can be had now, else go on waiting. A bug is this request's alone."""
        waiter = self._waiter
        if waiter is None:
            return
        self._leave()
        try:
            self._passage = self._start()
        except (ModelNotFound, ModelUnavailable, NoCandidate) as error:
            is_away = bool(self._cold.away(self.model, self.version))
            failure = self.wait() if is_away else error.with_traceback(None)
            if failure is None:
                self._waiter = waiter
            else:
                waiter.failed(failure)
        except CapameshError as error:
            waiter.failed(error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - others wait for the same news
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a request that waited for a load has crashed", "exception": error}
            )
            waiter.failed(LocalError("the router failed on this request; see its log"))

    def _leave(self) -> None:
        self._waiter = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._cold.remove(self)
