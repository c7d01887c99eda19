"""Requests for a model that no node serves and some have no memory for: one node is asked to load it, and they wait. IO: links.

They wait within their deadline, in places of their own: whoever asks for what is away takes none from those who wait for
a link. What is said of a model wakes those who wait for that model alone, and is worked out once for all of them. They
set off as soon as a node's advert says that it has the model ready. Where no node can load it in time they are told so,
why, and when to come again; where one says to have it ready that does not serve (`balancing.serving`), they try that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    LocalError,
    ModelNotFound,
    ModelUnavailable,
    NoEndpoint,
)
from capamesh.protocol.fleet import Change, Changed, Joined
from capamesh.router.balancing.serving import is_any_serving
from capamesh.router.fleet.wanted_loads import WantedLoad, WantedLoads
from capamesh.router.requests.asked_load import AskedLoad, LoadOwner
from capamesh.router.requests.call import Handle

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.fleet.node_link import NodeLink
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.requests.call import Call, Responder
    from capamesh.router.timers import Timer, Timers

Start = Callable[["Call", "Responder"], Handle]
"""Sends a call on its way that has waited, or raises why that is not possible."""

LOOK_AGAIN_S = 1.0
"""Seconds after which to look again where all that may be asked for at a time is under way, or no link is up (guess)."""
MAX_WAITING = 256
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Requests that wait, and their bodies (guess: half of what may wait for a link); one that is larger may wait alone."""
MAX_OF_MODEL = 128
"""The most requests that wait for one model, so that who asks for one leaves places for others (guess)."""
FRESH_S = 0.05
"""Seconds for which an outlook holds for others who ask without news (guess: to look at a thousand nodes takes a millisecond)."""
MAX_OUTLOOKS = 256
"""The most outlooks that are kept at a time (guess)."""


@dataclass(frozen=True, slots=True)
class _Outlook:
    """The outlook of a wait for a model."""

    is_away: bool
    """True if some node may load it at all, and none serves it."""
    made_s: float
    again_s: float
    """The time to look again; infinity: as soon as there is news."""
    reason: str = ""
    """The reason why those that were asked could not."""
    has_hope: bool = True
    """True if some may yet be asked that has not failed of late."""
    is_under_way: bool = False
    """True if some node loads it now."""


class ColdStarts(LoadOwner):
    """All requests of one router that wait for a load."""

    def __init__(
        self,
        fleet: FleetView,
        *,
        clock: Callable[[], float],
        timers: Timers,
        start: Start,
    ) -> None:
        """`start` is for calls that have no other."""
        self.fleet = fleet
        self.clock = clock
        self.timers = timers
        self.start = start
        self._loads = WantedLoads()
        self._asked: dict[PeerId, AskedLoad] = {}
        """Nodes that say that they have loaded what they were asked for, until their adverts say so."""
        self._waiting: dict[ModelName, dict[ColdStart, None]] = {}
        self._count = 0
        self._bytes = 0
        self._outlooks: dict[tuple[ModelName, ModelVersion], _Outlook] = {}

    @override
    def __repr__(self) -> str:
        return f"ColdStarts({self._count} waiting, {self._loads!r})"

    def begin(
        self,
        call: Call,
        responder: Responder,
        error: CapameshError,
        *,
        is_tried: bool = False,
        start: Start | None = None,
    ) -> ColdStart:
        """Let a call wait whose model cannot be had now, for which there is an `error`; raise that where it may not.

        A call for which there is no place has the model loaded all the same. `is_tried`: those that say to have the
        model ready have failed it with `error`, and are not to be tried again. `start`: None: as all calls.
        """
        request = call.request
        is_step = request.sequence is not None and not request.sequence.is_start
        if is_step or not self.outlook(request.model, request.version).is_away:
            raise error
        size_bytes = sum(len(tensor.data) for tensor in request.inputs)
        if not self._has_room(request.model, size_bytes):
            raise error
        failure = error if is_tried else None
        cold = ColdStart(self, call, size_bytes, responder, failure, start)
        refusal = cold.wait()
        if refusal is not None:
            raise refusal
        return cold

    def outlook(self, model: ModelName, version: ModelVersion) -> _Outlook:
        """Have a node load the model, if one may be asked now, and return what to expect."""
        now_s = self.clock()
        known = self._outlooks.get((model, version))
        if known is None or not now_s - known.made_s < FRESH_S or known.again_s <= now_s:
            known = self._look_out(model, version, now_s)
            if known.is_away:  # else strangers choose what is kept
                if len(self._outlooks) >= MAX_OUTLOOKS:
                    self._outlooks.clear()
                self._outlooks[model, version] = known
        return known

    def is_wanting(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether some node might load the model, and none serves it."""
        return bool(self.fleet.absent.unloaded(model)) and not self.can_start(model, version)

    def can_start(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether some node serves the model: else there is little use in trying."""
        fleet, now_s = self.fleet, self.clock()
        versions = (version,) if version else fleet.trusted(model)
        return any(is_any_serving(fleet.replicas(model, one), now_s) for one in versions)

    def is_claimed(self, model: ModelName, version: ModelVersion) -> bool:
        """Return whether some node says to have the model ready."""
        fleet = self.fleet
        return fleet.has(model, version) if version else bool(fleet.trusted(model))

    def add(self, cold: ColdStart) -> None:
        """Wake `cold` by the next news of its model."""
        self._waiting.setdefault(cold.model, {})[cold] = None
        self._count += 1
        self._bytes += cold.size_bytes

    def remove(self, cold: ColdStart) -> None:
        """`cold` waits no more. Does nothing when it did not."""
        waiting = self._waiting.get(cold.model)
        if waiting is None or cold not in waiting:
            return
        del waiting[cold]
        if not waiting:
            del self._waiting[cold.model]
        self._count -= 1
        self._bytes -= cold.size_bytes

    # news

    def heard(self, changes: Iterable[Change]) -> None:
        """Nodes say something else than before; to be called when the fleet's view knows."""
        for change in changes:
            if isinstance(change, Joined | Changed):
                asked = self._asked.get(change.advert.peer)
                if asked is not None:
                    asked.look()
                if not isinstance(change, Changed) or _is_eased(change):
                    self._loads.eased(change.advert.peer)
                for offer in change.advert.models:
                    if offer.is_ready:
                        self._loads.ready(change.advert.peer, offer.name)
                self._wake({offer.name for offer in change.advert.models})

    def reached(self, peer: PeerId) -> None:
        """A node has a link again."""
        advert = self.fleet.adverts.get(peer)
        if advert is not None:
            self._wake({offer.name for offer in advert.models})

    def wake(self) -> None:
        """Any model may be had now, or be loaded."""
        self._wake(self._waiting)

    @override
    def ended(self, load: WantedLoad, error: CapameshError | None, *, is_broken: bool) -> None:
        """Wake those who wait for a model that a node has loaded, or could not load."""
        self._asked.pop(load.peer, None)
        if error is None:
            self._loads.loaded(load)
        else:
            self._loads.failed(load, error, self.clock(), is_broken=is_broken)
        self._wake((load.model,))

    # inside

    def _wake(self, models: Iterable[ModelName]) -> None:
        self._outlooks.clear()
        for model in [model for model in models if model in self._waiting]:
            for cold in list(self._waiting.get(model, ())):
                cold.look()

    def _has_room(self, model: ModelName, size_bytes: int) -> bool:
        if not self._count:
            return True
        return (
            self._count < MAX_WAITING
            and self._bytes + size_bytes <= MAX_WAITING_BYTES
            and len(self._waiting.get(model, ())) < MAX_OF_MODEL
        )

    def _look_out(self, model: ModelName, version: ModelVersion, now_s: float) -> _Outlook:
        away = self.fleet.unloaded(model, version)
        if not away or self.can_start(model, version):
            return _Outlook(False, now_s, now_s)
        loads = self._loads
        load = loads.next(model, away, lambda peer: self._link_to(peer) is not None, now_s)
        if load is not None:
            self._send(load)
        if loads.is_under_way(model):
            return _Outlook(True, now_s, float("inf"), is_under_way=True)
        again_s = loads.again_s(model, away, now_s)
        if again_s <= now_s:
            return _Outlook(True, now_s, now_s + LOOK_AGAIN_S)
        reason = loads.reason(model, away)
        return _Outlook(True, now_s, again_s, reason, loads.has_hope(model, away, now_s))

    def _link_to(self, peer: PeerId) -> NodeLink | None:
        for endpoint in self.fleet.endpoints_of(peer):
            if endpoint.is_usable:
                return endpoint.link
        return None

    def _send(self, load: WantedLoad) -> None:
        link = self._link_to(load.peer)
        assert link is not None  # noqa: S101 - `WantedLoads.next` has asked
        self._asked[load.peer] = asked = AskedLoad(self, load, link)
        asked.begin()


def _is_eased(change: Changed) -> bool:
    """Return whether a node has started anew, or a model left it, so that there may be room for another."""
    before, now = change.before, change.advert
    ready = {(offer.name, offer.version) for offer in now.models if offer.is_ready}
    return now.sequence.boot_ns != before.sequence.boot_ns or any(
        offer.is_ready and (offer.name, offer.version) not in ready for offer in before.models
    )


class ColdStart(Handle):
    """One call that waits for a load, and its way after that."""

    __slots__ = (
        "_call",
        "_cold",
        "_failure",
        "_handle",
        "_responder",
        "_start",
        "_timer",
        "model",
        "size_bytes",
        "version",
    )

    def __init__(
        self,
        cold: ColdStarts,
        call: Call,
        size_bytes: int,
        responder: Responder,
        failure: CapameshError | None,
        start: Start | None,
    ) -> None:
        """`failure` is what it ended with at those that say to have the model ready; None: they may yet be tried.

        `start`: None: as all calls.
        """
        self.model = call.request.model
        self.version = call.request.version
        self.size_bytes = size_bytes
        self._cold = cold
        self._call = call
        self._responder: Responder | None = responder
        """The receiver of the outcome; None: it waits no more."""
        self._failure = failure
        self._start = start
        self._handle: Handle | None = None
        """The call under way; None: it has not set off."""
        self._timer: Timer | None = None

    @property
    @override
    def picker(self) -> RequestPicker | None:
        """The picker that can explain where the call went; None: it has not set off."""
        return self._handle.picker if self._handle is not None else None

    @override
    def cancel(self) -> None:
        """Wait no more, and withdraw the call if it has set off."""
        self._leave()
        if self._handle is not None:
            self._handle.cancel()

    def wait(self) -> CapameshError | None:
        """See to it that the model is loaded, and wait for news; return why that does not help."""
        cold = self._cold
        now_s = cold.clock()
        outlook = cold.outlook(self.model, self.version)
        is_in_time = outlook.has_hope and outlook.again_s < self._call.deadline_s
        if outlook.reason and not is_in_time:
            return self._refusal(outlook.reason, outlook.again_s - now_s)
        if not (outlook.reason or outlook.is_under_way) and self._may_try:
            return self._refusal("no node can be asked now", outlook.again_s - now_s)
        if now_s >= self._call.deadline_s:
            return ModelUnavailable(
                f"model {self.model!r} is unloaded for want of memory and being loaded, which takes longer than the"
                " request's time",
                LOOK_AGAIN_S,
            )
        due_s = min(self._call.deadline_s, outlook.again_s)
        self._timer = cold.timers.call_later(due_s - now_s, self.look)
        cold.add(self)
        return None

    def look(self) -> None:
        """There is news: set off if the model can be had now, else go on waiting. A bug is this request's alone."""
        responder = self._responder
        if responder is None:
            return
        self._leave()
        try:
            failure = self._set_off_or_wait(responder)
        except CapameshError as error:
            failure = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - others wait for the same news
            self._cold.timers.call_exception_handler(
                {"message": "a request that waited for a load has crashed", "exception": error}
            )
            failure = LocalError("the router failed on this request; see its log")
        if failure is not None:
            responder.fail(failure)
        elif self._handle is None:
            self._responder = responder

    def _set_off_or_wait(self, responder: Responder) -> CapameshError | None:
        """Set off or go on waiting; return, or raise, why neither helps."""
        cold, model, version = self._cold, self.model, self.version
        if cold.outlook(model, version).is_away:
            refusal = self.wait()
            if refusal is None or not self._may_try or cold.clock() >= self._call.deadline_s:
                return refusal
        try:
            self._handle = (self._start or cold.start)(self._call, responder)
        except (ModelNotFound, ModelUnavailable, NoEndpoint) as error:
            if not cold.outlook(model, version).is_away:
                return error.with_traceback(None)
            return self.wait()
        return None

    @property
    def _may_try(self) -> bool:
        """Return whether there is somebody who says to have the model ready, and has not failed this request."""
        return self._failure is None and self._cold.is_claimed(self.model, self.version)

    def _refusal(self, reason: str, retry_after_s: float) -> CapameshError:
        if self._failure is not None:
            return self._failure
        known = self._cold.fleet.absent.error(self.model, self.version)
        what = known.message if known is not None else f"model {self.model!r} is unloaded"
        return ModelUnavailable(
            f"{what}; it cannot be loaded for this request: {reason}", retry_after_s
        )

    def _leave(self) -> None:
        self._responder = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._cold.remove(self)
