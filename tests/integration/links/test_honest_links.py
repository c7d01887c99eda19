"""Two members over real TLS: both ways, every size, many at once, cancelled, drained and hung up."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import socket
from collections.abc import Callable

import pytest
from awaited_calls import probe, request
from link_sockets import Members, Side, Town, is_at_rest, town, within
from patience import LIMIT_S

from capamesh.protocol.errors import LinkLost
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.liveness import LinkTimes
from capamesh.protocol.links.writer import UNSENT_BYTES
from capamesh.protocol.network import Membership, RevocationList, Role
from capamesh.protocol.network.authority import read_authority
from capamesh.protocol.network.chain import read_invite

KIB, MB = 1024, 1_000_000


async def test_dialer_and_the_acceptor_both_ask_over_one_link(members: Members) -> None:
    async with town(members) as here:
        there = await within(request(here.link, b"to the node", [b"abc", memoryview(b"def")]))
        back = await within(request(here.node_link, b"to the router", [b"ghi"]))
        assert (there.meta, bytes(there.body)) == (b"to the node", b"abcdef")
        assert (back.meta, bytes(back.body)) == (b"to the router", b"ghi")
        for end in (here.link, here.node_link):
            assert await within(probe(end)) == b"load"


async def test_renewed_membership_is_shown_on_an_open_link_while_requests_go_on(
    members: Members,
) -> None:
    async with town(members) as here:
        asked = asyncio.create_task(request(here.link, b"give 3000000"))
        old, now, owner = here.node_member, dt.datetime.now(dt.UTC), members.owner
        ends_at = old.expires_at + dt.timedelta(hours=1)
        token = owner.invite(Role.NODE, expires_at=ends_at, bootstrap=(), now=now)
        renewed = Membership.join(old.identity, token, now)
        here.node_link.introduce(here.node_endpoint.renew(renewed))
        async with asyncio.timeout(LIMIT_S):
            while here.link.member is None or here.link.member.expires_at != renewed.expires_at:
                await asyncio.sleep(0)
        assert len((await within(asked)).body) == 3_000_000
        # what shuts the old invite out leaves the link alone
        invite = read_invite(read_authority(owner.ca_der), old.chain[1])
        nothing = RevocationList.empty(owner.network_id)
        here.router.trust.update(owner.revoke(nothing, invites=[invite.serial], now=now))
        here.router.recheck()
        answer = await within(request(here.link, b"m", [b"still there"]))
        assert answer.body == b"still there"
        # and a new one shows it at once
        again = await here.router_endpoint.dial(here.address, here.router)
        assert again.member is not None
        assert again.member.expires_at == renewed.expires_at
        again.close("done")
        await within(again.wait_ended())
        await here.node.until(lambda: len(here.node.links) == 1)
        await here.router.until(lambda: len(here.router.links) == 1)


@pytest.mark.parametrize("size", [0, KIB, 600 * KIB, 5 * MB])
async def test_body_of_any_size_comes_back_as_it_was(members: Members, size: int) -> None:
    body = random.Random(size).randbytes(size)
    async with town(members) as here:
        for end in (here.link, here.node_link):
            answer = await within(request(end, b"m", [body]))
            assert answer.body == body


async def test_two_hundred_requests_of_mixed_sizes_at_once_come_back_to_whom_they_belong(
    members: Members,
) -> None:
    seeded = random.Random(7)
    sizes = [seeded.choice([0, 1, KIB, 16 * KIB, 16 * KIB + 1, 300 * KIB]) for _ in range(198)]
    sizes += [3 * MB, 5 * MB]
    seeded.shuffle(sizes)
    async with town(members) as here:
        ends = (here.link, here.node_link)

        async def ask(number: int, size: int) -> None:
            body = random.Random(number).randbytes(size)
            answer = await request(ends[number % 2], b"%d" % number, [body[:7], body[7:]])
            assert answer.meta == b"%d" % number
            assert answer.body == body

        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
            for number, size in enumerate(sizes):
                tasks.create_task(ask(number, size))


def transferring(here: Town, size: int, direction: str) -> tuple[asyncio.Task[Answer], Link]:
    """Send or fetch so many bytes; return the task, and the end that receives them."""
    if direction == "there":
        return asyncio.create_task(request(here.link, b"m", [bytes(size)])), here.node_link
    return asyncio.create_task(request(here.link, b"give %d" % size)), here.link


async def under_way(here: Town, condition: Callable[[], bool]) -> None:
    """Probe, which lets bytes flow both ways, until `condition` holds."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await probe(here.link)


@pytest.mark.parametrize("direction", ["there", "back"])
async def test_small_request_is_answered_while_twenty_megabytes_are_under_way(
    members: Members, direction: str
) -> None:
    async with town(members) as here:
        transfer, receiver = transferring(here, 20 * MB, direction)
        await under_way(here, lambda: receiver._core._streams.reserved_bytes > 0)
        answers = 0
        while not transfer.done() and answers < 3:
            assert (await within(request(here.link, b"s", [bytes(KIB)]))).body == bytes(KIB)
            answers += not transfer.done()
        assert answers == 3
        assert len((await within(transfer)).body) == 20 * MB


async def test_little_is_handed_to_the_kernel_ahead_of_a_small_message(members: Members) -> None:
    async with town(members) as here:
        for end in (here.link, here.node_link):
            assert end._transport is not None
            plain = end._transport.get_extra_info("socket")
            unsent = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
            assert unsent == UNSENT_BYTES


@pytest.mark.parametrize("direction", ["there", "back"])
async def test_cancelled_transfer_leaves_nothing_behind_and_the_link_goes_on(
    members: Members, direction: str
) -> None:
    async with town(members) as here:
        for _ in range(3):
            transfer, receiver = transferring(here, 30 * MB, direction)
            await under_way(here, lambda to=receiver: to._core._streams.reserved_bytes > 0)
            transfer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await transfer
            assert (await within(request(here.link, b"next", [b"1"]))).body == b"1"
            await under_way(here, lambda: is_at_rest(here.link) and is_at_rest(here.node_link))


async def test_goaway_lets_what_is_under_way_finish_and_says_why(members: Members) -> None:
    async with town(members) as here:
        before = asyncio.create_task(request(here.link, b"hold"))
        link, stream = (await here.node.until(lambda: here.node.held))[0]
        link.goaway("draining")
        assert await here.router.until(lambda: list(here.router.goaways)) == ["draining"]
        assert here.link.is_draining
        assert not here.link.is_usable
        assert link.respond(stream, b"late", [b"but here"])
        assert (await within(before)).body == b"but here"
        assert link.is_quiet


async def test_orderly_end_tells_both_sides_why_and_fails_what_is_under_way_at_once(
    members: Members,
) -> None:
    async with town(members) as here:
        owner = Side(members.trust(), Role.NODE)
        link = await here.router_endpoint.dial(here.address, owner)
        asking = asyncio.create_task(request(link, b"hold"))
        probing = asyncio.create_task(request(link, b"hold"))
        held = await here.node.until(lambda: len(here.node.held) == 2 and here.node.held)
        node_link, _ = held[0]
        asked_back = asyncio.create_task(request(node_link, b"hold"))
        await owner.until(lambda: owner.held)
        link.close("moving house")
        for waiting in (asking, probing):
            with pytest.raises(LinkLost, match="moving house"):
                await within(waiting)
        with pytest.raises(LinkLost, match="moving house"):
            await within(request(link, b"m"))
        with pytest.raises(LinkLost, match="the peer closed it: moving house"):
            await within(asked_back)
        assert await within(link.wait_ended()) == "moving house"
        assert await owner.reason() == "moving house"
        assert await here.node.reason() == "the peer closed it: moving house"
        assert list(here.node.goaways) == ["moving house"]


async def test_round_trip_of_every_ping_is_reported(members: Members) -> None:
    async with town(members, times=LinkTimes(ping_every_s=0.02)) as here:
        reported: list[float] = []
        enough = asyncio.Event()

        def tell(seconds: float, now_s: float) -> None:
            assert now_s <= asyncio.get_running_loop().time()
            reported.append(seconds)
            if len(reported) == 3:
                enough.set()

        here.link.on_round_trip = tell
        await within(enough.wait())
        here.link.on_round_trip = None
        assert all(0 < seconds < LIMIT_S for seconds in reported)
