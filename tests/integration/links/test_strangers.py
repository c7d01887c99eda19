"""Whoever does not prove to be a member in the right role gets nowhere, and the honest are served meanwhile."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import cast

import pytest
from link_awaiting import request
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
from patience import eventually

from capamesh.protocol.connection_limits import ConnectionLimits, Rate
from capamesh.protocol.errors import LinkLost
from capamesh.protocol.ids import NetworkId
from capamesh.protocol.links.frames import HEADER, FrameKind, encode_frame
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.listener import LinkListener, bind
from capamesh.protocol.links.liveness import LinkTimes
from capamesh.protocol.network import Role
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


async def served(here: Town) -> None:
    assert (await within(request(here.link, b"m", [b"meanwhile"]))).body == b"meanwhile"


# before the handshake is over


@pytest.mark.parametrize(
    "junk",
    [
        b"\0" * 4096,
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\1" * 5000,
        b"",
    ],
)
async def test_garbage_instead_of_tls_is_cut_off(members: Members, junk: bytes) -> None:
    async with town(members, times=BRISK) as here:
        reader, writer = await asyncio.open_connection(HOST, here.port)
        writer.write(junk)
        await served(here)
        await read_to_the_end(reader)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        assert len(here.node.links) == 1
        assert not here.node.reasons


async def test_handshake_one_byte_at_a_time_is_cut_off_when_its_time_is_over(
    members: Members,
) -> None:
    async with town(members, times=BRISK) as here:
        reader, writer = await asyncio.open_connection(HOST, here.port)
        writer.write(b"\x16\x03\x01\x02\x00")
        ending = asyncio.create_task(read_to_the_end(reader))
        while not ending.done():
            writer.write(b"\1")
            await asyncio.wait([ending], timeout=0.02)
            await served(here)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_hundred_half_open_connections_are_cut_off_when_their_time_is_over(
    members: Members,
) -> None:
    async with town(members, times=BRISK) as here:
        pairs = [await asyncio.open_connection(HOST, here.port) for _ in range(100)]
        await served(here)
        for reader, writer in pairs:
            await read_to_the_end(reader)
            writer.close()


def no_certificate(here: Town, strangers: Members) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    return context


def another_network(here: Town, strangers: Members) -> ssl.SSLContext:
    context = strangers.tls(strangers.join(Role.ROUTER))
    context.verify_mode = ssl.CERT_NONE
    return context


def expired(here: Town, strangers: Members) -> ssl.SSLContext:
    return here.members.tls(here.members.join(Role.ROUTER, joined_ago_s=300, lasts_s=100))


def old_tls(here: Town, strangers: Members) -> ssl.SSLContext:
    context = here.members.tls(here.members.join(Role.ROUTER))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize("context_of", [no_certificate, another_network, expired, old_tls])
async def test_handshake_itself_refuses_who_has_no_valid_certificate(
    members: Members, strangers: Members, context_of: Callable[[Town, Members], ssl.SSLContext]
) -> None:
    async with town(members, times=BRISK) as here:
        context = context_of(here, strangers)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await knock(here, context)
        assert len(here.node.links) == 1
        assert not here.node.reasons


async def knock(here: Town, context: ssl.SSLContext) -> None:
    peer = await RawPeer.dial(here.port, here.router_member, context)
    try:
        await peer.send(peer.hello())
        await peer.frame()
    finally:
        await peer.hang_up()


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


async def test_member_of_the_wrong_role_is_reported_so_and_hung_up_on(members: Members) -> None:
    async with town(members) as here:
        peer = await here.attacker(members.join(Role.NODE))
        await peer.send(peer.hello())
        reason = await peer.farewell()
        assert reason is not None
        assert reason.startswith("not_member: wrong role")
        assert await here.node.reason() == reason


async def test_peer_that_was_revoked_before_it_came_is_reported_so_and_hung_up_on(
    members: Members,
) -> None:
    async with town(members) as here:
        evil = members.join(Role.ROUTER)
        here.node.trust.update(revoking(members, here, evil.identity.peer_id))
        peer = await here.attacker(evil)
        await peer.send(peer.hello())
        reason = await peer.farewell()
        assert reason is not None
        assert reason.startswith("not_member: revoked peer")
        assert await here.node.reason() == reason


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
        here.node.trust.update(revoking(members, here, evil.identity.peer_id))
        here.node.recheck()
        with pytest.raises(LinkLost, match="the peer closed it: not_member: revoked peer"):
            await within(asking)
        assert (await here.node.reason()).startswith("not_member: revoked peer")
        assert node_link.respond(stream, b"", [b"secret"]) is False


def revoking(members: Members, here: Town, peer: object) -> object:
    return members.owner.revoke(
        here.node.trust.revocations,
        peers=[peer],  # type: ignore[list-item]
        now=datetime.now(UTC),
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
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
    members: Members, changes: str, reason: str
) -> None:
    async with town(members) as here:
        other = members.join(Role.ROUTER)
        peer = await here.attacker()
        leaf, invite = peer.membership.chain
        lie: dict[str, object] = {
            "chain of another member": {"chain": here.router_member.chain},
            "no chain": {"chain": ()},
            "leaf alone": {"chain": (leaf,)},
            "leaf with another invite": {"chain": (leaf, other.chain[1])},
            "a thousand certificates": {"chain": (leaf, invite, *[b""] * 1000)},
            "another network": {"network": NetworkId("cm-elsewhere")},
            "another version": {"wire_version": 2},
            "no credit": {"initial_credit_bytes": 0},
        }[changes]
        await peer.send(peer.hello(**lie))
        said = await peer.farewell()
        assert said is not None
        assert said.startswith(reason)
        assert await here.node.reason() == said


async def test_another_node_behind_the_dialled_address_is_found_out(members: Members) -> None:
    async with town(members) as here:
        wanted = members.join(Role.NODE).identity.peer_id
        owner = Side(members.trust(), Role.NODE, peer=wanted)
        found = here.node_member.identity.peer_id
        with pytest.raises(LinkLost, match=f"not_member: dialled {wanted}, but {found} answered"):
            await within(here.router_endpoint.dial(here.address, owner))
        assert not owner.links
        assert f"dialled {wanted}" in await here.node.reason()


async def test_listener_with_the_chain_of_the_wanted_node_is_found_out(members: Members) -> None:
    async with town(members) as here:

        async def lie(peer: RawPeer) -> None:
            await peer.send(peer.hello(chain=here.node_member.chain))
            await peer.farewell()

        async with raw_listener(members, lie) as (_, address):
            owner = Side(members.trust(), Role.NODE, peer=here.node_member.identity.peer_id)
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


@pytest.mark.parametrize("kind", [k for k in FrameKind if k != FrameKind.HELLO] + [0, 255])
async def test_frames_before_the_hello_are_refused(members: Members, kind: int) -> None:
    async with town(members) as here:
        peer = await here.attacker()
        await peer.send(HEADER.pack(0, 0, 0, 1, kind, 0, 0))
        said = await peer.farewell()
        assert said == f"protocol_violation: the first frame is of kind {kind}, not HELLO"
        assert await here.node.reason() == said


async def test_hello_larger_than_any_honest_one_is_refused(members: Members) -> None:
    async with town(members) as here:
        peer = await here.attacker()
        await peer.send(encode_frame(FrameKind.HELLO, meta=bytes(40_000)))
        said = await peer.farewell()
        assert said == (
            "protocol_violation: a frame of 40000 bytes with 40000 of metadata; at most 32768 of metadata and "
            "262144 of body"
        )
        assert await here.node.reason() == said


async def test_caller_that_gives_up_dialling_leaves_nothing_behind(members: Members) -> None:
    async with town(members) as here:
        arrived = asyncio.Event()

        async def arrive(peer: RawPeer) -> None:
            arrived.set()
            await hold_still(peer)

        async with raw_listener(members, arrive) as (_, address):
            owner = Side(members.trust(), Role.NODE)
            dialling: Awaitable[object] = asyncio.create_task(
                here.router_endpoint.dial(address, owner)  # type: ignore[arg-type]
            )
            await within(arrived.wait())
            dialling.cancel()  # type: ignore[attr-defined]
            with pytest.raises(asyncio.CancelledError):
                await dialling
            assert await owner.reason() == "no longer wanted"


async def test_strangers_that_hold_connections_give_way_and_members_still_come_in(
    members: Members,
) -> None:
    membership = members.join(Role.NODE)
    node = Side(members.trust(), Role.ROUTER)
    transport = members.transport(membership, None, PATIENT)
    limits = ConnectionLimits(connections=16, unproven=8, unproven_of_address=8)
    server = await transport.listen(HOST, 0, lambda: node, limits=limits)
    port = server.sockets[0].getsockname()[1]
    before = open_sockets()
    strangers = [await within(asyncio.open_connection(HOST, port)) for _ in range(30)]
    await eventually(
        lambda: repr(server.limiter) == "ConnectionLimiter(8 open, 8 unproven)", repr(server)
    )
    assert server.limiter.displaced == 22
    await eventually(lambda: open_sockets() - before == 30 + 8, "not those sockets are open")
    router_membership = members.join(Role.ROUTER)
    router = Side(members.trust(), Role.NODE)
    router_endpoint = members.transport(router_membership, None, None)
    link = await within(router_endpoint.dial(f"{HOST}:{port}", router))
    assert (await within(request(link, b"still there"))).meta == b"still there"
    assert repr(server.limiter) == "ConnectionLimiter(8 open, 7 unproven)"
    more = [await within(asyncio.open_connection(HOST, port)) for _ in range(20)]
    assert (await within(request(link, b"and still"))).meta == b"and still"
    server.close()
    link.close("the test is over")
    await within(link.wait_ended())
    for _, writer in (*strangers, *more):
        writer.close()
    await eventually(
        lambda: repr(server.limiter) == "ConnectionLimiter(0 open, 0 unproven)", repr(server)
    )
    await eventually(lambda: open_sockets() <= before, "sockets are left open")


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
    assert answered == 5
    assert server.limiter.refused == 7
    server.close()
    await eventually(lambda: not node.links, "links are left")


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("a defect")])
async def test_connection_of_which_no_link_can_be_made_gives_its_place_back(
    failure: Exception, members: Members
) -> None:
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def fails() -> Link:
        raise failure

    sockets = await bind(HOST, 0, 8)
    tls = members.tls(members.join(Role.NODE), server_side=True)
    listener = LinkListener(sockets, fails, tls, ConnectionLimits(8), 1.0)
    reader, writer = await asyncio.open_connection(HOST, sockets[0].getsockname()[1])
    assert await read_to_the_end(reader) == b""
    assert repr(listener.limiter) == "ConnectionLimiter(0 open, 0 unproven)"
    assert reported == ([] if isinstance(failure, MemoryError) else [failure])
    writer.close()
    listener.close()


async def test_handshake_that_cannot_even_begin_gives_its_place_back(members: Members) -> None:
    async with town(members) as here:
        link = here.node_endpoint._link(here.node, is_dialer=False)
    sockets = await bind(HOST, 0, 8)
    no_context = cast("ssl.SSLContext", object())
    listener = LinkListener(sockets, lambda: link, no_context, ConnectionLimits(8), 1.0)
    reader, writer = await asyncio.open_connection(HOST, sockets[0].getsockname()[1])
    assert await read_to_the_end(reader) == b""
    assert repr(listener.limiter) == "ConnectionLimiter(0 open, 0 unproven)"
    writer.close()
    listener.close()
