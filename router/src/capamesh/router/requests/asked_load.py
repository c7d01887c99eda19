"""One load of a model that a node was asked for, until its advert has the model ready or it could not be had. IO: links."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from mypy_extensions import mypyc_attr
from typing_extensions import override

from capamesh.protocol.errors import CapameshError, LinkLost, ModelUnavailable
from capamesh.protocol.links.calls import ControlAction, ControlCall, encode_control
from capamesh.protocol.links.handlers import ResponseHandler
from capamesh.router.fleet.view import FleetView
from capamesh.router.timers import Timers

if TYPE_CHECKING:
    from capamesh.protocol.links.events import Answer
    from capamesh.router.fleet.node_link import NodeLink
    from capamesh.router.fleet.wanted_loads import WantedLoad
    from capamesh.router.timers import Timer

PATIENCE_S = 60.0
"""A node that has told of no progress for so long is taken to be unable to load the model (guess: twice the default deadline)."""
MOST_S = 1800.0
"""A node that has not answered by then is taken to be unable to, whatever it tells (guess: 100 GB from a slow disk)."""
SETTLED_S = 2.0
"""Seconds that a node which says that it has loaded a model has for its advert to say so (guess: gossip takes less)."""


@mypyc_attr(native_class=False)
class LoadOwner(Protocol):
    """The owner of loads that nodes were asked for, which is told what becomes of them."""

    __slots__ = ()

    fleet: FleetView
    timers: Timers

    def ended(self, load: WantedLoad, error: CapameshError | None, *, is_broken: bool) -> None:
        """Take the end of a load, once; `is_broken`: the node does not do as it says."""
        ...


class AskedLoad(ResponseHandler):
    """One load that a node was asked for, as its link knows it.

    A node that loads tells in its advert, as the reason why the model is away, how far it is: each new word is progress.
    """

    __slots__ = ("_end_timer", "_link", "_load", "_owner", "_said", "_stream", "_timer")

    def __init__(self, owner: LoadOwner, load: WantedLoad, link: NodeLink) -> None:
        self._owner = owner
        self._load = load
        self._link: NodeLink | None = link
        """The link to the node; None: it is over."""
        self._stream = 0
        self._timer: Timer | None = None
        self._end_timer: Timer | None = None
        self._said: str | None = self._told()
        """What the node said last of the model; None: it has answered."""

    def begin(self) -> None:
        """Ask the node. That its link has just ended is told later, as any failure is."""
        load, link = self._load, self._link
        assert link is not None  # noqa: S101 - it has just been made
        timers = self._owner.timers
        self._timer = timers.call_later(PATIENCE_S, self._overdue)
        self._end_timer = timers.call_later(MOST_S, self._overdue)
        try:
            call = ControlCall(ControlAction.WANT, load.model, load.version)
            self._stream = link.ask(encode_control(call), (), self)
        except CapameshError as error:
            timers.call_soon(partial(self.failed, error.with_traceback(None)))

    @override
    def answered(self, answer: Answer) -> None:
        """Look for the model in the node's advert, for the node says that it has loaded it."""
        del answer
        if self._link is None:
            return
        assert self._timer is not None  # noqa: S101 - since it was asked
        self._timer.cancel()
        self._timer = self._owner.timers.call_later(SETTLED_S, self._unsettled)
        self._said = None
        self.look()

    def look(self) -> None:
        """Go on waiting if the node's advert tells of progress; end if it has the model ready, and the node has answered. To be called at news of the node."""
        load = self._load
        if self._link is None:
            return
        if self._said is None:
            if self._owner.fleet.has_ready(load.peer, load.model, load.version):
                self._end(None)
            return
        said = self._told()
        if said != self._said and self._timer is not None:
            self._said = said
            self._timer.cancel()
            self._timer = self._owner.timers.call_later(PATIENCE_S, self._overdue)

    def _told(self) -> str:
        """Return what the node's advert says of the model."""
        load = self._load
        advert = self._owner.fleet.adverts.get(load.peer)
        offers = () if advert is None else advert.models
        key = (load.model, load.version)
        return next((one.reason for one in offers if (one.name, one.version) == key), "")

    @override
    def failed(self, error: CapameshError) -> None:
        """End with what the node or the link said."""
        self._end(error)

    def _unsettled(self) -> None:
        self._end(
            ModelUnavailable("the node says that it has loaded it, and does not have it ready"),
            is_broken=True,
        )

    def _overdue(self) -> None:
        """Let another node be asked. One that was only slow is forgiven as soon as it has the model ready."""
        if self._link is not None:
            self._link.withdraw(self._stream)
        self._end(
            LinkLost(f"the node has told of no progress in loading it for {PATIENCE_S:g} s"),
            is_broken=True,
        )

    def _end(self, error: CapameshError | None, *, is_broken: bool = False) -> None:
        if self._link is None:
            return
        self._link = None
        for timer in (self._timer, self._end_timer):
            if timer is not None:
                timer.cancel()
        self._owner.ended(self._load, error, is_broken=is_broken)
