"""A link: the core of `connection` on a TLS socket. IO: asyncio.

The socket is read straight into the core's memory (`BufferedProtocol`) and written with `writelines`. A link is good for use
once its HELLO has been checked; it ends for one reason, which every request that was under way is told as `LinkLost`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never, cast

from mypy_extensions import mypyc_attr
from typing_extensions import override

from capamesh.protocol.errors import CapameshError, LinkLost, ProtocolViolation
from capamesh.protocol.links.asking import Askers
from capamesh.protocol.links.connection import Connection
from capamesh.protocol.links.events import (
    Answer,
    ErrorReceived,
    Event,
    GoawayReceived,
    HelloReceived,
    LoadReceived,
    PartsReleased,
    PongReceived,
    ProbeReceived,
    RequestCancelled,
    RequestReceived,
    ResponseReceived,
)
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.handlers import LoadHandler, ResponseHandler
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.introduction import Introduction
from capamesh.protocol.links.liveness import LinkTimes, Liveness
from capamesh.protocol.links.outgoing import Buffer
from capamesh.protocol.links.reasons import loss_reason
from capamesh.protocol.links.receive_budget import ReceiveBudget
from capamesh.protocol.links.writer import LinkWriter
from capamesh.protocol.network import Member


@mypyc_attr(native_class=False)
class LinkHandler(Protocol):
    """The owner of a link, to which the link tells what happens. Called in the event loop; must not raise and must not block."""

    __slots__ = ()

    def verify(self, hello: Hello, certificate: bytes) -> Member:
        """Check an introduction against the TLS certificate (DER); raise `NotMember`."""
        ...

    def link_up(self, link: Link) -> None:
        """The peer is verified; requests may be sent and will come."""

    def link_down(self, link: Link, reason: str) -> None:
        """The link has ended. Called once, also when it was never up."""

    def request_received(self, link: Link, stream: int, meta: bytes, body: memoryview) -> None:
        """Answer with `link.respond` or `link.fail`, now or later."""

    def request_cancelled(self, link: Link, stream: int) -> None:
        """The peer no longer wants the answer."""

    def parts_released(self, link: Link, stream: int) -> None:
        """The peer takes the next part of an answer, after it had as many as it takes at a time."""

    def load(self, meta: bytes) -> bytes:
        """Return this side's load for a probe."""
        ...

    def load_told(self, link: Link, meta: bytes) -> None:
        """The peer says unasked what its load is now."""

    def goaway_received(self, link: Link, reason: str) -> None:
        """The peer takes no new requests."""

    def read_ended(self, link: Link) -> None:
        """All that came in one read has been told: what came together may be done together."""


class Link(asyncio.BufferedProtocol):
    """One connection between two peers, carrying many requests at once, opened by either."""

    def __init__(
        self,
        owner: LinkHandler,
        hello: Hello,
        *,
        is_dialer: bool,
        limits: LinkLimits,
        times: LinkTimes,
        budget: ReceiveBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._core = Connection(
            is_dialer=is_dialer,
            hello=hello,
            limits=limits,
            budget=budget,
            on_output=lambda: self._writer.flush_soon(),  # noqa: PLW0108 - it is made below
        )
        self._writer = LinkWriter(self._loop, self._core, limits.send_bytes, self.abort)
        self._transport: asyncio.Transport | None = None
        self._end_reason: str | None = None
        self._goaway_reason = ""
        self._introduction = Introduction(owner.verify)
        self._askers = Askers(self._loop, self.__repr__)
        self._liveness = Liveness(
            self._loop, times, on_beat=self._beat, give_up=self.abort, clock=clock
        )
        self.ended: asyncio.Future[str] = self._loop.create_future()
        """The future that has the reason as its result when the socket is closed."""
        self.up: asyncio.Future[Member] = self._loop.create_future()
        """The future that has a result when the peer is verified; it fails when the link ends before."""
        self.member: Member | None = None
        self.peer_process = b""
        """The process of the peer at the other end; empty: it does not say."""
        self.is_draining = False
        """The peer said goaway: send it nothing new."""
        self.on_round_trip: Callable[[float, float], None] | None = None
        """The callback that is told the seconds that each ping took, and the time of the loop then."""

    @override
    def __repr__(self) -> str:
        peer = self.member.peer_id if self.member else "unverified"
        return f"Link({peer}, {self._core!r})"

    # using it

    def ask(self, meta: bytes, body: Sequence[Buffer], asker: ResponseHandler) -> int:
        """Send a request, whose answer `asker` is told; return its number. `LinkLost`: the link has ended.

        The answer may come in parts where `asker` is a `PartsHandler`. The buffers must not change until the answer, or
        the first part of it, is here.
        """
        if self._end_reason is not None:
            raise LinkLost(f"the link has ended: {self._end_reason}")
        stream = self._core.ask(meta, body)
        requests = self._askers.requests
        requests[stream] = asker
        self._writer.flush_soon(is_alone=len(requests) == 1)
        return stream

    def withdraw(self, stream: int) -> None:
        """The answer to a request is not wanted any more: tell the peer, and nobody else."""
        if self._askers.requests.pop(stream, None) is not None:
            self._core.cancel(stream)
            self._writer.flush_soon()

    def release(self, stream: int, part: Answer) -> None:
        """A part of an answer has been passed on: the peer may send others in its place."""
        self._core.release(stream, len(part.meta) + len(part.body))
        if self._core.has_output():
            self._writer.flush_soon()

    def ask_load(self, meta: bytes, asker: LoadHandler) -> int:
        """Ask for the peer's load, which `asker` is told; return the probe's number. `LinkLost`: the link has ended."""
        if self._end_reason is not None:
            raise LinkLost(f"the link has ended: {self._end_reason}")
        stream = self._core.probe(meta)
        self._askers.loads[stream] = asker
        self._writer.flush_soon()
        return stream

    def withdraw_load(self, stream: int) -> None:
        """The load is not wanted any more: tell the peer, and nobody else."""
        if self._askers.loads.pop(stream, None) is not None:
            self._core.cancel(stream)
            self._writer.flush_soon()

    def respond(
        self, stream: int, meta: bytes, body: Sequence[Buffer], *, is_final: bool = True
    ) -> bool:
        """Answer a request of the peer, or a part of it; False when it no longer wants to know."""
        is_wanted = self._end_reason is None and self._core.respond(
            stream, meta, body, is_final=is_final
        )
        if is_wanted:
            self._writer.flush_soon(is_alone=not self._core.serving_count)
        return is_wanted

    def has_part_room(self, stream: int) -> bool:
        """Return whether the peer takes one more part of its answer now; else the owner hears `parts_released`."""
        return self._core.has_part_room(stream)

    def fail(self, stream: int, error: CapameshError) -> bool:
        """Answer a request of the peer with an error; False when it no longer wants to know."""
        is_wanted = self._end_reason is None and self._core.fail(stream, error)
        if is_wanted:
            self._writer.flush_soon()
        return is_wanted

    def tell_load(self, meta: bytes) -> None:
        """Tell the peer this side's load, for which it has not asked; a peer of an earlier release drops that."""
        if self._end_reason is None:
            self._core.send_load(0, meta)
            self._writer.flush_soon()

    def goaway(self, reason: str) -> None:
        """Ask the peer to send nothing new; what is under way is still answered."""
        if self._end_reason is None:
            self._core.goaway(reason)
            self._writer.flush_soon()

    @property
    def is_made(self) -> bool:
        """Return whether it has a connection, TLS included."""
        return self._transport is not None

    @property
    def is_usable(self) -> bool:
        """Return whether a new request may be sent."""
        return self.member is not None and not self.is_draining and self._end_reason is None

    @property
    def is_quiet(self) -> bool:
        """Return whether nothing of the peer is under way, answers on their way out included."""
        return (
            self._core.serving_count == 0
            and self._core.queued_bytes == 0
            and (self._transport is None or self._transport.get_write_buffer_size() == 0)
        )

    def introduce(self, hello: Hello) -> None:
        """Show the peer this side's renewed membership; requests under way go on.

        A peer of an earlier release would end the link over it: that link ends once nothing is under way, and is
        dialled again. One on which there always is something stays until the peer finds the membership over.
        """
        if self._end_reason is not None:
            return
        self._introduction.renewed = hello
        self._show_renewed()

    def _show_renewed(self) -> None:
        renewed, peer = self._introduction.renewed, self._introduction.hello
        if renewed is None or peer is None:
            return
        if peer.takes_another:
            self._introduction.renewed = None
            self._core.introduce(renewed)
            self._writer.flush_soon()
        elif self._core.is_idle and self.is_quiet:
            self.close("the membership was renewed: dial again")

    def recheck(self) -> None:
        """Check the peer's membership again; raise `NotMember` when it has ended."""
        self._introduction.recheck()

    def close(self, reason: str) -> None:
        """End the link now; requests under way fail with `LinkLost`."""
        if self._end_reason is not None:
            return
        self._end_reason = reason
        self._askers.fail_all(self._lost(reason))
        self._core.end()
        if self._transport is not None:
            self._core.goaway(reason)
            self._writer.write()
            self._transport.close()
            self._liveness.await_end(self._transport.abort)
        self._writer.end()

    def abort(self, reason: str) -> None:
        """End the link without another byte, for a peer that broke the rules or is silent."""
        if self._end_reason is None:
            self._end_reason = reason
        self._writer.end()
        if self._transport is not None:
            self._transport.abort()

    async def wait_ended(self) -> str:
        """Wait until the socket is closed; return why."""
        return await asyncio.shield(self.ended)

    # asyncio.BufferedProtocol

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._end_reason is None:
            self._writer.begin(self._transport)
        self._liveness.await_hello()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        is_sudden = self._end_reason is None and not self._goaway_reason
        if self._end_reason is None:
            is_greeted = self._introduction.hello is not None
            self._end_reason = loss_reason(exc, self._goaway_reason, is_greeted=is_greeted)
        reason = self._end_reason
        self._liveness.stop()
        self._writer.end()
        self._askers.fail_all(self._lost(reason, is_sudden=is_sudden))
        self._core.end()
        if not self.up.done():
            self.up.set_exception(self._lost(reason))
            self.up.exception()  # whoever dialled may have gone; not reading it is no fault
        if not self.ended.done():
            self.ended.set_result(reason)
        self._owner.link_down(self, reason)

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return self._core.buffer()

    @override
    def buffer_updated(self, nbytes: int) -> None:
        self._liveness.heard_s = self._loop.time()
        if self._end_reason is not None:
            return
        self._writer.is_held = True
        try:
            self._core.check_unawaited(self._liveness.heard_s)
            for event in self._core.received(nbytes):
                self._act(event)
            if self.member is not None:
                self._owner.read_ended(self)
        except CapameshError as error:
            self._owner.read_ended(self)  # what came before the fault
            self.close(f"{error.code}: {error.message}")
            return
        finally:
            self._writer.is_held = False
        if self._core.has_output():
            self._writer.flush()  # not soon: a turn of the loop is dear, and pings may fill megabytes until then

    @override
    def pause_writing(self) -> None:
        self._writer.is_paused = True

    @override
    def resume_writing(self) -> None:
        self._writer.is_paused = False
        self._writer.flush()

    def _act(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                if event.stream in self._askers.loads:
                    raise ProtocolViolation(f"a response to the probe on stream {event.stream}")
                if event.is_final:
                    self._askers.answered(event)
                elif not self._askers.part_answered(event):
                    self._core.cancel(event.stream)
            case RequestReceived():
                if self.member is None:
                    raise ProtocolViolation("a request before the peer was verified")
                self._owner.request_received(self, event.stream, event.meta, event.body)
            case ErrorReceived():
                self._askers.failed(event)
            case RequestCancelled():
                self._owner.request_cancelled(self, event.stream)
            case PartsReleased():
                self._owner.parts_released(self, event.stream)
            case ProbeReceived():
                self._core.send_load(event.stream, self._owner.load(event.meta))
            case LoadReceived():
                if event.stream:
                    self._askers.reported(event)
                elif self.member is not None:
                    self._owner.load_told(self, event.meta)
            case HelloReceived():
                self._greet(event.hello)
            case GoawayReceived():
                self.is_draining = True
                self._goaway_reason = event.reason
                self._owner.goaway_received(self, event.reason)
            case PongReceived():
                took_s = self._liveness.ponged()
                if took_s is not None and self.on_round_trip is not None:
                    self.on_round_trip(took_s, self._loop.time())
            case _:
                assert_never(event)

    def _greet(self, hello: Hello) -> None:
        if self.member is not None:
            self.member = self._introduction.again(hello, self.member, self._loop.time())
            return
        assert self._transport is not None  # noqa: S101 - bytes come only from a transport
        tls = cast(ssl.SSLObject, self._transport.get_extra_info("ssl_object"))
        self.peer_process = hello.process
        self.member = self._introduction.first(
            hello, tls.getpeercert(binary_form=True) or b"", tls.selected_alpn_protocol()
        )
        self._liveness.begin()
        self.up.set_result(self.member)
        self._owner.link_up(self)
        self._beat()

    def _beat(self) -> bool:
        """Do what is due now and then; return False when the link has ended."""
        self._show_renewed()
        if self._end_reason is not None:
            return False
        # also to one that sends all the time: its pings may wait behind that
        self._liveness.pinged()
        self._core.ping(0)
        self._writer.flush_soon()
        return True

    def _lost(self, reason: str, *, is_sudden: bool = False) -> LinkLost:
        peer = self.member.peer_id if self.member is not None else "an unverified peer"
        error = LinkLost(f"the link to {peer} ended: {reason}")
        error.is_sudden = is_sudden
        return error
