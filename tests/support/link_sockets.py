"""Members of a network on loopback sockets: honest ones, and raw ones that say what they like."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from awaited_calls import request
from patience import LIMIT_S, until

from capamesh.protocol.errors import NotMember
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import PeerId
from capamesh.protocol.links.frames import HEADER, HEADER_BYTES, FrameKind, LinkLimits, encode_frame
from capamesh.protocol.links.hello import Hello, unpack_map
from capamesh.protocol.links.link import Link, LinkHandler
from capamesh.protocol.links.liveness import LinkTimes
from capamesh.protocol.links.transport import LinkTransport, check_hello
from capamesh.protocol.network import (
    Member,
    Membership,
    NetworkOwner,
    NetworkTrust,
    Role,
    tls_context,
)

HOST = "127.0.0.1"
BRISK = LinkTimes(hello_s=0.4, ping_every_s=0.1, silent_s=0.3)
"""For tests of handshakes whose time is over."""
WATCHFUL = dataclasses.replace(BRISK, hello_s=LIMIT_S)
"""For tests of silence: a machine with other work to do may take long over a handshake."""


def within(coroutine: Coroutine[Any, Any, Any] | Awaitable[Any], limit_s: float = LIMIT_S) -> Any:
    return asyncio.wait_for(coroutine, limit_s)


def open_sockets() -> int:
    """Count this process's sockets; its other files are the event loop's own."""
    count = 0
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own is closed by now
            count += file.readlink().name.startswith("socket:")
    return count


class Members:
    """A network's owner, the members it admits, and what all of them believe."""

    def __init__(self, folder: Path, name: str = "test") -> None:
        self._folder = folder
        self.owner = NetworkOwner.create(name, datetime.now(UTC))
        self._count = 0

    def trust(self) -> NetworkTrust:
        return NetworkTrust(self.owner.ca_der)

    def join(self, role: Role, *, lasts_s: float = 3600, joined_ago_s: float = 0) -> Membership:
        """Admit a new member, some time ago and for some time."""
        then = datetime.now(UTC) - timedelta(seconds=joined_ago_s)
        token = self.owner.invite(
            role, expires_at=then + timedelta(seconds=lasts_s), bootstrap=(), now=then
        )
        return Membership.join(Identity.generate(), token, then)

    def folder(self) -> Path:
        self._count += 1
        return self._folder / str(self._count)

    def tls(self, membership: Membership, *, server_side: bool = False) -> ssl.SSLContext:
        return tls_context(membership, self.folder(), server_side=server_side)

    def transport(
        self, membership: Membership, limits: LinkLimits | None, times: LinkTimes | None
    ) -> LinkTransport:
        folder = self.folder()
        membership.save(folder)
        return LinkTransport(membership, folder, agent_version="test", limits=limits, times=times)


class Side(LinkHandler):
    """Owns links: remembers what they tell and answers requests.

    A request whose metadata is `hold` waits in `held`; `give N` is answered with N zero bytes; all others
    get back what they sent.
    """

    def __init__(self, trust: NetworkTrust, role: Role, peer: PeerId | None = None) -> None:
        self.trust = trust
        self._role = role
        self._peer = peer
        self.links: set[Link] = set()
        self.reasons: deque[str] = deque()
        self.held: deque[tuple[Link, int]] = deque()
        self.cancelled: deque[int] = deque()
        self.goaways: deque[str] = deque()
        self.requests = 0
        self.reported = asyncio.Event()

    async def until(self, condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
        """Wait until `condition` holds after something was told; return what it returned."""
        async with asyncio.timeout(limit_s):
            while not (value := condition()):
                self.reported.clear()
                await self.reported.wait()
        return value

    async def reason(self, limit_s: float = LIMIT_S) -> str:
        """Wait for the next link to end; return why it did."""
        await self.until(lambda: self.reasons, limit_s)
        return self.reasons.popleft()

    def verify(self, hello: Hello, certificate: bytes) -> Member:
        return check_hello(
            self.trust, hello, certificate, datetime.now(UTC), role=self._role, peer=self._peer
        )

    def link_up(self, link: Link) -> None:
        self.links.add(link)
        self.reported.set()

    def link_down(self, link: Link, reason: str) -> None:
        self.links.discard(link)
        self.reasons.append(reason)
        self.reported.set()

    def request_received(self, link: Link, stream: int, meta: bytes, body: memoryview) -> None:
        self.requests += 1
        if meta == b"hold":
            self.held.append((link, stream))
        elif meta.startswith(b"give "):
            link.respond(stream, meta, [bytes(int(meta[5:]))])
        else:
            link.respond(stream, meta, [body])
        self.reported.set()

    def request_cancelled(self, link: Link, stream: int) -> None:
        self.cancelled.append(stream)
        self.reported.set()

    def load(self, meta: bytes) -> bytes:
        return b"load"

    def goaway_received(self, link: Link, reason: str) -> None:
        self.goaways.append(reason)
        self.reported.set()

    def recheck(self) -> None:
        for link in list(self.links):
            try:
                link.recheck()
            except NotMember as error:
                link.close(f"{error.code}: {error.message}")


@dataclass(frozen=True)
class Town:
    """A node that listens, and a router with a link to it."""

    members: Members
    node: Side
    router: Side
    node_member: Membership
    router_member: Membership
    node_endpoint: LinkTransport
    router_endpoint: LinkTransport
    port: int
    link: Link
    """The router's end."""

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def node_link(self) -> Link:
        (link,) = [one for one in self.node.links if one.member and is_of(one, self.router_member)]
        return link

    async def attacker(self, membership: Membership | None = None) -> RawPeer:
        """Another router with a key and a certificate of its own, after the TLS handshake."""
        membership = membership or self.members.join(Role.ROUTER)
        return await RawPeer.dial(self.port, membership, self.members.tls(membership))

    async def deaf_attacker(self, **changes: Any) -> tuple[RawPeer, Link]:
        """A greeted router that will read nothing more, behind small kernel buffers; and the node's end."""
        membership = self.members.join(Role.ROUTER)
        peer = await RawPeer.dial(self.port, membership, self.members.tls(membership), 16_384)
        await peer.greet(**changes)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (link,) = [one for one in self.node.links if is_of(one, membership)]
        assert link._transport is not None
        plain: socket.socket = link._transport.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        return peer, link


def is_of(link: Link, membership: Membership) -> bool:
    return link.member is not None and link.member.peer_id == membership.identity.peer_id


@asynccontextmanager
async def town(
    members: Members, *, limits: LinkLimits | None = None, times: LinkTimes | None = None
) -> AsyncIterator[Town]:
    """A node that serves an honest router while a test does its worst.

    When the test is done the honest link must still work, every other link be gone, and nothing be left
    over: no stream, no byte, no socket, no task, no error that nobody saw.
    """
    gc.freeze()  # what is older is none of this test's, and takes long to look through
    loop = asyncio.get_running_loop()
    unseen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    node_member, router_member = members.join(Role.NODE), members.join(Role.ROUTER)
    node, router = Side(members.trust(), Role.ROUTER), Side(members.trust(), Role.NODE)
    node_endpoint = members.transport(node_member, limits, times)
    router_endpoint = members.transport(router_member, limits, times)
    sockets, tasks = open_sockets(), asyncio.all_tasks()
    server = await node_endpoint.listen(HOST, 0, lambda: node)
    port = server.sockets[0].getsockname()[1]
    if times is None:
        link = await router_endpoint.dial(f"{HOST}:{port}", router)
    else:  # the honest have all the time that they need for their handshake
        patient = dataclasses.replace(times, hello_s=LIMIT_S)
        door = await members.transport(node_member, limits, patient).listen(HOST, 0, lambda: node)
        link = await members.transport(router_member, limits, patient).dial(
            f"{HOST}:{door.sockets[0].getsockname()[1]}", router
        )
        door.close()
    sides = node, router, node_member, router_member, node_endpoint, router_endpoint
    here = Town(members, *sides, port, link)
    try:
        async with asyncio.timeout(2 * LIMIT_S):
            yield here
    except BaseException:
        server.close()
        for end in (*node.links, *router.links):
            end.abort("the test failed")
        raise
    answer = await within(request(link, b"are you there", [b"x" * 70_000]))
    assert answer.meta == b"are you there"
    assert answer.body == b"x" * 70_000
    await node.until(lambda: len(node.links) == 1)
    for end in (link, here.node_link):
        await until(lambda end=end: is_at_rest(end), f"not at rest: {end!r}")
    link.close("the test is over")
    await within(link.wait_ended())
    server.close()
    await node.until(lambda: not node.links)
    await until(lambda: asyncio.all_tasks() <= tasks, "tasks are left")
    await until(lambda: open_sockets() <= sockets, "sockets are left open")
    del link, here, sides
    gc.collect()
    await asyncio.sleep(0)
    assert unseen == []


def is_at_rest(link: Link) -> bool:
    """Whether no stream is open, no byte is waiting or reserved, and no caller is waiting."""
    core = link._core
    return (
        repr(core) == "Connection(0 asked, 0 serving, 0 receiving, 0 bytes)"
        and core.queued_bytes == 0
        and not core.has_output()
        and not link._askers.requests
        and not link._askers.loads
    )


@dataclass(frozen=True)
class Frame:
    kind: int
    stream: int
    value: int
    flags: int
    meta: bytes
    body: bytes


def head(
    payload: int = 0,
    meta: int = 0,
    *,
    kind: int,
    value: int = 0,
    stream: int = 0,
    flags: int = 0,
    reserved: int = 0,
) -> bytes:
    """Return a header that says whatever the test likes."""
    return HEADER.pack(payload, meta, value, stream, kind, flags, reserved)


def message(
    kind: FrameKind, stream: int, meta: bytes, body: bytes, flags: int, total: int
) -> bytes:
    return (
        head(len(meta) + len(body), len(meta), kind=kind, value=total, stream=stream, flags=flags)
        + meta
        + body
    )


class RawPeer:
    """A TLS connection whose owner writes frames by hand."""

    def __init__(
        self, membership: Membership, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.membership = membership
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(
        cls,
        port: int,
        membership: Membership,
        context: ssl.SSLContext,
        receive_bytes: int | None = None,
    ) -> RawPeer:
        plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        plain.setblocking(False)
        if receive_bytes is not None:  # before it connects, or the kernel has offered more already
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await within(asyncio.get_running_loop().sock_connect(plain, (HOST, port)))
        reader, writer = await within(
            asyncio.open_connection(sock=plain, ssl=context, server_hostname="")
        )
        return cls(membership, reader, writer)

    def hello(self, **changes: Any) -> bytes:
        """Return a HELLO frame, honest but for `changes`."""
        honest = Hello(
            network=self.membership.network_id,
            chain=self.membership.chain,
            agent_version="raw",
            initial_credit_bytes=1 << 20,
            message_bytes=1 << 28,
        )
        meta = dataclasses.replace(honest, **changes).encode()
        return encode_frame(FrameKind.HELLO, meta=meta)

    async def send(self, *frames: bytes) -> None:
        """Write, and wait for a peer that is slow to read."""
        self.writer.write(b"".join(frames))
        await within(self.writer.drain())

    async def greet(self, **changes: Any) -> Frame:
        await self.send(self.hello(**changes))
        return await self.frame()

    async def frame(self) -> Frame:
        payload, meta, value, stream, kind, flags, _ = HEADER.unpack(
            await within(self.reader.readexactly(HEADER_BYTES))
        )
        raw = await within(self.reader.readexactly(payload))
        return Frame(kind, stream, value, flags, raw[:meta], raw[meta:])

    async def frame_of(self, kind: FrameKind) -> Frame:
        while (frame := await self.frame()).kind != kind:
            pass
        return frame

    async def farewell(self) -> str | None:
        """Read to the end; return the reason in the last GOAWAY, None when it was cut off without one."""
        reason: str | None = None
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await self.frame()
                if frame.kind == FrameKind.GOAWAY:
                    reason = str(unpack_map(frame.meta, "GOAWAY")["reason"])
        await self.hang_up()
        return reason

    async def hang_up(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await within(self.writer.wait_closed())

    async def reset(self) -> None:
        """End with a TCP reset, as a killed machine's router does."""
        plain: socket.socket | None = self.writer.get_extra_info("socket")
        if plain is not None:  # else the other side was first
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        with suppress(OSError):
            await within(self.writer.wait_closed())


@asynccontextmanager
async def raw_listener(
    members: Members, serve: Callable[[RawPeer], Awaitable[None]]
) -> AsyncIterator[tuple[Membership, str]]:
    """A node that does what `serve` does with each connection; yields who it is and its address."""
    membership = members.join(Role.NODE)
    peers: list[RawPeer] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(membership, reader, writer)
        peers.append(peer)
        try:
            await serve(peer)
        finally:
            await peer.hang_up()

    server = await asyncio.start_server(
        take, HOST, 0, ssl=members.tls(membership, server_side=True)
    )
    try:
        yield membership, f"{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for peer in peers:
            peer.writer.transport.abort()
