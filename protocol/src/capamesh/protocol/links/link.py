"""A link: the core of `connection` on a TLS socket. IO: asyncio.

The socket is read straight into the core's memory (`BufferedProtocol`) and written with `writelines`. A
link is good for use once its HELLO has been checked; it ends for one reason, which every request that was
under way is told as `LinkLost`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, assert_never, cast, runtime_checkable

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, LinkLost, PeerError, ProtocolViolation
from capamesh.protocol.links.connection import Connection
from capamesh.protocol.links.events import (
    ErrorReceived,
    Event,
    GoawayReceived,
    HelloReceived,
    LoadReceived,
    PongReceived,
    ProbeReceived,
    RequestCancelled,
    RequestReceived,
    ResponseReceived,
)
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.outgoing import Buffer
from capamesh.protocol.links.receive_budget import ReceiveBudget
from capamesh.protocol.network import ALPN, Member

_T = TypeVar("_T")

WRITE_AHEAD_BYTES = 512 * 1024
"""Handed to the socket before it has sent the last: two chunks, so that it never runs dry between turns."""
UNSENT_BYTES = 128 * 1024
"""What the kernel may hold before it is on the wire. A small message waits behind it: at 32 Mbit/s, behind a
16 MB body, 0.3 s instead of 1.1 s with the kernel's own choice, at the same throughput (measured)."""


GREET_AGAIN_S = 1.0
"""Between two introductions of a peer on one link (guess: each costs three signatures, and a month lies between them)."""


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """How patient a link is, in seconds."""

    hello_s: float = 5.0
    """From connection to a checked HELLO; the membership limit of the mesh."""
    ping_every_s: float = 2.0
    """Guess: a third of the silence that is borne."""
    silent_s: float = 6.0
    """Without a byte from the peer for so long, the link is given up (half-open socket, frozen peer)."""


class LinkHandler(Protocol):
    """What a link tells its owner. Called in the event loop; must not raise and must not block."""

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

    def load(self, meta: bytes) -> bytes:
        """Return this side's load for a probe."""
        ...

    def goaway_received(self, link: Link, reason: str) -> None:
        """The peer takes no new requests."""

    def read_ended(self, link: Link) -> None:
        """All that came in one read has been told: what came together may be done together."""


@dataclass(slots=True)  # not frozen: one is made for every request
class Answer:
    """A response as it came: metadata and body."""

    meta: bytes
    body: memoryview


class ResponseHandler(Protocol):
    """Who waits for an answer. Told once, in the event loop, unless it withdraws; must not raise.

    An answer in parts is an error to it (`PeerError`), and the request is withdrawn: its first part would pass for all.
    """

    __slots__ = ()

    def answered(self, answer: Answer) -> None:
        """The answer is here."""

    def failed(self, error: CapameshError) -> None:
        """The peer answered with an error, or the link has ended (`LinkLost`)."""


@runtime_checkable
class PartsHandler(ResponseHandler, Protocol):
    """Who takes an answer in parts: none or more of them, then its end, which `answered` or `failed` tells once.

    Parts that are held too long end the request: see `Link.release`.
    """

    __slots__ = ()

    def part_answered(self, part: Answer) -> None:
        """One more part of the answer is here; others follow."""


class LoadHandler(Protocol):
    """Who waits for a peer's load. Told once, in the event loop, unless it withdraws; must not raise."""

    __slots__ = ()

    def reported(self, meta: bytes) -> None:
        """The load is here."""

    def failed(self, error: CapameshError) -> None:
        """The peer answered with an error, or the link has ended (`LinkLost`)."""


class _Awaited(ResponseHandler, LoadHandler):
    """Waits for an answer, or for a load, in a future."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future

    @override
    def answered(self, answer: Answer) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    @override
    def reported(self, meta: bytes) -> None:
        if not self.future.done():
            self.future.set_result(meta)

    @override
    def failed(self, error: CapameshError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


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
    ) -> None:
        self._owner = owner
        self._limits = limits
        self._times = times
        self._core = Connection(
            is_dialer=is_dialer,
            hello=hello,
            limits=limits,
            budget=budget,
            on_output=self._flush_soon,
        )
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, ResponseHandler] = {}
        self._probing: dict[int, LoadHandler] = {}
        self._is_flush_due = False
        self._is_reading = False
        self._is_paused = False
        self._end_reason: str | None = None
        self._goaway_reason = ""
        self._hello: Hello | None = None
        self._certificate = b""
        self._greet_again_s = 0.0
        self._renewed: Hello | None = None
        """What the peer is still to be shown."""
        """When the peer may introduce itself again, on the loop's clock."""
        self._last_heard_s = self._loop.time()
        self._tick_due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[str] = self._loop.create_future()
        """Resolved with the reason when the socket is closed."""
        self.up: asyncio.Future[Member] = self._loop.create_future()
        """Resolved when the peer is verified; fails when the link ends before."""
        self.member: Member | None = None
        self.peer_process = b""
        """Which process of the peer is at the other end; empty: it does not say."""
        self.is_draining = False
        """The peer said goaway: send it nothing new."""
        self.on_round_trip: Callable[[float], None] | None = None
        """Told the seconds that each ping took."""
        self._pinged_s = 0.0
        """When the ping was sent that is not answered yet; 0: none."""

    @override
    def __repr__(self) -> str:
        peer = self.member.peer_id if self.member else "unverified"
        return f"Link({peer}, {self._core!r})"

    # using it

    async def request(self, meta: bytes, body: Sequence[Buffer] = ()) -> Answer:
        """Send a request and wait for its answer; raise what the peer answered, or `LinkLost`.

        Cancelling the wait tells the peer. The buffers must not change until the answer is here.
        """
        answer: asyncio.Future[Answer] = self._loop.create_future()
        stream = self.ask(meta, body, _Awaited(answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self.withdraw(stream)
            raise

    def ask(self, meta: bytes, body: Sequence[Buffer], asker: ResponseHandler) -> int:
        """Send a request, whose answer `asker` is told; return its number. `LinkLost`: the link has ended.

        The answer may come in parts where `asker` is a `PartsHandler`. The buffers must not change until the answer, or
        the first part of it, is here.
        """
        if self._end_reason is not None:
            raise LinkLost(f"the link has ended: {self._end_reason}")
        stream = self._core.ask(meta, body)
        self._waiting[stream] = asker
        self._flush_soon()
        return stream

    def withdraw(self, stream: int) -> None:
        """The answer to a request is not wanted any more: tell the peer, and nobody else."""
        if self._waiting.pop(stream, None) is not None:
            self._core.cancel(stream)
            self._flush_soon()

    def release(self, stream: int, part: Answer) -> None:
        """A part of an answer has been passed on, and its memory is free again.

        Parts that are not released, those of the present read included, may be as large together as a whole answer; more
        of them withdraw the request, whose handler is told `PeerError`.
        """
        self._core.release(stream, len(part.meta) + len(part.body))

    async def probe(self, meta: bytes = b"") -> bytes:
        """Ask for the peer's load, of what `meta` says, and wait for it."""
        answer: asyncio.Future[bytes] = self._loop.create_future()
        stream = self.ask_load(meta, _Awaited(answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self.withdraw_load(stream)
            raise

    def ask_load(self, meta: bytes, asker: LoadHandler) -> int:
        """Ask for the peer's load, which `asker` is told; return the probe's number. `LinkLost`: the link has ended."""
        if self._end_reason is not None:
            raise LinkLost(f"the link has ended: {self._end_reason}")
        stream = self._core.probe(meta)
        self._probing[stream] = asker
        self._flush_soon()
        return stream

    def withdraw_load(self, stream: int) -> None:
        """The load is not wanted any more: tell the peer, and nobody else."""
        if self._probing.pop(stream, None) is not None:
            self._core.cancel(stream)
            self._flush_soon()

    def respond(
        self, stream: int, meta: bytes, body: Sequence[Buffer], *, is_final: bool = True
    ) -> bool:
        """Answer a request of the peer, or a part of it; False when it no longer wants to know."""
        is_wanted = self._end_reason is None and self._core.respond(
            stream, meta, body, is_final=is_final
        )
        if is_wanted:
            self._flush_soon()
        return is_wanted

    def fail(self, stream: int, error: CapameshError) -> bool:
        """Answer a request of the peer with an error; False when it no longer wants to know."""
        is_wanted = self._end_reason is None and self._core.fail(stream, error)
        if is_wanted:
            self._flush_soon()
        return is_wanted

    def goaway(self, reason: str) -> None:
        """Ask the peer to send nothing new; what is under way is still answered."""
        if self._end_reason is None:
            self._core.goaway(reason)
            self._flush_soon()

    @property
    def is_made(self) -> bool:
        """Whether it has a connection, TLS included."""
        return self._transport is not None

    @property
    def is_usable(self) -> bool:
        """Whether a new request may be sent."""
        return self.member is not None and not self.is_draining and self._end_reason is None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing of the peer is under way, answers on their way out included."""
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
        self._renewed = hello
        if self._hello is not None:
            self._show_renewed(self._hello)

    def _show_renewed(self, peer: Hello) -> None:
        renewed = self._renewed
        if renewed is None:
            return
        if peer.takes_another:
            self._renewed = None
            self._core.introduce(renewed)
            self._flush_soon()
        elif self._core.is_idle and self.is_quiet:
            self.close("the membership was renewed: dial again")

    def recheck(self) -> None:
        """Check the peer's membership again; raise `NotMember` when it has ended."""
        if self._hello is not None:
            self._owner.verify(self._hello, self._certificate)

    def close(self, reason: str) -> None:
        """End the link now; requests under way fail with `LinkLost`."""
        if self._end_reason is not None:
            return
        self._end_reason = reason
        self._fail_all(self._lost(reason))
        self._core.end()
        if self._transport is not None:
            self._core.goaway(reason)
            self._write()
            self._transport.close()
            if self._timer is not None:
                self._timer.cancel()
            # a peer that does not read must not keep the socket open
            self._timer = self._loop.call_later(self._times.hello_s, self._transport.abort)

    def abort(self, reason: str) -> None:
        """End the link without another byte, for a peer that broke the rules or is silent."""
        if self._end_reason is None:
            self._end_reason = reason
        if self._transport is not None:
            self._transport.abort()

    async def wait_ended(self) -> str:
        """Wait until the socket is closed; return why."""
        return await asyncio.shield(self.ended)

    # asyncio.BufferedProtocol

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_AHEAD_BYTES)
        plain = cast("socket.socket | None", transport.get_extra_info("socket"))
        if plain is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Windows has no such option
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._timer = self._loop.call_later(self._times.hello_s, self._hello_overdue)
        self._flush_soon()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        is_sudden = self._end_reason is None and not self._goaway_reason
        if self._end_reason is None:
            self._end_reason = f"the connection was lost: {exc}" if exc else "the peer closed it"
            if self._goaway_reason:
                self._end_reason += f": {self._goaway_reason}"
            elif self._hello is None and exc is None:
                # asyncio's servers do not send the TLS alert that would say so
                self._end_reason += " before its HELLO: it may not accept this member's certificate"
        reason = self._end_reason
        if self._timer is not None:
            self._timer.cancel()
        self._fail_all(self._lost(reason, is_sudden=is_sudden))
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
        self._last_heard_s = self._loop.time()
        if self._end_reason is not None:
            return
        self._is_reading = True
        try:
            for event in self._core.received(nbytes):
                self._act(event)
            if self.member is not None:
                self._owner.read_ended(self)
        except CapameshError as error:
            self._owner.read_ended(self)  # what came before the fault
            self.close(f"{error.code}: {error.message}")
            return
        finally:
            self._is_reading = False
        if self._core.has_output():
            self._flush()  # not soon: a turn of the loop is dear at one request in flight, and a flood of
            # pings may fill megabytes until then

    @override
    def eof_received(self) -> bool | None:
        """Close the connection: a peer that ends its half waits for no answers."""
        return None

    @override
    def pause_writing(self) -> None:
        self._is_paused = True

    @override
    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()

    # inside

    def _act(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                if event.stream in self._probing:
                    raise ProtocolViolation(f"a response to the probe on stream {event.stream}")
                if not event.is_final:
                    self._act_on_part(event)
                    return
                asker = self._waiting.pop(event.stream, None)
                if asker is not None:
                    self._tell(asker.answered, Answer(event.meta, event.body))
            case RequestReceived():
                if self.member is None:
                    raise ProtocolViolation("a request before the peer was verified")
                self._owner.request_received(self, event.stream, event.meta, event.body)
            case ErrorReceived():
                asked = self._waiting.pop(event.stream, None) or self._probing.pop(
                    event.stream, None
                )
                if asked is not None:
                    self._tell(asked.failed, event.error)
            case RequestCancelled():
                self._owner.request_cancelled(self, event.stream)
            case ProbeReceived():
                self._core.send_load(event.stream, self._owner.load(event.meta))
            case LoadReceived():
                probing = self._probing.pop(event.stream, None)
                if probing is None:
                    raise ProtocolViolation(f"a load for the request on stream {event.stream}")
                self._tell(probing.reported, event.meta)
            case HelloReceived():
                self._greet(event.hello)
            case GoawayReceived():
                self.is_draining = True
                self._goaway_reason = event.reason
                self._owner.goaway_received(self, event.reason)
            case PongReceived():
                if self._pinged_s and self.on_round_trip is not None:
                    # not the loop's time, which stands still for a turn in uvloop
                    self.on_round_trip(time.monotonic() - self._pinged_s)
                self._pinged_s = 0.0
            case _:
                assert_never(event)

    def _act_on_part(self, event: ResponseReceived) -> None:
        asker = self._waiting.get(event.stream)
        if isinstance(asker, PartsHandler):
            self._tell(asker.part_answered, Answer(event.meta, event.body))
        elif asker is not None:
            del self._waiting[event.stream]
            self._core.cancel(event.stream)
            self._tell(
                asker.failed, PeerError("the peer answers in parts; a whole answer was asked for")
            )

    def _tell(self, reported: Callable[[_T], None], what: _T) -> None:
        """Tell an asker; a bug there costs its own request and not the link, on which all others wait."""
        try:
            reported(what)
        except Exception as crash:  # noqa: BLE001 - the loop's handler logs it
            self._loop.call_exception_handler(
                {"message": f"an asker on {self!r} crashed", "exception": crash}
            )

    def _greet(self, hello: Hello) -> None:
        if self.member is not None:
            self._greet_again(hello, self.member)
            return
        assert self._transport is not None  # noqa: S101 - bytes come only from a transport
        tls = cast(ssl.SSLObject, self._transport.get_extra_info("ssl_object"))
        if tls.selected_alpn_protocol() != ALPN:  # OpenSSL lets a peer without one pass
            raise ProtocolViolation(
                f"the peer speaks {tls.selected_alpn_protocol()!r} over TLS, not {ALPN!r}"
            )
        self.peer_process = hello.process
        self._hello, self._certificate = hello, tls.getpeercert(binary_form=True) or b""
        self.member = self._owner.verify(hello, self._certificate)
        if self._timer is not None:
            self._timer.cancel()
        self._tick_later()
        self.up.set_result(self.member)
        self._owner.link_up(self)
        self._show_renewed(hello)
        self._ping()

    def _greet_again(self, hello: Hello, before: Member) -> None:
        """Take over a chain that the peer was given since. TLS has proved its key, and its peer id is made of that."""
        now_s = self._loop.time()
        if now_s < self._greet_again_s:
            raise ProtocolViolation(f"a second HELLO within {GREET_AGAIN_S:g} s")
        self._greet_again_s = now_s + GREET_AGAIN_S
        leaf = hello.chain[0] if hello.chain else b""
        member = self._owner.verify(hello, leaf)
        if member.peer_id != before.peer_id:
            raise ProtocolViolation(f"{before.peer_id} introduces itself as {member.peer_id}")
        self._hello, self._certificate, self.member = hello, leaf, member

    def _hello_overdue(self) -> None:
        self.abort(f"no HELLO within {self._times.hello_s} s")

    def _tick(self) -> None:
        now_s = self._loop.time()
        if now_s - self._tick_due_s > self._times.ping_every_s:
            self._last_heard_s = now_s  # this process itself was stopped: the peer is not to blame
        silent_s = now_s - self._last_heard_s
        if silent_s > self._times.silent_s:
            self.abort(f"silent for {silent_s:.1f} s")
            return
        if self._hello is not None:
            self._show_renewed(self._hello)
            if self._end_reason is not None:
                return
        # Also to a peer that sends all the time: its own pings may wait behind what it sends.
        self._ping()
        self._tick_later()

    def _ping(self) -> None:
        if self._end_reason is None:
            if not self._pinged_s:
                self._pinged_s = time.monotonic()
            self._core.ping(0)
            self._flush_soon()

    def _tick_later(self) -> None:
        self._tick_due_s = self._loop.time() + self._times.ping_every_s
        self._timer = self._loop.call_at(self._tick_due_s, self._tick)

    def _flush_soon(self) -> None:
        if not self._is_flush_due and not self._is_reading:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._end_reason is None:
            self._write()
            if self._core.queued_bytes > self._limits.send_bytes:
                self.abort(f"{self._core.queued_bytes} bytes wait that the peer does not read")

    def _write(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while not self._is_paused and self._core.has_output():
            buffers = self._core.take(WRITE_AHEAD_BYTES)
            if len(buffers) == 1:
                transport.write(buffers[0])
            else:
                transport.writelines(buffers)

    def _fail_all(self, lost: LinkLost) -> None:
        for waiting in (self._waiting, self._probing):
            for stream in list(waiting):
                asker = waiting.pop(stream, None)  # whoever was told before may have withdrawn it
                if asker is not None:
                    reported = LinkLost(lost.message)
                    reported.is_sudden = lost.is_sudden
                    self._tell(asker.failed, reported)

    def _lost(self, reason: str, *, is_sudden: bool = False) -> LinkLost:
        error = LinkLost(f"the link to {self._peer_name()} ended: {reason}")
        error.is_sudden = is_sudden
        return error

    def _peer_name(self) -> str:
        return self.member.peer_id if self.member is not None else "an unverified peer"
