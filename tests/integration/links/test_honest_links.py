"""Two members over real TLS: both ways, every size, many at once, cancelled, drained and hung up."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import socket

import pytest
from link_awaiting import probe, request
from link_sockets import HOST, LIMIT_S, Members, Side, Town, is_at_rest, town, within

from capamesh.protocol.errors import InvalidRequest, LinkLost, TooLarge
from capamesh.protocol.links.frames import LinkLimits
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


async def test_node_dials_a_router_and_is_asked_over_that_link(members: Members) -> None:
    async with town(members) as here:
        router, node = Side(members.trust(), Role.NODE), Side(members.trust(), Role.ROUTER)
        server = await here.router_endpoint.listen(HOST, 0, lambda: router)
        address = f"{HOST}:{server.sockets[0].getsockname()[1]}"
        dialled = await here.node_endpoint.dial(address, node)
        (accepted,) = await router.until(lambda: router.links)
        answer = await within(request(accepted, b"m", [b"x" * 50_000]))
        assert answer.body == b"x" * 50_000
        dialled.close("done")
        assert await router.reason() == "the peer closed it: done"
        server.close()


async def test_renewed_membership_is_shown_on_an_open_link_while_requests_go_on(
    members: Members,
) -> None:
    async with town(members) as here:
        asked = asyncio.create_task(request(here.link, b"give 3000000"))
        old, invite = (
            here.node_member,
            read_invite(read_authority(members.owner.ca_der), here.node_member.chain[1]),
        )
        token = members.owner.invite(
            Role.NODE,
            expires_at=old.expires_at + dt.timedelta(hours=1),
            bootstrap=(),
            now=dt.datetime.now(dt.UTC),
        )
        renewed = Membership.join(old.identity, token, dt.datetime.now(dt.UTC))
        here.node_link.introduce(here.node_endpoint.renew(renewed))
        async with asyncio.timeout(LIMIT_S):
            while here.link.member is None or here.link.member.expires_at != renewed.expires_at:
                await asyncio.sleep(0)
        assert len((await within(asked)).body) == 3_000_000
        # what shuts the old invite out leaves the link alone
        revoked = members.owner.revoke(
            RevocationList.empty(members.owner.network_id),
            invites=[invite.serial],
            now=dt.datetime.now(dt.UTC),
        )
        here.router.trust.update(revoked)
        here.router.recheck()
        answer = await within(request(here.link, b"m", [b"still there"]))
        assert answer.body == b"still there"
        again = await here.router_endpoint.dial(
            here.address, here.router
        )  # and a new one shows it at once
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


@pytest.mark.parametrize("direction", ["there", "back"])
async def test_small_request_is_answered_while_twenty_megabytes_are_under_way(
    members: Members, direction: str
) -> None:
    async with town(members) as here:
        large = (
            request(here.link, b"m", [bytes(20 * MB)])
            if direction == "there"
            else request(here.link, b"give 20000000")
        )
        transfer = asyncio.create_task(large)
        core = here.node_link._core if direction == "there" else here.link._core
        await under_way(here, lambda: core._streams.reserved_bytes > 0)
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


@pytest.mark.parametrize("meta", [b"m", b"give 30000000"])
async def test_cancelled_transfer_leaves_nothing_behind_and_the_link_goes_on(
    members: Members, meta: bytes
) -> None:
    async with town(members) as here:
        body = [bytes(30 * MB)] if meta == b"m" else []
        for _ in range(3):
            transfer = asyncio.create_task(request(here.link, meta, body))
            core = here.node_link._core if meta == b"m" else here.link._core
            await under_way(here, lambda core=core: core._streams.reserved_bytes > 0)
            transfer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await transfer
            assert (await within(request(here.link, b"next", [b"1"]))).body == b"1"
            await under_way(here, lambda: is_at_rest(here.link) and is_at_rest(here.node_link))


async def under_way(here: Town, condition: object) -> None:
    """Probe, which lets bytes flow both ways, until `condition` holds."""
    assert callable(condition)
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await probe(here.link)


async def test_owner_hears_of_a_cancelled_request_that_it_holds(members: Members) -> None:
    async with town(members) as here:
        waiting = asyncio.create_task(request(here.link, b"hold"))
        link, stream = (await here.node.until(lambda: here.node.held))[0]
        waiting.cancel()
        assert await here.node.until(lambda: list(here.node.cancelled)) == [stream]
        assert link.respond(stream, b"late", [b"answer"]) is False


async def test_error_answer_is_raised_and_one_answer_too_large_is_reported(
    members: Members,
) -> None:
    async with town(members, limits=LinkLimits(message_bytes=MB)) as here:
        asking = asyncio.create_task(request(here.link, b"hold"))
        link, stream = (await here.node.until(lambda: here.node.held))[0]
        assert link.fail(stream, InvalidRequest("no such input"))
        with pytest.raises(InvalidRequest, match="no such input"):
            await within(asking)
        with pytest.raises(TooLarge, match="a message of 1000001 bytes"):
            await within(request(here.link, b"m", [bytes(MB + 1)]))
        with pytest.raises(TooLarge, match="a message of 1000001 bytes"):
            await within(request(here.link, b"give 1000001"))


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


async def test_probe_tells_the_load_of_either_side(members: Members) -> None:
    async with town(members) as here:
        assert await within(probe(here.link)) == b"load"
        assert await within(probe(here.node_link)) == b"load"


async def test_orderly_end_tells_both_sides_why_and_fails_what_is_under_way_at_once(
    members: Members,
) -> None:
    async with town(members) as here:
        owner = Side(members.trust(), Role.NODE)
        link = await here.router_endpoint.dial(here.address, owner)
        asking = asyncio.create_task(request(link, b"hold"))
        probing = asyncio.create_task(request(link, b"hold"))
        node_link, _ = (await here.node.until(lambda: len(here.node.held) == 2 and here.node.held))[
            0
        ]
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
