"""Whoever does not prove to be a member in the right role gets nowhere, and the honest are served meanwhile."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from awaited_calls import request
from link_sockets import (
    BRISK,
    HOST,
    LIMIT_S,
    WATCHFUL,
    Members,
    RawPeer,
    Side,
    Town,
    open_sockets,
    raw_listener,
    town,
    within,
)
from patience import until

from capamesh.protocol.connection_limits import ConnectionLimits, Rate
from capamesh.protocol.errors import LinkLost
from capamesh.protocol.ids import NetworkId
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.listener import LinkListener, bind
from capamesh.protocol.links.liveness import LinkTimes
from capamesh.protocol.links.refusals import HandshakeRefusals
from capamesh.protocol.network import RevocationList, Role
from capamesh.protocol.network.tls import ALPN

PATIENT = LinkTimes(hello_s=LIMIT_S)
"""For tests in which nobody is cut off because time passes."""


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    """Return what still comes; an end with an error is an end."""
    gathered = b""
    with suppress(OSError):
        while data := await within(reader.read(65536)):
            gathered += data
    return gathered


# before the handshake is over


async def test_garbage_instead_of_a_handshake_and_half_of_one_are_cut_off(members: Members) -> None:
    junk = (b"\0" * 4096, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\1" * 5000)
    async with town(members, times=BRISK) as here:
        endings: list[asyncio.Future[bytes]] = []
        for data in (*[b""] * 99, *junk, b"\x16\x03\x01\x02\x00"):
            reader, writer = await asyncio.open_connection(HOST, here.port)
            writer.write(data)
            endings.append(asyncio.ensure_future(read_to_the_end(reader)))
            endings[-1].add_done_callback(lambda _, writer=writer: writer.close())  # type: ignore[misc]
        while not endings[-1].done():  # this one goes on, a byte at a time
            writer.write(b"\1")
            await asyncio.wait(endings[-1:], timeout=0.02)
            assert (await within(request(here.link, b"m", [b"meanwhile"]))).body == b"meanwhile"
        await asyncio.gather(*endings)
        assert (len(here.node.links), list(here.node.reasons)) == (1, [])


class Refusing:
    """A listener whose log is kept, and whose clock stands still until a test moves it."""

    def __init__(self, members: Members) -> None:
        self.events: list[tuple[str, str, int]] = []
        self.now_s = 5.0
        self.side = Side(members.trust(), Role.ROUTER)
        node = members.join(Role.NODE)
        self._transport = members.transport(node, None, None)
        self.tls = members.tls(node, server_side=True)

    def link(self) -> Link:
        return self._transport._link(self.side, is_dialer=False)

    def warning(self, event: str, *, reason: str, count: int) -> None:
        self.events.append((event, reason, count))

    async def listen(self) -> tuple[LinkListener, int]:
        refusals = HandshakeRefusals(self, lambda: self.now_s)  # type: ignore[arg-type]  # it warns, no more
        sockets = await bind(HOST, 0, 8)
        limits = ConnectionLimits(100)
        server = LinkListener(sockets, self.link, self.tls, limits, 5.0, refusals.note)
        return server, sockets[0].getsockname()[1]


async def dial(port: int, context: ssl.SSLContext | None, first: bytes = b"") -> bytes:
    """Connect, say something and wait until the other side hangs up; return what it said."""
    name: dict[str, Any] = {} if context is None else {"server_hostname": ""}
    with suppress(OSError):
        reader, writer = await within(asyncio.open_connection(HOST, port, ssl=context, **name))
        writer.write(first)
        said = await read_to_the_end(reader)
        writer.close()
        with suppress(OSError):
            await within(writer.wait_closed())
        return said
    return b""


def nobody(members: Members, strangers: Members) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    return context


def old(members: Members, strangers: Members) -> ssl.SSLContext:
    context = members.tls(members.join(Role.ROUTER))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def stranger(members: Members, strangers: Members) -> ssl.SSLContext:
    context = strangers.tls(strangers.join(Role.ROUTER))
    context.verify_mode = ssl.CERT_NONE
    return context


def expired(members: Members, strangers: Members) -> ssl.SSLContext:
    return members.tls(members.join(Role.ROUTER, joined_ago_s=300, lasts_s=100))


NOT_OURS = "its certificate is not one of this network: "


@pytest.mark.parametrize(
    ("context_of", "first", "reason"),
    [
        (nobody, b"", "it has no certificate of a member"),
        (old, b"", "it does not speak TLS 1.3"),
        (stranger, b"", f"{NOT_OURS}unable to get local issuer certificate"),
        (expired, b"", f"{NOT_OURS}certificate has expired"),
        (None, b"GET / HTTP/1.0\r\n\r\n", "it speaks HTTP, not TLS"),
        (None, bytes(100), "it does not speak TLS"),
    ],
)
async def test_refused_handshake_gets_nothing_and_is_reported_with_its_reason(
    members: Members,
    strangers: Members,
    context_of: Callable[[Members, Members], ssl.SSLContext] | None,
    first: bytes,
    reason: str,
) -> None:
    node = Refusing(members)
    server, port = await node.listen()
    said = await dial(port, context_of and context_of(members, strangers), first)
    server.close()
    assert node.events == [("handshake_refused", reason, 1)]
    assert (len(node.side.links), said if context_of else b"") == (0, b"")


async def test_member_and_who_just_hangs_up_are_not_reported(members: Members) -> None:
    node = Refusing(members)
    server, port = await node.listen()
    member = members.tls(members.join(Role.ROUTER))
    _, writer = await within(asyncio.open_connection(HOST, port, ssl=member, server_hostname=""))
    writer.close()
    with suppress(OSError):  # a HELLO came behind its goodbye
        await within(writer.wait_closed())
    _, writer = await within(asyncio.open_connection(HOST, port))
    writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a handshake
    writer.close()
    await within(writer.wait_closed())
    await dial(port, None, b"GET / HTTP/1.0\r\n\r\n")  # was accepted after the others
    server.close()
    assert [reason for _, reason, _ in node.events] == ["it speaks HTTP, not TLS"]


async def test_flood_of_refusals_is_one_line_a_second_with_their_number(
    members: Members,
) -> None:
    node = Refusing(members)
    server, port = await node.listen()
    for _ in range(4):
        await dial(port, None, bytes(100))
    assert [count for _, _, count in node.events] == [1]
    node.now_s += 1.0
    await dial(port, None, bytes(100))
    server.close()
    assert [count for _, _, count in node.events] == [1, 4]


async def test_member_whose_time_is_over_is_reported_that_its_certificate_may_be_why(
    members: Members,
) -> None:
    async with town(members) as here:
        late = members.join(Role.ROUTER, joined_ago_s=300, lasts_s=100)
        owner = Side(members.trust(), Role.NODE)
        with pytest.raises(LinkLost, match=r"may not accept this member's certificate|ALERT|alert"):
            await within(members.transport(late, None, None).dial(here.address, owner))


async def test_dialler_of_a_listener_of_another_network_is_told_so(
    members: Members, strangers: Members
) -> None:
    async with raw_listener(strangers, hold_still) as (_, address), town(members) as here:
        owner = Side(members.trust(), Role.NODE)
        with pytest.raises(LinkLost, match=f"cannot reach {address}: .*CERTIFICATE_VERIFY_FAILED"):
            await within(here.router_endpoint.dial(address, owner))
        assert not owner.links


async def hold_still(peer: RawPeer) -> None:
    """Say nothing until the other side ends it."""
    await read_to_the_end(peer.reader)


@pytest.mark.parametrize(
    "address",
    ["a..b:1", "a" * 64 + ".example:1", "no-such-host.invalid:1", f"{HOST}:1", "[::1]:1", "xn--:1"],
)
async def test_address_that_leads_nowhere_is_a_lost_link_whatever_it_is(
    members: Members, address: str
) -> None:
    async with town(members) as here:
        with pytest.raises(LinkLost, match="cannot reach"):
            await within(here.router_endpoint.dial(address, Side(members.trust(), Role.NODE)))


# after the handshake: who is it?


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("wrong role", "not_member: wrong role"),
        ("revoked", "not_member: revoked peer"),
        ("chain of another member", "not_member: the introduction's certificate is not the one of"),
        ("no chain", "not_member: the introduction's certificate is not the one of"),
        ("leaf alone", "not_member: malformed"),
        ("leaf with another invite", "not_member: "),
        ("a thousand certificates", "not_member: malformed"),
        ("another network", "not_member: the peer is of network 'cm-elsewhere'"),
        ("another version", "protocol_violation: the peer speaks link version 2"),
        ("no credit", "protocol_violation: a HELLO that does not fit: credit is 0"),
    ],
)
async def test_introduction_that_does_not_hold_is_refused_with_the_reason(
    members: Members, lie: str, reason: str
) -> None:
    async with town(members) as here:
        other = members.join(Role.ROUTER)
        peer = await here.attacker(members.join(Role.NODE) if lie == "wrong role" else None)
        leaf, invite = peer.membership.chain
        if lie == "revoked":
            here.node.trust.update(revoking(here, peer.membership.identity.peer_id))
        changes: dict[str, dict[str, object]] = {
            "chain of another member": {"chain": here.router_member.chain},
            "no chain": {"chain": ()},
            "leaf alone": {"chain": (leaf,)},
            "leaf with another invite": {"chain": (leaf, other.chain[1])},
            "a thousand certificates": {"chain": (leaf, invite, *[b""] * 1000)},
            "another network": {"network": NetworkId("cm-elsewhere")},
            "another version": {"wire_version": 2},
            "no credit": {"initial_credit_bytes": 0},
        }
        await peer.send(peer.hello(**changes.get(lie, {})))
        said = await peer.farewell()
        assert said is not None
        assert said.startswith(reason)
        assert await here.node.reason() == said


def revoking(here: Town, peer: Any) -> RevocationList:
    before = here.node.trust.revocations
    return here.members.owner.revoke(before, peers=[peer], now=datetime.now(UTC))


async def test_peer_that_is_revoked_meanwhile_is_hung_up_on_and_its_requests_are_dropped(
    members: Members,
) -> None:
    async with town(members) as here:
        evil = members.join(Role.ROUTER)
        owner = Side(members.trust(), Role.NODE)
        link = await members.transport(evil, None, None).dial(here.address, owner)
        asking = asyncio.create_task(request(link, b"hold"))
        node_link, stream = (await here.node.until(lambda: here.node.held))[0]
        here.node.recheck()
        assert link.is_usable
        here.node.trust.update(revoking(here, evil.identity.peer_id))
        here.node.recheck()
        with pytest.raises(LinkLost, match="the peer closed it: not_member: revoked peer"):
            await within(asking)
        assert (await here.node.reason()).startswith("not_member: revoked peer")
        assert node_link.respond(stream, b"", [b"secret"]) is False


async def test_another_node_behind_the_dialled_address_is_found_out(members: Members) -> None:
    async def lie(peer: RawPeer) -> None:
        await peer.send(peer.hello(chain=here.node_member.chain))
        await peer.farewell()

    async with town(members) as here, raw_listener(members, lie) as (_, address):
        wanted = members.join(Role.NODE).identity.peer_id
        found = here.node_member.identity.peer_id
        owner = Side(members.trust(), Role.NODE, peer=wanted)
        with pytest.raises(LinkLost, match=f"not_member: dialled {wanted}, but {found} answered"):
            await within(here.router_endpoint.dial(here.address, owner))
        assert not owner.links
        assert f"dialled {wanted}" in await here.node.reason()
        owner = Side(members.trust(), Role.NODE, peer=found)  # whose chain the listener shows
        with pytest.raises(LinkLost, match="not the one of the TLS connection"):
            await within(here.router_endpoint.dial(address, owner))


async def test_both_sides_give_up_without_a_hello_in_time(members: Members) -> None:
    async with town(members, times=WATCHFUL) as here:
        # the listener has all the time for the connection that a HELLO could come over, its links have little for the HELLO
        here.node_endpoint._times = here.router_endpoint._times = BRISK
        peer = await here.attacker()
        assert await peer.farewell() is None
        assert await here.node.reason() == "no HELLO within 0.4 s"
        async with raw_listener(members, hold_still) as (_, address):
            owner = Side(members.trust(), Role.NODE)
            with pytest.raises(LinkLost, match=r"no verified link to .* within 0.4 s"):
                await within(here.router_endpoint.dial(address, owner))


async def test_caller_that_gives_up_dialling_leaves_nothing_behind(members: Members) -> None:
    async def arrive(peer: RawPeer) -> None:
        arrived.set()
        await hold_still(peer)

    arrived = asyncio.Event()
    async with town(members) as here, raw_listener(members, arrive) as (_, address):
        owner = Side(members.trust(), Role.NODE)
        dialling = asyncio.ensure_future(here.router_endpoint.dial(address, owner))
        await within(arrived.wait())
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        assert await owner.reason() == "no longer wanted"


# what a port holds


async def test_strangers_that_hold_connections_give_way_and_members_still_come_in(
    members: Members,
) -> None:
    transport = members.transport(members.join(Role.NODE), None, PATIENT)
    node, router = Side(members.trust(), Role.ROUTER), Side(members.trust(), Role.NODE)
    limits = ConnectionLimits(connections=16, unproven=12, unproven_of_address=8)
    server = await transport.listen(HOST, 0, lambda: node, limits=limits)
    port = server.sockets[0].getsockname()[1]

    async def until_held(open_: int, unproven: int) -> None:
        held = f"ConnectionLimiter({open_} open, {unproven} unproven)"
        await until(lambda: repr(server.limiter) == held, repr(server))

    before = open_sockets()
    strangers = [await within(asyncio.open_connection(HOST, port)) for _ in range(30)]
    await until_held(8, 8)
    assert server.limiter.displaced == 22
    await until(lambda: open_sockets() - before == 30 + 8, "not those sockets are open")
    router_endpoint = members.transport(members.join(Role.ROUTER), None, None)
    link = await within(router_endpoint.dial(f"{HOST}:{port}", router))
    assert (await within(request(link, b"still there"))).meta == b"still there"
    assert repr(server.limiter) == "ConnectionLimiter(8 open, 7 unproven)"
    strangers += [await within(asyncio.open_connection(HOST, port)) for _ in range(20)]
    assert (await within(request(link, b"and still"))).meta == b"and still"
    server.close()
    link.close("the test is over")
    await within(link.wait_ended())
    for _, writer in strangers:
        writer.close()
    await until_held(0, 0)
    await until(lambda: open_sockets() <= before, "sockets are left open")


async def test_more_handshakes_than_a_port_takes_in_a_second_are_closed_before_tls(
    members: Members,
) -> None:
    node = Side(members.trust(), Role.ROUTER)
    transport = members.transport(members.join(Role.NODE), None, PATIENT)
    limits = ConnectionLimits(connections=500, of_address=Rate(per_s=0.001, burst=5))
    server = await transport.listen(HOST, 0, lambda: node, limits=limits)
    port = server.sockets[0].getsockname()[1]
    hello = members.tls(members.join(Role.ROUTER))
    answered = 0
    for _ in range(12):
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await within(
                asyncio.open_connection(HOST, port, ssl=hello, server_hostname="")
            )
            answered += bool(await within(reader.readexactly(1)))
            writer.transport.abort()
    assert (answered, server.limiter.refused) == (5, 7)
    server.close()
    await until(lambda: not node.links, "links are left")


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("a defect"), None])
async def test_connection_of_which_no_link_can_be_made_gives_its_place_back(
    failure: Exception | None, members: Members
) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )
    node = Refusing(members)

    def make() -> Link:
        if failure is not None:
            raise failure
        return node.link()

    sockets = await bind(HOST, 0, 8)
    # with no context at all, its handshake cannot even begin
    tls = node.tls if failure is not None else cast("ssl.SSLContext", object())
    listener = LinkListener(sockets, make, tls, ConnectionLimits(8), 1.0)
    reader, writer = await asyncio.open_connection(HOST, sockets[0].getsockname()[1])
    assert await read_to_the_end(reader) == b""
    assert repr(listener.limiter) == "ConnectionLimiter(0 open, 0 unproven)"
    if failure is not None:
        assert reported == ([] if isinstance(failure, MemoryError) else [failure])
    writer.close()
    listener.close()
