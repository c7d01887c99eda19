"""Members that break the rules: each is ended for a clear reason, at a bounded cost, while others are served."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from link_awaiting import probe, request
from link_sockets import (
    BRISK,
    LIMIT_S,
    WATCHFUL,
    Members,
    RawPeer,
    Side,
    head,
    is_at_rest,
    is_of,
    message,
    raw_listener,
    town,
    within,
)
from patience import eventually

from capamesh.protocol.errors import (
    LinkLost,
    Overloaded,
    PeerError,
    TooLarge,
)
from capamesh.protocol.links.frames import END, FINAL, FrameKind, LinkLimits, encode_frame
from capamesh.protocol.links.hello import unpack_map
from capamesh.protocol.links.unawaited import MOST
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


BROKEN = {
    "four gigabytes": (
        head(2**32 - 1, kind=REQUEST, value=2**32 - 1, stream=1),
        "a frame of 4294967295",
    ),
    "metadata of four gigabytes": (
        head(2**32 - 1, 2**32 - 1, kind=REQUEST, stream=1),
        "a frame of 4294967295 bytes with 4294967295 of metadata",
    ),
    "metadata over the limit": (
        head(4 * 2**20 + 1, 4 * 2**20 + 1, kind=REQUEST, stream=1),
        "with 4194305 of metadata; at most 4194304",
    ),
    "metadata longer than the frame": (
        head(10, 11, kind=REQUEST, stream=1),
        "a frame of 10 bytes with 11",
    ),
    "a chunk over the limit": (head(256 * 1024 + 1, kind=CHUNK, stream=1), "and 262144 of body"),
    "more than announced": (
        message(REQUEST, 1, b"", b"abc", 0, total=4) + head(2, kind=CHUNK, stream=1) + b"de",
        "stream 1 sent 5 bytes of a body of 4",
    ),
    "less than announced": (
        message(REQUEST, 1, b"", b"abc", END | FINAL, total=4),
        "stream 1 ended at 3 of 4 bytes",
    ),
    "no end": (message(REQUEST, 1, b"", b"abcd", 0, total=4), "stream 1 did not end at 4 of 4"),
    "kind 0": (head(kind=0), "a frame of unknown kind 0"),
    "kind 14": (head(kind=14), "a frame of unknown kind 14"),
    "kind 255 with a body": (head(5, kind=255) + b"abcde", "a frame of kind 255 with a body"),
    "reserved bits": (head(kind=FrameKind.PING, reserved=1), "reserved field is 1"),
    "a stream of the other side": (
        message(REQUEST, 2, b"", b"", END | FINAL, 0),
        "not the peer's to open",
    ),
    "the connection's stream": (
        message(REQUEST, 0, b"", b"", END | FINAL, 0),
        "not the peer's to open",
    ),
    "one stream twice": (
        2 * message(REQUEST, 1, b"hold", b"", END | FINAL, 0),
        "a second request on open stream 1",
    ),
    "a ping with a body": (head(1, kind=FrameKind.PING) + b"x", "a frame of kind 11 with a body"),
    "a goaway that is no map": (
        encode_frame(FrameKind.GOAWAY, meta=b"\xc1"),
        "the metadata of a GOAWAY",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_rule_ends_the_link_with_its_name(members: Members, name: str) -> None:
    frames, reason = BROKEN[name]
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet()
        with memory_within(MB):
            await peer.send(frames)
            said = await peer.farewell()
        assert said is not None
        assert said.startswith("protocol_violation: ")
        assert reason in said
        assert await here.node.reason() == said


async def test_broken_rule_at_the_end_of_a_full_buffer_ends_the_link_too(
    members: Members,
) -> None:
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet()
        ping = encode_frame(FrameKind.PING)
        await peer.send(head(kind=77) + ping * 40_000)
        with suppress(OSError):
            await peer.farewell()
        assert await here.node.reason() == "protocol_violation: a frame of unknown kind 77"


async def test_farewell_of_a_megabyte_is_cut(members: Members) -> None:
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet()
        meta = pack({"reason": "x" * MB})
        await peer.send(encode_frame(FrameKind.GOAWAY, meta=meta))
        await peer.hang_up()
        assert await here.node.reason() == "the peer closed it: " + "x" * 8192


async def test_second_hello_may_bring_another_chain_and_nothing_else(members: Members) -> None:
    async with town(members) as here:
        for changes, reason in (
            ({"message_bytes": 5}, "a second HELLO that changes more than the chain"),
            ({"process": b"other"}, "a second HELLO that changes more than the chain"),
            ({"chain": here.node_member.chain}, "not_member: wrong role: "),
            ({"chain": members.join(Role.ROUTER).chain}, "introduces itself as 12D3"),
            ({"chain": ()}, "not_member: the introduction's certificate is not the one"),
        ):
            peer = await here.attacker()
            await peer.greet()
            await peer.send(peer.hello(**changes))
            said = await peer.farewell()
            assert said is not None
            assert reason in said
            assert await here.node.reason() == said


async def test_peer_of_an_earlier_release_is_shown_a_renewed_chain_on_another_link_alone(
    members: Members,
) -> None:
    """It would end the link over a second HELLO, with all requests on it."""
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet(takes_another=False)
        (link,) = [one for one in here.node.links if is_of(one, peer.membership)]
        await peer.send(message(REQUEST, 1, b"hold", b"", END | FINAL, 0))
        await here.node.until(lambda: here.node.held)
        link.introduce(here.node_endpoint.renew(here.node_member))
        assert link.is_usable
        _, stream = here.node.held.popleft()
        link.respond(stream, b"answered", [])
        while (frame := await peer.frame()).kind != RESPONSE:
            assert frame.kind != FrameKind.HELLO
        assert frame.meta == b"answered"
        link._liveness._beat()
        assert await peer.farewell() == "the membership was renewed: dial again"
        assert await here.node.reason() == "the membership was renewed: dial again"


async def test_hellos_again_and_again_end_the_link(members: Members) -> None:
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet()
        await peer.send(peer.hello() * 3)
        said = await peer.farewell()
        assert said == "protocol_violation: a second HELLO within 1 s"
        assert await here.node.reason() == said


async def test_frames_one_byte_at_a_time_are_served_like_any_others(members: Members) -> None:
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet()
        for byte in message(REQUEST, 1, b"m", b"slow", END | FINAL, 4):
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        frame = await peer.frame_of(RESPONSE)
        assert (frame.meta, frame.body) == (b"m", b"slow")
        await peer.hang_up()
        assert await here.node.reason() == "the peer closed it"


async def test_leftovers_of_streams_that_nobody_knows_are_dropped(members: Members) -> None:
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet()
        junk = b"x" * 262_144
        for stream in (0, 1, 2, 2**32 - 1):
            await peer.send(
                message(RESPONSE, stream, b"\x80", junk, 0, total=2**32 - 1),
                head(len(junk), kind=CHUNK, stream=stream) + junk,
                encode_frame(FrameKind.LOAD, stream, meta=b"\xc1"),
                encode_frame(FrameKind.ERROR, stream, meta=b"\xc1"),
                encode_frame(FrameKind.CREDIT, stream, value=2**32 - 1),
                encode_frame(FrameKind.CANCEL, stream),
            )
        await peer.send(message(REQUEST, 1, b"m", b"still", END | FINAL, 5))
        assert (await peer.frame_of(RESPONSE)).body == b"still"
        await peer.hang_up()
        await here.node.reason()


# floods


async def test_refusals_that_nobody_reads_end_the_link_at_the_send_limit(members: Members) -> None:
    async with town(members, limits=LinkLimits(send_bytes=100_000)) as here:
        peer, _ = await here.deaf_attacker()
        too_large = encode_frame(REQUEST, 1, value=2**32 - 1, flags=END | FINAL)
        sending = asyncio.create_task(keep_sending(peer, too_large * 1_000))
        # each refusal is some ten times as long as the request
        assert 100_000 < waiting_bytes(await here.node.reason()) < 100_000 + 1024 * 1024
        await sending
        await peer.reset()


def waiting_bytes(reason: str) -> int:
    count, rest = reason.split(" ", 1)
    assert rest == "bytes wait that the peer does not read"
    return int(count)


async def keep_sending(peer: RawPeer, data: bytes, limit: int = 1_000) -> None:
    with suppress(OSError):
        for _ in range(limit):
            await peer.send(data)


async def test_pings_that_are_read_are_answered_up_to_a_bound(members: Members) -> None:
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet()
        count = MOST // 2
        await peer.send(encode_frame(FrameKind.PING, value=7) * count)
        for _ in range(count):
            assert (await peer.frame_of(FrameKind.PONG)).value == 7
        await peer.hang_up()
        assert await here.node.reason() == "the peer closed it"


@pytest.mark.parametrize(
    "kind",
    [
        FrameKind.PING,
        FrameKind.PONG,
        FrameKind.PROBE,
        FrameKind.CANCEL,
        FrameKind.CREDIT,
        FrameKind.RELEASE,
        FrameKind.LOAD,
    ],
)
async def test_flood_of_what_nobody_awaits_ends_its_link_alone(
    members: Members, kind: FrameKind
) -> None:
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet()
        reading = asyncio.create_task(read_all(peer))
        sending = asyncio.create_task(keep_sending(peer, encode_frame(kind, 99) * 1_000, 10_000))
        served = 0
        while not sending.done():
            assert (await within(request(here.link, b"m", [b"x"]))).body == b"x"
            served += 1
        assert served > 0
        assert "more frames that nobody awaits" in await here.node.reason()
        assert (await within(request(here.link, b"m", [b"y"]))).body == b"y"
        await sending
        await reading


async def read_all(peer: RawPeer) -> None:
    with suppress(OSError):
        while await within(peer.reader.read(1 << 20)):
            pass


async def test_answers_that_nobody_reads_become_errors_at_the_send_limit(members: Members) -> None:
    async with town(members, limits=LinkLimits(send_bytes=8 * MB)) as here:
        peer, _ = await here.deaf_attacker(initial_credit_bytes=1 << 28)
        node = here.node
        with memory_within(24 * MB):
            for count in range(1, 7):
                give = message(REQUEST, 2 * count - 1, b"give 2000000", b"", END | FINAL, 0)
                await peer.send(give)
                await node.until(lambda count=count: node.requests == count)
            (link,) = node.links - {here.node_link}
            assert 4 * MB < link._core.queued_bytes <= 8 * MB
            assert not node.reasons
        await peer.reset()
        await node.reason()


async def test_answers_without_credit_wait_and_a_cancel_forgets_them(members: Members) -> None:
    async with town(members) as here:
        peer = await here.attacker()
        await peer.greet(initial_credit_bytes=1)
        await peer.send(message(REQUEST, 1, b"give 2000000", b"", END | FINAL, 0))
        assert len((await peer.frame_of(RESPONSE)).body) == 1
        (link,) = here.node.links - {here.node_link}
        assert link._core.queued_bytes == 2 * MB - 1
        await peer.send(encode_frame(FrameKind.CREDIT, 1, value=10))
        assert len((await peer.frame_of(CHUNK)).body) == 10
        await peer.send(encode_frame(FrameKind.CANCEL, 1), encode_frame(FrameKind.PING))
        await peer.frame_of(FrameKind.PONG)
        assert is_at_rest(link)
        await peer.hang_up()
        await here.node.reason()


async def test_streams_over_the_limit_are_refused_and_the_others_still_answered(
    members: Members,
) -> None:
    async with town(members, limits=LinkLimits(streams=4)) as here:
        peer = await here.attacker()
        await peer.greet()
        for stream in range(1, 11, 2):
            await peer.send(message(REQUEST, stream, b"hold", b"", END | FINAL, 0))
        refused = await peer.frame_of(FrameKind.ERROR)
        assert refused.stream == 9
        assert unpack_map(refused.meta, "ERROR")["code"] == Overloaded.code
        link, stream = here.node.held[0]
        link.respond(stream, b"", [b"here"])
        assert (await peer.frame_of(RESPONSE)).body == b"here"
        await peer.send(message(REQUEST, 11, b"m", b"room again", END | FINAL, 10))
        assert (await peer.frame_of(RESPONSE)).body == b"room again"
        await peer.hang_up()
        await here.node.reason()
        assert "0 bytes" in repr(link)


async def test_bodies_over_the_receive_limit_are_refused_before_memory_is_taken(
    members: Members,
) -> None:
    limits = LinkLimits(message_bytes=4 * MB, receive_bytes=6 * MB)
    async with town(members, limits=limits) as here:
        peer = await here.attacker()
        await peer.greet()
        with memory_within(9 * MB):
            for stream in range(1, 401, 2):
                await peer.send(message(REQUEST, stream, b"", b"x", 0, total=3 * MB))
            await peer.send(message(REQUEST, 401, b"", b"x", 0, total=4 * MB + 1))
            codes = [await error_code(peer) for _ in range(199)]
        assert codes == [Overloaded.code] * 198 + [TooLarge.code]
        # what is left of a refused body comes all the same, and is not kept
        await peer.send(head(100_000, kind=CHUNK, stream=399) + bytes(100_000))
        (link,) = here.node.links - {here.node_link}
        assert link._core._streams.reserved_bytes == 6 * MB
        for stream in (1, 3):
            await peer.send(encode_frame(FrameKind.CANCEL, stream))
        await peer.send(message(REQUEST, 403, b"m", b"room", END | FINAL, 4))
        assert (await peer.frame_of(RESPONSE)).body == b"room"
        assert is_at_rest(link)
        await peer.hang_up()
        await here.node.reason()


async def error_code(peer: RawPeer) -> str:
    return str(unpack_map((await peer.frame_of(FrameKind.ERROR)).meta, "ERROR")["code"])


# peers that fall silent


async def test_frozen_peer_is_given_up_after_the_silence_that_is_borne(members: Members) -> None:
    async with town(members, times=WATCHFUL) as here:
        peer, _ = await here.deaf_attacker()
        reason = await here.node.reason()
        assert re.match(r"silent for \d", reason)
        await peer.reset()


async def test_frozen_peer_with_requests_in_flight_fails_them_with_the_reason(
    members: Members,
) -> None:
    async def freeze(peer: RawPeer) -> None:
        await peer.greet()
        await thawed.wait()

    thawed = asyncio.Event()
    async with town(members, times=WATCHFUL) as here, raw_listener(members, freeze) as (_, address):
        link = await here.router_endpoint.dial(address, Side(members.trust(), Role.NODE))
        asking = [asyncio.create_task(request(link, b"m", [bytes(MB)])) for _ in range(20)]
        asking.append(asyncio.create_task(probe(link)))  # type: ignore[arg-type]
        for waiting in asking:
            with pytest.raises(LinkLost, match=r"ended: silent for \d"):
                await within(waiting)
        thawed.set()


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
        asking = asyncio.create_task(request(link, b"m", [bytes(30 * MB)]))
        await eventually(lambda: link._writer.is_paused, "never paused")
        link._liveness._times = BRISK
        link.close("no longer wanted")
        for _ in range(10):  # turns of the loop alone: it waits for no socket and no time
            await asyncio.sleep(0)
        assert asking.done()
        with pytest.raises(LinkLost, match="no longer wanted"):
            await asking
        assert await within(link.wait_ended()) == "no longer wanted"
        thawed.set()


# nodes that answer what nobody asked


async def test_early_answer_frees_what_was_still_to_be_sent(members: Members) -> None:
    async def answer_early(peer: RawPeer) -> None:
        await peer.greet(initial_credit_bytes=1)
        while True:
            frame = await peer.frame_of(REQUEST)
            await peer.send(message(RESPONSE, frame.stream, b"m", b"early", END | FINAL, 5))

    async with (
        town(members) as here,
        raw_listener(members, forgiving(answer_early)) as (_, address),
    ):
        link = await here.router_endpoint.dial(address, Side(members.trust(), Role.NODE))
        for _ in range(5):
            assert (await within(request(link, b"m", [bytes(MB)]))).body == b"early"
            assert is_at_rest(link)
        link.close("done")
        await within(link.wait_ended())


def forgiving(serve: object) -> object:
    """A peer whose connection ends while it serves has simply been hung up on."""

    async def served(peer: RawPeer) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(peer)  # type: ignore[operator]

    return served


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(REQUEST, "a load for the request on stream 1"), (FrameKind.PROBE, "a response to the probe")],
)
async def test_answer_of_the_wrong_kind_ends_the_link_and_the_wait(
    members: Members, kind: FrameKind, reason: str
) -> None:
    async def confuse(peer: RawPeer) -> None:
        await peer.greet()
        stream = (await peer.frame_of(kind)).stream
        if kind == REQUEST:
            await peer.send(encode_frame(FrameKind.LOAD, stream, meta=b"x"))
        else:
            await peer.send(message(RESPONSE, stream, b"", b"", END | FINAL, 0))
        await peer.farewell()

    async with town(members) as here, raw_listener(members, confuse) as (_, address):
        link = await here.router_endpoint.dial(address, Side(members.trust(), Role.NODE))
        asking = request(link, b"m") if kind == REQUEST else probe(link)
        with pytest.raises(LinkLost, match=f"protocol_violation: {reason}"):
            await within(asking)
        await within(link.wait_ended())


async def test_answer_without_end_fails_once_and_leaves_no_stream_open(
    members: Members,
) -> None:
    async def go_on(peer: RawPeer) -> None:
        await peer.greet()
        stream = (await peer.frame_of(REQUEST)).stream
        await peer.send(*[message(RESPONSE, stream, b"m", b"%d" % n, END, 1) for n in range(3)])
        assert (await peer.frame_of(FrameKind.CANCEL)).stream == stream
        await peer.farewell()

    async with town(members) as here, raw_listener(members, go_on) as (_, address):
        link = await here.router_endpoint.dial(address, Side(members.trust(), Role.NODE))
        with pytest.raises(PeerError, match="a whole answer was asked for"):
            await within(request(link, b"m"))
        async with asyncio.timeout(LIMIT_S):
            while not is_at_rest(link):  # the cancellation is on its way
                await asyncio.sleep(0)
        link.close("done")
        await within(link.wait_ended())


async def test_answers_over_the_receive_limit_fail_alone_and_are_the_peers_fault(
    members: Members,
) -> None:
    async def give(peer: RawPeer) -> None:
        await peer.greet()
        for total in (3 * MB, 3 * MB, 4 * MB + 1):
            stream = (await peer.frame_of(REQUEST)).stream
            await peer.send(message(RESPONSE, stream, b"", b"x", 0, total=total))
        await peer.farewell()

    limits = LinkLimits(message_bytes=4 * MB, receive_bytes=4 * MB)
    async with (
        town(members, limits=limits) as here,
        raw_listener(members, forgiving(give)) as (_, address),
    ):
        link = await here.router_endpoint.dial(address, Side(members.trust(), Role.NODE))
        first = asyncio.create_task(request(link, b"m"))
        await eventually(lambda: link._core._streams.reserved_bytes == 3 * MB, "no first answer")
        with pytest.raises(PeerError, match="3000000 bytes are being received; no room"):
            await within(request(link, b"m"))
        with pytest.raises(TooLarge, match="an answer of 4000001 bytes"):
            await within(request(link, b"m"))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert link._core._streams.reserved_bytes == 0
        link.close("done")
        await within(link.wait_ended())


async def test_request_over_the_limit_is_refused_at_once_and_the_link_goes_on(
    members: Members,
) -> None:
    async with town(members, limits=LinkLimits(send_bytes=20 * MB)) as here:
        asking = [asyncio.create_task(request(here.link, b"m", [bytes(6 * MB)])) for _ in range(5)]
        ended = await within(asyncio.gather(*asking, return_exceptions=True))
        refused = [one for one in ended if isinstance(one, Overloaded)]
        assert "no room for 6000000 more within 20000000" in refused[0].message
        assert len(refused) == 2
        assert [len(one.body) for one in ended if not isinstance(one, Exception)] == [6 * MB] * 3
