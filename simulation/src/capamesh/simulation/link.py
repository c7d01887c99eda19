"""A link between a router and a node in virtual time: order, delays, loss, silence. Pure.

A link delivers in order, as TCP does. What is sent while nothing gets through is delivered when something does
again, unless the link was given up meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, LinkLost
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import LoadHandler, ResponseHandler
from capamesh.protocol.links.reasons import error_in, error_meta
from capamesh.router.fleet.node_link import NodeLink

if TYPE_CHECKING:
    from capamesh.protocol.links.outgoing import Buffer
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.simulation.events import Events, Timer
    from capamesh.simulation.scenario import NetworkSpec

PING_EVERY_S = 2.0
SILENT_S = 6.0
"""Seconds as in `protocol.links.liveness.LinkTimes`; a test compares them."""


class NodeEnd(Protocol):
    """The node's end of a link: what a link asks of the node that it leads to."""

    index: int
    is_up: bool
    is_frozen: bool

    @property
    def process(self) -> bytes:
        """The process of the node: another each time that it starts."""
        ...

    def link_up(self, link: SimLink) -> None:
        """Take in that a router is connected."""
        ...

    def link_down(self, link: SimLink) -> None:
        """Take in that a router is not connected any more: what it asked for is not wanted."""
        ...

    def requested(self, link: SimLink, stream: int, meta: bytes, body: Buffer) -> None:
        """Answer a request with `link.respond` or `link.fail`, now or later."""
        ...

    def withdrawn(self, link: SimLink, stream: int) -> None:
        """Take in that a request is not wanted any more."""
        ...

    def probed(self, link: SimLink, stream: int, meta: bytes) -> None:
        """Answer a router that asks for the load of a model with `link.report`, now or later."""
        ...


class RouterEnd(Protocol):
    """The router that a link belongs to, as the link tells it; answers are told to whoever asked."""

    def link_up(self, link: SimLink) -> None:
        """Take in that an endpoint can be reached."""
        ...

    def link_down(self, link: SimLink) -> None:
        """Take in that an endpoint cannot be reached any more; whoever asked has been told."""
        ...

    def load_told(self, link: SimLink, meta: bytes) -> None:
        """Take in the load of a model that the node tells unasked."""

    def sent(self, link: SimLink) -> None:
        """Count a request that is on its way to the node."""
        ...

    def probed(self, link: SimLink) -> None:
        """Count a probe that is on its way to the node."""
        ...


class Way:
    """The way between two regions: the time that a message takes, and which are lost."""

    __slots__ = ("_jitter_s", "_loss", "_second_per_byte", "base_s", "regions", "rng")

    def __init__(self, spec: NetworkSpec, regions: tuple[str, str], rng: random.Random) -> None:
        self.regions = frozenset(regions)
        self.rng = rng
        self.base_s = spec.one_way(*regions)
        self._jitter_s = spec.jitter * self.base_s
        self._second_per_byte = 1 / spec.bytes_per_s if spec.bytes_per_s else 0.0
        self._loss = spec.loss

    @override
    def __repr__(self) -> str:
        return f"Way({' - '.join(sorted(self.regions))}, {self.base_s:g} s)"

    def delay_s(self, size_bytes: int) -> float:
        """Return how long a message is on its way."""
        delay_s = self.base_s + size_bytes * self._second_per_byte
        return delay_s + self.rng.expovariate(1.0) * self._jitter_s if self._jitter_s else delay_s

    def loses(self) -> bool:
        """Return whether a message that was just sent is lost, and the link with it."""
        return self._loss > 0 and self.rng.random() < self._loss


class SimLink(NodeLink):
    """One connection: to the router what a `Link` is, and to the node its other end."""

    def __init__(
        self,
        router: RouterEnd,
        node: NodeEnd,
        endpoint: Endpoint,
        way: Way,
        events: Events,
        on_lost: Callable[[], None],
    ) -> None:
        """`on_lost` is called when the router's end has closed."""
        self.router = router
        self.node = node
        self.endpoint = endpoint
        """The node as the router knows it."""
        self._way = way
        self._events = events
        self._on_lost = on_lost
        self.is_up = True
        """The router's end."""
        self.is_open = True
        """The node's end."""
        self.is_cut = False
        """Nothing gets through now."""
        self.has_gone_away = False
        """The node said that it takes nothing new."""
        self._process = node.process
        self._streams = 0
        self._waiting: dict[int, ResponseHandler] = {}
        self._probing: dict[int, LoadHandler] = {}
        self._there_s = 0.0
        self._back_s = 0.0
        self._held: list[tuple[bool, int, Callable[..., None], tuple[object, ...]]] = []
        self._silence: Timer | None = None

    @override
    def __repr__(self) -> str:
        return f"SimLink({'up' if self.is_up else 'down'}, {self.pending} pending)"

    @property
    def pending(self) -> int:
        """Return the number of requests and probes that wait for an answer."""
        return len(self._waiting) + len(self._probing)

    # the router's end

    @property
    @override
    def is_usable(self) -> bool:
        return self.is_up and not self.has_gone_away

    @property
    @override
    def peer_process(self) -> bytes:
        return self._process

    @override
    def ask(self, meta: bytes, body: Sequence[Buffer], asker: ResponseHandler, /) -> int:
        stream = self._open()
        self._waiting[stream] = asker
        self.router.sent(self)
        data = body[0] if len(body) == 1 else b"".join(body)
        self._to_node(len(data), self.node.requested, self, stream, meta, data)
        return stream

    @override
    def withdraw(self, stream: int, /) -> None:
        if self._waiting.pop(stream, None) is not None:
            self._to_node(0, self.node.withdrawn, self, stream)

    @override
    def release(self, stream: int, part: Answer) -> None:
        """Do nothing: no model of a simulation answers in parts."""

    @override
    def ask_load(self, meta: bytes, asker: LoadHandler, /) -> int:
        stream = self._open()
        self._probing[stream] = asker
        self.router.probed(self)
        self._to_node(0, self.node.probed, self, stream, meta)
        return stream

    @override
    def withdraw_load(self, stream: int, /) -> None:
        self._probing.pop(stream, None)

    def ping(self) -> None:
        """Ask for a sign of life, by which the router learns how far away the node is; a frozen node gives none."""
        self._to_node(0, self._pinged, self._events.now_s)

    def _open(self) -> int:
        if not self.is_up:
            raise LinkLost("the link has ended")
        self._streams += 1
        return self._streams

    # the node's end

    def respond(self, stream: int, meta: bytes, body: Buffer) -> None:
        """Answer a request."""
        self._to_router(len(body), self._answered, stream, meta, body)

    def fail(self, stream: int, error: CapameshError) -> None:
        """Answer a request with an error."""
        self._to_router(0, self._failed, stream, error_meta(error))

    def report(self, stream: int, meta: bytes) -> None:
        """Answer a probe."""
        self._to_router(0, self._reported, stream, meta)

    def tell_load(self, meta: bytes) -> None:
        """Tell the load of a model unasked."""
        self._to_router(0, self._load_told, meta)

    def go_away(self) -> None:
        """Ask for nothing new."""
        self._to_router(0, self._went_away)

    def close_at_node(self, reason: str) -> None:
        """Close the node's end; the router hears of it after what was sent before."""
        if self.is_open:
            self._to_router(0, self._down_at_router, reason, True)
            self.is_open = False

    # what befalls it

    def give_up(self, reason: str) -> None:
        """Close both ends now."""
        self._held.clear()
        if self.is_open:
            self.is_open = False
            self.node.link_down(self)
        self._down_at_router(reason)

    def cut(self) -> None:
        """Let nothing through from now on; in time that will be noticed."""
        self.is_cut = True
        self.fall_silent()

    def heal(self) -> None:
        """Let things through again, those that were held back first."""
        self.is_cut = False
        self.speak()
        held, self._held = self._held, []
        for is_to_node, size_bytes, do, args in held:
            if is_to_node:
                self._to_node(size_bytes, do, *args)
            else:  # also of a node that has closed its end meanwhile: it was sent before
                self._send_back(size_bytes, do, args)

    def fall_silent(self) -> None:
        """Have either end hear nothing of the other any more, and give the link up in time."""
        if self.is_up and self._silence is None:
            patience_s = SILENT_S + PING_EVERY_S * self._way.rng.random()
            self._silence = self._events.timer(
                self._events.now_s + patience_s, self.give_up, "silent for too long"
            )

    def speak(self) -> None:
        """Have the other side heard again."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    # inside

    def _to_node(self, size_bytes: int, do: Callable[..., None], *args: object) -> None:
        """Call `do(*args)` when a message of `size_bytes` has come to the node."""
        if not self.is_up:
            return
        if self.is_cut:
            self._held.append((True, size_bytes, do, args))
            return
        events = self._events
        self._there_s = due_s = max(events.now_s + self._way.delay_s(size_bytes), self._there_s)
        events.at(due_s, do, *args)
        if self._way.loses():
            events.at(events.now_s, self.give_up, "a message was lost")

    def _to_router(self, size_bytes: int, do: Callable[..., None], *args: object) -> None:
        """Call `do(*args)` when a message of `size_bytes` has come to the router."""
        if not self.is_open:
            return
        if self.is_cut:
            self._held.append((False, size_bytes, do, args))
            return
        self._send_back(size_bytes, do, args)

    def _send_back(
        self, size_bytes: int, do: Callable[..., None], args: tuple[object, ...]
    ) -> None:
        events = self._events
        self._back_s = due_s = max(events.now_s + self._way.delay_s(size_bytes), self._back_s)
        events.at(due_s, do, *args)
        if self._way.loses():
            events.at(events.now_s, self.give_up, "a message was lost")

    def _pinged(self, sent_s: float) -> None:
        if not self.node.is_frozen:
            self._to_router(0, self._ponged, sent_s)

    def _ponged(self, sent_s: float) -> None:
        now_s = self._events.now_s
        self.endpoint.network.round_trip(now_s - sent_s, now_s)

    def _answered(self, stream: int, meta: bytes, body: Buffer) -> None:
        asker = self._waiting.pop(stream, None)
        if asker is not None:
            asker.answered(Answer(meta, memoryview(body)))

    def _failed(self, stream: int, meta: bytes) -> None:
        asker = self._waiting.pop(stream, None)
        if asker is not None:
            asker.failed(error_in(meta))

    def _reported(self, stream: int, meta: bytes) -> None:
        asker = self._probing.pop(stream, None)
        if asker is not None:
            asker.reported(meta)

    def _load_told(self, meta: bytes) -> None:
        if self.is_up:
            self.router.load_told(self, meta)

    def _went_away(self) -> None:
        self.has_gone_away = True

    def _down_at_router(self, reason: str, is_sudden: bool = False) -> None:
        self.speak()
        if not self.is_up:
            return
        self.is_up = False
        is_sudden = is_sudden and not self.has_gone_away
        for askers in (self._waiting, self._probing):
            for stream in list(askers):
                asker = askers.pop(stream, None)  # whoever was told before may have withdrawn it
                if asker is not None:
                    error = LinkLost(f"the link to {self.endpoint.peer} ended: {reason}")
                    error.is_sudden = is_sudden
                    asker.failed(error)
        self._on_lost()
