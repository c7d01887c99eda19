"""Members that break the rules over real TLS: each is ended for a clear reason, at a bounded cost, while others are served.

All that a core alone refuses is in `tests/unit/protocol/links`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from awaited_calls import request
from link_sockets import (
    BRISK,
    LIMIT_S,
    WATCHFUL,
    Members,
    RawPeer,
    Side,
    Town,
    head,
    is_at_rest,
    is_of,
    message,
    raw_listener,
    town,
    within,
)
from patience import until

from capamesh.protocol.errors import LinkLost, Overloaded, TooLarge
from capamesh.protocol.links.frames import END, FINAL, FrameKind, LinkLimits, encode_frame
from capamesh.protocol.links.hello import unpack_map
from capamesh.protocol.msgpack_codec import pack
from capamesh.protocol.network import Role

MB = 1_000_000
REQUEST, RESPONSE, CHUNK = FrameKind.REQUEST, FrameKind.RESPONSE, FrameKind.CHUNK


@contextmanager
def memory_within(limit_bytes: int) -> Iterator[None]:
    """Fail when more Python memory than this comes in use at any time."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < limit_bytes


async def greeted(here: Town) -> RawPeer:
    peer = await here.attacker()
    await peer.greet()
    return peer


async def ended(here: Town, peer: RawPeer) -> str:
    """Return why the node has ended a link, which it also told the peer."""
    said = await peer.farewell()
    assert said is not None
    assert await here.node.reason() == said
    return said


def asking(stream: int, meta: bytes, body: bytes = b"") -> bytes:
    """Return a whole request."""
    return message(REQUEST, stream, meta, body, END | FINAL, len(body))


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (head(2**32 - 1, kind=REQUEST, value=2**32 - 1, stream=1), "a frame of 4294967295"),
        (head(2**32 - 1, 2**32 - 1, kind=REQUEST, stream=1), "with 4294967295 of metadata"),
        (head(2**22 + 1, 2**22 + 1, kind=REQUEST, stream=1), "4194305 of metadata; at most"),
        (head(10, 11, kind=REQUEST, stream=1), "a frame of 10 bytes with 11"),
        (head(256 * 1024 + 1, kind=CHUNK, stream=1), "and 262144 of body"),
        (head(kind=0), "a frame of unknown kind 0"),
        (head(kind=14), "a frame of unknown kind 14"),
        (head(5, kind=255) + b"abcde", "a frame of kind 255 with a body"),
        (2 * asking(1, b"hold"), "a second request on open stream 1"),
        (message(REQUEST, 1, b"", b"abcd", 0, total=4), "stream 1 did not end at 4 of 4"),
    ],
)
async def test_broken_rule_ends_the_link_with_its_name(
    members: Members, frames: bytes, reason: str
) -> None:
    async with town(members) as here:
        peer = await greeted(here)
        with memory_within(MB):
            await peer.send(frames)
            said = await ended(here, peer)
        assert said.startswith("protocol_violation: ")
        assert reason in said


async def test_broken_rule_at_the_end_of_a_full_buffer_ends_the_link_too(
    members: Members,
) -> None:
    async with town(members) as here:
        peer = await greeted(here)
        await peer.send(head(kind=77) + encode_frame(FrameKind.PING) * 40_000)
        with suppress(OSError):
            await peer.farewell()
        assert await here.node.reason() == "protocol_violation: a frame of unknown kind 77"


async def test_farewell_of_a_megabyte_is_cut(members: Members) -> None:
    async with town(members) as here:
        peer = await greeted(here)
        await peer.send(encode_frame(FrameKind.GOAWAY, meta=pack({"reason": "x" * MB})))
        await peer.hang_up()
        assert await here.node.reason() == "the peer closed it: " + "x" * 8192


async def test_second_hello_may_bring_another_chain_and_nothing_else(members: Members) -> None:
    async with town(members) as here:
        for changes, reason in (
            ({"process": b"other"}, "a second HELLO that changes more than the chain"),
            ({"chain": here.node_member.chain}, "not_member: wrong role: "),
            ({"chain": members.join(Role.ROUTER).chain}, "introduces itself as 12D3"),
            ({"chain": ()}, "not_member: the introduction's certificate is not the one"),
        ):
            peer = await greeted(here)
            await peer.send(peer.hello(**changes))
            assert reason in await ended(here, peer)
        peer = await greeted(here)
        await peer.send(peer.hello() * 3)
        assert await ended(here, peer) == "protocol_violation: a second HELLO within 1 s"


async def test_peer_of_an_earlier_release_is_shown_a_renewed_chain_on_another_link_alone(
    members: Members,
) -> None:
    """It would end the link over a second HELLO, with all requests on it."""
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet(takes_another=False)
        (link,) = [one for one in here.node.links if is_of(one, peer.membership)]
        await peer.send(asking(1, b"hold"))
        await here.node.until(lambda: here.node.held)
        link.introduce(here.node_endpoint.renew(here.node_member))
        assert link.is_usable
        _, stream = here.node.held.popleft()
        link.respond(stream, b"answered", [])
        while (frame := await peer.frame()).kind != RESPONSE:
            assert frame.kind != FrameKind.HELLO
        assert frame.meta == b"answered"
        link._liveness._beat()
        assert await ended(here, peer) == "the membership was renewed: dial again"


# floods


async def test_refusals_that_nobody_reads_end_the_link_at_the_send_limit(members: Members) -> None:
    async with town(members, limits=LinkLimits(send_bytes=100_000)) as here:
        peer, _ = await here.deaf_attacker()
        too_large = encode_frame(REQUEST, 1, value=2**32 - 1, flags=END | FINAL)
        sending = asyncio.create_task(keep_sending(peer, too_large * 1_000))
        count, rest = (await here.node.reason()).split(" ", 1)
        assert rest == "bytes wait that the peer does not read"
        # each refusal is some ten times as long as the request
        assert 100_000 < int(count) < 100_000 + 1024 * 1024
        await sending
        await peer.reset()


async def keep_sending(peer: RawPeer, data: bytes) -> None:
    with suppress(OSError):
        for _ in range(10_000):
            await peer.send(data)


@pytest.mark.parametrize("kind", [FrameKind.PING, FrameKind.PROBE, FrameKind.CANCEL])
async def test_flood_of_what_nobody_awaits_ends_its_link_alone(
    members: Members, kind: FrameKind
) -> None:
    async with town(members) as here:
        peer = await greeted(here)
        reading = asyncio.create_task(read_all(peer))
        sending = asyncio.create_task(keep_sending(peer, encode_frame(kind, 99) * 1_000))
        served = 0
        while not sending.done():
            assert (await within(request(here.link, b"m", [b"x"]))).body == b"x"
            served += 1
        assert served > 0
        assert "more frames that nobody awaits" in await here.node.reason()
        await reading


async def read_all(peer: RawPeer) -> None:
    with suppress(OSError):
        while await within(peer.reader.read(1 << 20)):
            pass


async def test_answers_that_nobody_reads_become_errors_at_the_send_limit(members: Members) -> None:
    async with town(members, limits=LinkLimits(send_bytes=8 * MB)) as here:
        peer, link = await here.deaf_attacker(initial_credit_bytes=1 << 28)
        node = here.node
        with memory_within(24 * MB):
            for count in range(1, 7):
                await peer.send(asking(2 * count - 1, b"give 2000000"))
                await node.until(lambda count=count: node.requests == count)
            assert 4 * MB < link._core.queued_bytes <= 8 * MB
            assert not node.reasons
        await peer.reset()
        await node.reason()


async def test_bodies_over_the_receive_limit_are_refused_before_memory_is_taken(
    members: Members,
) -> None:
    limits = LinkLimits(message_bytes=4 * MB, receive_bytes=6 * MB)
    async with town(members, limits=limits) as here:
        peer = await greeted(here)
        with memory_within(9 * MB):
            for stream in range(1, 401, 2):
                await peer.send(message(REQUEST, stream, b"", b"x", 0, total=3 * MB))
            await peer.send(message(REQUEST, 401, b"", b"x", 0, total=4 * MB + 1))
            errors = [(await peer.frame_of(FrameKind.ERROR)).meta for _ in range(199)]
        codes = [unpack_map(meta, "ERROR")["code"] for meta in errors]
        assert codes == [Overloaded.code] * 198 + [TooLarge.code]
        # what is left of a refused body comes all the same, and is not kept
        await peer.send(head(100_000, kind=CHUNK, stream=399) + bytes(100_000))
        (link,) = here.node.links - {here.node_link}
        assert link._core._streams.reserved_bytes == 6 * MB
        await peer.send(encode_frame(FrameKind.CANCEL, 1), encode_frame(FrameKind.CANCEL, 3))
        await peer.send(asking(403, b"m", b"room"))
        assert (await peer.frame_of(RESPONSE)).body == b"room"
        assert is_at_rest(link)
        await peer.hang_up()
        await here.node.reason()


async def test_closing_a_link_whose_peer_reads_nothing_ends_it_all_the_same(
    members: Members,
) -> None:
    async def freeze(peer: RawPeer) -> None:
        await peer.greet(initial_credit_bytes=1 << 28)
        await thawed.wait()

    thawed = asyncio.Event()
    async with town(members, times=BRISK) as here, raw_listener(members, freeze) as (_, address):
        # until it is closed, a link of a busy machine has time for its handshake and may be silent
        patient = dataclasses.replace(WATCHFUL, silent_s=LIMIT_S)
        transport = members.transport(here.router_member, None, patient)
        link = await transport.dial(address, Side(members.trust(), Role.NODE))
        asked = asyncio.create_task(request(link, b"m", [bytes(30 * MB)]))
        await until(lambda: link._writer.is_paused, "never paused")
        link._liveness._times = BRISK
        link.close("no longer wanted")
        for _ in range(10):  # turns of the loop alone: it waits for no socket and no time
            await asyncio.sleep(0)
        assert asked.done()
        with pytest.raises(LinkLost, match="no longer wanted"):
            await asked
        assert await within(link.wait_ended()) == "no longer wanted"
        thawed.set()


async def test_early_answer_frees_what_was_still_to_be_sent(members: Members) -> None:
    async def answer_early(peer: RawPeer) -> None:
        await peer.greet(initial_credit_bytes=1)
        with suppress(OSError, asyncio.IncompleteReadError):  # it is hung up on in the end
            while True:
                frame = await peer.frame_of(REQUEST)
                await peer.send(message(RESPONSE, frame.stream, b"m", b"early", END | FINAL, 5))

    async with town(members) as here, raw_listener(members, answer_early) as (_, address):
        link = await here.router_endpoint.dial(address, Side(members.trust(), Role.NODE))
        for _ in range(5):
            assert (await within(request(link, b"m", [bytes(MB)]))).body == b"early"
            assert is_at_rest(link)
        link.close("done")
        await within(link.wait_ended())
