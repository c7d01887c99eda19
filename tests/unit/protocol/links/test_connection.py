"""Two cores joined back to back: messages in turns within their credit, parts, budgets, and whatever a peer may send."""

from __future__ import annotations

import contextlib
import dataclasses
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from link_wire import Wire, feed, greeted, hello, limits

from capamesh.protocol.errors import (
    Overloaded,
    PeerError,
    ProtocolViolation,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.links.connection import Connection
from capamesh.protocol.links.events import (
    ErrorReceived,
    Event,
    GoawayReceived,
    HelloReceived,
    LoadReceived,
    PartsReleased,
    PongReceived,
    ProbeReceived,
    RequestReceived,
    ResponseReceived,
)
from capamesh.protocol.links.frames import END, FINAL, HEADER, FrameKind, LinkLimits, encode_frame
from capamesh.protocol.links.held_parts import PART_BYTES, HeldParts
from capamesh.protocol.links.outgoing import SMALL_BYTES, Outgoing
from capamesh.protocol.links.reasons import goaway_frame
from capamesh.protocol.links.receive_budget import ReceiveBudget
from capamesh.protocol.links.streams import MAX_STREAM, Streams
from capamesh.protocol.links.unawaited import MOST, SMALL_CHUNK_BYTES

EMPTY = "Connection(0 asked, 0 serving, 0 receiving, 0 bytes)"
WHOLE = END | FINAL
OTHER_HELLO = encode_frame(FrameKind.HELLO, meta=hello(LinkLimits(message_bytes=1)).encode())


def asked(dialer: LinkLimits | None = None, acceptor: LinkLimits | None = None) -> tuple[Wire, int]:
    """Return a wire on which one request was asked, and its stream."""
    wire = greeted(dialer=dialer, acceptor=acceptor)
    stream = wire.dialer.ask(b"")
    wire.settle()
    return wire, stream


def response(stream: int, meta: bytes = b"", body: bytes = b"") -> ResponseReceived:
    return ResponseReceived(stream, meta, memoryview(body), True)


def head(kind: int, stream: int, payload: int = 0, value: int = 0, flags: int = 0) -> bytes:
    return HEADER.pack(payload, 0, value, stream, kind, flags, 0)


# messages


def test_peer_may_introduce_itself_again_by_another_chain_while_requests_are_under_way() -> None:
    wire = greeted()
    stream = wire.dialer.ask(b"meta", [bytes(600_000)])
    again = dataclasses.replace(hello(LinkLimits()), chain=(b"new leaf", b"new invite"))
    wire.acceptor.introduce(again)
    received = RequestReceived(stream, b"meta", memoryview(bytes(600_000)))
    assert wire.settle() == ([HelloReceived(again)], [received])
    assert wire.acceptor.respond(stream, b"answer", [])
    assert wire.settle()[0] == [response(stream, b"answer")]


def test_large_messages_take_turns_by_chunks() -> None:
    wire = greeted()
    first = wire.dialer.ask(b"", [bytes(700_000)])
    second = wire.dialer.ask(b"", [bytes(300_000)])
    order = []
    while wire.dialer.has_output():
        parts = wire.dialer.take(1)
        order += [HEADER.unpack(part)[3] for part in parts if len(part) == HEADER.size]
    assert order == [first, second, first, second, first]


def test_no_more_than_the_credit_is_sent_until_the_receiver_grants_it() -> None:
    wire = greeted(acceptor=limits(initial_credit_bytes=300_000))
    wire.dialer.ask(b"", [bytes(1_000_000)])
    sent = sum(len(part) for _ in range(10) for part in wire.dialer.take(1 << 30))
    assert 300_000 <= sent < 300_100
    assert (wire.dialer.has_output(), wire.dialer.queued_bytes) == (False, 700_000)


def test_cancel_while_a_message_is_sent_or_crosses_the_answer_loses_nothing_else() -> None:
    wire = greeted()
    stream = wire.dialer.ask(b"", [bytes(5_000_000)])
    wire.step(wire.dialer, wire.acceptor, budget=1)
    wire.dialer.cancel(stream)
    assert (wire.settle(), repr(wire.acceptor)) == (([], []), EMPTY)
    stream, other = wire.dialer.ask(b""), wire.dialer.ask(b"")
    wire.settle()
    wire.acceptor.respond(stream, b"late", [bytes(800_000)])
    wire.acceptor.respond(other, b"kept", [bytes(800_000)])
    wire.step(wire.acceptor, wire.dialer, budget=1)
    wire.dialer.cancel(stream)
    assert wire.settle()[0] == [response(other, b"kept", bytes(800_000))]
    assert (repr(wire.dialer), wire.acceptor.queued_bytes) == (EMPTY, 0)


def test_probe_ping_and_goaway() -> None:
    wire = greeted()
    stream = wire.dialer.probe(b"m")
    wire.dialer.ping(77)
    wire.acceptor.goaway("upgrade")
    told = [GoawayReceived("upgrade"), PongReceived(77)]
    assert wire.settle() == (told, [ProbeReceived(stream, b"m")])
    wire.acceptor.send_load(stream, b"load")
    assert wire.settle()[0] == [LoadReceived(stream, b"load")]
    wire.acceptor.send_load(stream, b"a leftover")
    wire.acceptor.send_load(0, b"told unasked")
    assert wire.settle()[0] == [LoadReceived(0, b"told unasked")]
    assert wire.dialer.is_idle


def test_numbers_of_streams_wrap_around_past_those_in_use() -> None:
    for is_dialer, numbers in ((True, [1, MAX_STREAM, 3]), (False, [2, MAX_STREAM - 1, 4])):
        side = Streams(
            Outgoing(1000), limits(), is_dialer=is_dialer, budget=None, on_output=lambda: None
        )
        first = side.open()
        side._next_stream = numbers[1]
        assert [first, side.open(), side.open()] == numbers


# answers in parts


def test_next_part_has_room_only_once_enough_of_those_before_is_released() -> None:
    wire, stream = asked(dialer=limits(part_window_bytes=4 * PART_BYTES))
    for _ in range(4):
        assert wire.acceptor.has_part_room(stream)
        wire.acceptor.respond(stream, b"", [], is_final=False)
    assert not wire.acceptor.has_part_room(stream)
    assert len(wire.settle()[0]) == 4
    wire.dialer.release(stream, 0)
    assert wire.settle() == ([], [PartsReleased(stream)])
    assert wire.acceptor.has_part_room(stream)
    wire.dialer.release(stream, 0)
    assert wire.settle() == ([], [])  # it has room already
    wire.acceptor._receiver._released(stream, 2**32 - 1)  # a peer that makes it up gains nothing
    for _ in range(4):
        assert wire.acceptor.has_part_room(stream)
        wire.acceptor.respond(stream, b"", [], is_final=False)
    assert not wire.acceptor.has_part_room(stream)


def test_part_is_sent_whatever_its_size_where_none_is_held() -> None:
    wire, stream = asked(dialer=limits(part_window_bytes=1))
    for _ in range(3):
        assert wire.acceptor.has_part_room(stream)
        wire.acceptor.respond(stream, b"", [bytes(300_000)], is_final=False)
        assert not wire.acceptor.has_part_room(stream)
        (part,), _ = wire.settle()
        assert isinstance(part, ResponseReceived)
        wire.dialer.release(stream, len(part.body))
        assert wire.settle() == ([], [PartsReleased(stream)])


@pytest.mark.parametrize("end", ["final", "error", "cancel"])
def test_answer_in_parts_leaves_nothing_behind_however_it_ends(end: str) -> None:
    wire, stream = asked()
    wire.acceptor.respond(stream, b"", [bytes(100)], is_final=False)
    wire.settle()
    if end == "final":
        wire.acceptor.respond(stream, b"", [])
    elif end == "error":
        wire.acceptor.fail(stream, RunFailed("it fell over"))
    else:
        wire.dialer.cancel(stream)
    wire.settle()
    wire.dialer.release(stream, 100)
    wire.acceptor._receiver._released(stream, 10**6)  # a peer that makes it up
    assert wire.settle() == ([], [])
    assert wire.acceptor._streams.sent_parts == {}
    assert (bool(wire.dialer._streams.parts), wire.dialer._streams.parts.size_bytes) == (False, 0)


def test_parts_of_all_answers_together_are_bounded() -> None:
    parts = HeldParts(3 * PART_BYTES, 4 * PART_BYTES)
    assert [parts.take(stream, 0) for stream in (1, 1, 2, 3)] == [""] * 4
    said = "2560 bytes of all answers in parts are not released; at most 2048 may be"
    assert parts.take(4, 0) == said
    parts.end(1)
    assert [parts.take(4, 0), parts.take(4, 0)] == ["", ""]


# limits


def test_message_over_a_peer_s_limit_fails_at_its_sender_and_takes_no_memory_of_the_peer() -> None:
    wire = greeted(acceptor=limits(message_bytes=1))
    with pytest.raises(PeerError, match="2 bytes; this peer takes 1 at most") as caught:
        wire.dialer.ask(b"", [bytes(2)])
    assert type(caught.value) is PeerError
    assert repr(wire.dialer) == EMPTY
    wire, stream = asked(dialer=limits(message_bytes=1000))
    assert wire.acceptor.respond(stream, b"", [bytes(2000)])
    assert [type(event.error) for event in wire.settle()[0]] == [TooLarge]
    # one that ignores the limit is refused before memory is taken
    core = greeted(acceptor=limits(message_bytes=1000)).acceptor
    assert feed(core, head(FrameKind.REQUEST, 1, 4, 4_000_000_000) + b"1234") == []
    assert repr(core) == EMPTY


def test_requests_over_the_budget_are_overloaded_and_the_rest_goes_on() -> None:
    for own, sizes in (
        (limits(receive_bytes=1_000_000), (900_000, 200_000)),
        (limits(streams=1), (0, 0)),
    ):
        wire = greeted(acceptor=own)
        kept, refused = (wire.dialer.ask(b"", [bytes(size)]) for size in sizes)
        at_dialer, at_acceptor = wire.settle()
        assert [type(event) for event in at_acceptor] == [RequestReceived]
        assert [(event.stream, type(event.error)) for event in at_dialer] == [(refused, Overloaded)]
        assert wire.acceptor.respond(kept, b"", [])
        wire.settle()
        wire.dialer.ask(b"", [bytes(sizes[0])])
        assert [type(event) for event in wire.settle()[1]] == [RequestReceived]


def test_answers_that_the_peer_does_not_read_are_errors_once_too_many_wait() -> None:
    wire, first = asked(acceptor=limits(send_bytes=100_000))
    second = wire.dialer.ask(b"")
    wire.settle()
    for stream in (first, second):
        assert wire.acceptor.respond(stream, b"", [bytes(80_000)])
    errors = [event for event in wire.settle()[0] if isinstance(event, ErrorReceived)]
    assert [(event.stream, type(event.error)) for event in errors] == [(second, PeerError)]
    assert "no room for 80000 more within 100000" in errors[0].error.message
    assert (wire.dialer.is_idle, wire.acceptor.is_idle) == (True, True)


# broken rules


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (head(99, 1), "unknown kind 99"),
        (HEADER.pack(0, 0, 0, 1, FrameKind.PING, 0, 7), "reserved field is 7"),
        (head(4, 1, 2**32 - 1), "a frame of 4294967295 bytes"),
        (HEADER.pack(2**30, 2**30, 0, 1, 4, 0, 0), f"{2**30} of metadata; at most {2**22}"),
        (head(FrameKind.REQUEST, 2, flags=WHOLE), "not the peer's to open"),
        (head(FrameKind.REQUEST, 0, flags=WHOLE), "not the peer's to open"),
        (head(FrameKind.PING, 1, 3) + b"abc", "with a body of 3 bytes"),
        (head(FrameKind.REQUEST, 1, 3, 2, END) + b"abc", "sent 3 bytes of a body of 2"),
        (head(FrameKind.REQUEST, 1, 3, 9, END) + b"abc", "ended at 3 of 9"),
        (head(FrameKind.REQUEST, 1), "did not end at 0 of 0"),
        (HEADER.pack(3, 3, 0, 0, FrameKind.GOAWAY, 0, 0) + b"\xc1\xc1\xc1", "no msgpack"),
        (head(FrameKind.HELLO, 0), "no msgpack"),
        (OTHER_HELLO, "a second HELLO that changes more than the chain"),
    ],
)
def test_broken_rule_ends_the_connection_and_is_named(data: bytes, complaint: str) -> None:
    wire = greeted()
    with pytest.raises(ProtocolViolation, match=complaint):
        feed(wire.acceptor, data)


def test_first_frame_other_than_a_proper_hello_is_refused() -> None:
    for data in (
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        head(FrameKind.REQUEST, 1, flags=WHOLE),
        *[
            encode_frame(FrameKind.HELLO, meta=raw)
            for raw in (b"\x80", b"\x81\xa1v\x02", b"x" * 40_000)
        ],
    ):
        core = Connection(is_dialer=False, hello=hello(LinkLimits()), limits=LinkLimits())
        with pytest.raises(ProtocolViolation):
            feed(core, data)


def test_leftovers_of_closed_streams_are_dropped() -> None:
    wire = greeted()
    for kind in ("CREDIT", "CANCEL", "ERROR", "LOAD", "CHUNK"):
        assert feed(wire.acceptor, encode_frame(FrameKind[kind], 41)) == []
    assert feed(wire.dialer, head(FrameKind.RESPONSE, 41, 3, 3, WHOLE) + b"abc") == []
    assert feed(wire.acceptor, head(FrameKind.CHUNK, 41, 9) + b"123", 2) == []
    rest = b"456789" + encode_frame(FrameKind.PROBE, 43)
    assert feed(wire.acceptor, rest, 4) == [ProbeReceived(43, b"")]


FLOODS = {
    "ping": encode_frame(FrameKind.PING),
    "pong": encode_frame(FrameKind.PONG),
    "cancel": encode_frame(FrameKind.CANCEL, 99),
    "credit": encode_frame(FrameKind.CREDIT, 99, value=1),
    "release": encode_frame(FrameKind.RELEASE, 99, value=1),
    "load": encode_frame(FrameKind.LOAD, 99),
    "error": encode_frame(FrameKind.ERROR, 99, meta=b"\xc1"),
    "goaway": goaway_frame("bye"),
    "probe": encode_frame(FrameKind.PROBE, 1),
    "chunk of nothing known": head(FrameKind.CHUNK, 99, 1, flags=END) + b"x",
    "answer to nothing": head(FrameKind.RESPONSE, 99, 1, 1, WHOLE) + b"x",
    "request and its cancellation": encode_frame(FrameKind.REQUEST, 1, flags=WHOLE)
    + encode_frame(FrameKind.CANCEL, 1),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_flood_of_frames_that_nobody_awaits_ends_the_link(flood: bytes) -> None:
    acceptor = greeted().acceptor
    acceptor.check_unawaited(0.0)
    for _ in range(MOST // 100):
        feed(acceptor, flood * 100)
    acceptor.check_unawaited(0.0)
    feed(acceptor, flood * 100)
    with pytest.raises(ProtocolViolation, match="more frames that nobody awaits"):
        acceptor.check_unawaited(0.0)


def test_small_chunks_of_a_body_that_is_awaited_are_counted_and_large_ones_are_not() -> None:
    acceptor = greeted().acceptor
    feed(acceptor, head(FrameKind.REQUEST, 1, 0, 1 << 24, FINAL))
    large = head(FrameKind.CHUNK, 1, SMALL_CHUNK_BYTES) + bytes(SMALL_CHUNK_BYTES)
    feed(acceptor, large * (2 * MOST // 10))
    acceptor.check_unawaited(0.0)
    feed(acceptor, head(FrameKind.CHUNK, 1) * (MOST + 1))
    with pytest.raises(ProtocolViolation, match="more frames that nobody awaits"):
        acceptor.check_unawaited(0.0)


@pytest.mark.full
def test_work_pays_for_what_comes_with_it() -> None:
    wire = greeted()
    for _ in range(2 * MOST):
        stream = wire.dialer.ask(b"m")
        wire.settle()
        wire.dialer.cancel(stream)
        assert wire.acceptor.respond(stream, b"m", ())  # both are on their way
        wire.settle()
        wire.dialer.check_unawaited(0.0)
        wire.acceptor.check_unawaited(0.0)


# whatever is sent, cut anywhere


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.sampled_from([0, 1, 500, 16_384, 16_385, 300_000, 1_300_000]), max_size=8),
)
def test_any_mix_of_messages_cut_anywhere_arrives_whole_and_leaves_nothing(
    seed: int, sizes: list[int]
) -> None:
    wire = greeted(seed=seed)
    rng = random.Random(seed)
    expected = {}
    for size in sizes:
        asker = rng.choice((wire.dialer, wire.acceptor))
        body = rng.randbytes(size)
        meta = rng.randbytes(size % 97 if size % 2 else size // 2)  # more than is read at once, too
        expected[asker.ask(meta, [body])] = (meta, body)
    for side, events in zip((wire.dialer, wire.acceptor), wire.settle(), strict=True):
        for event in events:
            assert (event.meta, bytes(event.body)) == expected[event.stream]
            assert side.respond(event.stream, event.meta, [event.body])
    answers = [event for events in wire.settle() for event in events]
    assert {each.stream: (each.meta, bytes(each.body)) for each in answers} == expected
    assert (wire.dialer.is_idle, wire.acceptor.is_idle) == (True, True)
    assert repr(wire.dialer) == repr(wire.acceptor) == EMPTY


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(
        st.tuples(
            st.sampled_from([1, 3, 5]), st.sampled_from([0, 1, 900, SMALL_BYTES + 1, 40_000])
        ),
        max_size=6,
    ),
)
def test_every_body_arrives_whole_within_its_credit(
    seed: int, messages: list[tuple[int, int]]
) -> None:
    rng = random.Random(seed)
    outgoing = Outgoing(8000)
    expected: dict[int, list[bytes]] = {}
    for stream, size in messages:
        body, cut = rng.randbytes(size), rng.randint(0, size)
        parts, credit = [body[:cut], body[cut:]], rng.randint(0, 50_000)
        outgoing.message(FrameKind.REQUEST, stream, b"m" * (size % 7), parts, size, 0, credit)
        expected.setdefault(stream, []).append(body)
    got: dict[int, list[bytes]] = {}
    for _ in range(200):
        data = b"".join(outgoing.take(rng.randint(1, 50_000)))
        while data:
            payload, meta_bytes, _, stream, kind, flags, _ = HEADER.unpack_from(data)
            body = data[HEADER.size + meta_bytes : HEADER.size + payload]
            data = data[HEADER.size + payload :]
            assert len(body) <= 16 * 1024
            if kind == FrameKind.REQUEST:
                got.setdefault(stream, []).append(b"")
            got[stream][-1] += body
            if flags & END:
                assert got[stream] == expected[stream][: len(got[stream])]
        for stream in (1, 3, 5):
            if rng.random() < 0.7:
                outgoing.grant(stream, rng.randint(1, 10_000))
    assert got == expected
    assert (bool(outgoing), outgoing.queued_bytes) == (False, 0)


Frames = list[tuple[int, int, int, int, bytes]]


def outcome(frames: Frames, step: int | None) -> tuple[list[Event | str], str, bytes, str]:
    """Return what a side makes of frames that come whole or in pieces: events, complaint, what it sends, what it holds."""
    core = greeted(acceptor=limits(streams=2, message_bytes=16, receive_bytes=24)).acceptor
    for _ in range(2):
        core.ask(b"")
    core.take(1 << 20)
    events: list[Event | str] = []
    complaint = ""
    try:
        for kind, flags, stream, missing, body in frames:
            came = feed(
                core, head(kind, stream, len(body), len(body) + missing, flags) + body, step
            )
            # errors equal none but themselves
            events += [repr(each) if isinstance(each, ErrorReceived) else each for each in came]
    except ProtocolViolation as error:
        complaint = error.message
    return events, complaint, b"".join(core.take(1 << 20)), repr(core)


REQUEST, RESPONSE = FrameKind.REQUEST, FrameKind.RESPONSE


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([REQUEST, RESPONSE]),
            st.sampled_from([WHOLE, WHOLE, WHOLE, END, 0]),
            st.sampled_from([1, 2, 3, 4, 5]),
            st.sampled_from([0, 0, 0, 3]),
            st.sampled_from([b"", b"8 bytes!", b"13 bytes here", b"17 bytes are here"]),
        ),
        max_size=6,
    )
)
# behind the beginning of an answer another
@example([(RESPONSE, 0, 2, 3, b"8 bytes!"), (RESPONSE, 3, 2, 0, b"8 bytes!")])
# more than the side takes at a time
@example(
    [
        (REQUEST, 3, 1, 0, b"8 bytes!"),
        (REQUEST, 3, 3, 0, b"13 bytes here"),
        (RESPONSE, 3, 2, 0, b"8 bytes!"),
    ]
)
def test_frame_that_comes_whole_means_what_it_means_in_pieces(frames: Frames) -> None:
    assert outcome(frames, None) == outcome(frames, 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 14),
            st.integers(0, 3),
            st.integers(0, 6),
            st.integers(0, 40),
            st.binary(max_size=8),
            st.binary(max_size=20),
        ),
        max_size=12,
    ),
    st.binary(max_size=400),
)
def test_no_sequence_of_frames_and_no_junk_raises_anything_but_a_violation(
    frames: list[tuple[int, int, int, int, bytes, bytes]], junk: bytes
) -> None:
    wire = greeted()
    wire.acceptor.ask(b"")
    wire.acceptor.take(1 << 20)
    with contextlib.suppress(ProtocolViolation):
        for kind, flags, stream, value, meta, body in frames:
            first = HEADER.pack(len(meta) + len(body), len(meta), value, stream, kind, flags, 0)
            for event in feed(wire.acceptor, first + meta + body):
                if isinstance(event, RequestReceived):
                    wire.acceptor.respond(event.stream, b"", [event.body])
        feed(wire.acceptor, junk)


# all links of a process share one room for bodies: never passed, always given back, and the oldest goes on

KB = 5000
SMALL = limits(initial_credit_bytes=10 * KB, chunk_bytes=4 * KB, message_bytes=200 * KB)


class Pair:
    """A router's side, which asks, and a node's, whose bytes cross when `settle` is called."""

    def __init__(self, budget: ReceiveBudget) -> None:
        self.router = Connection(is_dialer=True, hello=hello(SMALL), limits=SMALL, budget=budget)
        node = LinkLimits(chunk_bytes=4 * KB)
        self.node = Connection(is_dialer=False, hello=hello(node), limits=node)
        self.settle()

    def step(self, budget_bytes: int = 4 * KB) -> list[Event]:
        """Carry a little both ways; return what the router was told."""
        feed(self.node, b"".join(self.router.take(budget_bytes)))
        return feed(self.router, b"".join(self.node.take(budget_bytes)))

    def settle(self) -> list[Event]:
        reported: list[Event] = []
        while self.router.has_output() or self.node.has_output():
            reported += self.step()
        return reported

    def ask(self, answer: bytes) -> int:
        stream = self.router.ask(b"")
        feed(self.node, b"".join(self.router.take(1 << 20)))
        assert self.node.respond(stream, b"", [answer])
        return stream


def sums(budget: ReceiveBudget) -> tuple[int, int, int]:
    return budget.granted_bytes, budget.first_bytes, budget.waiting


def test_large_answers_wait_for_one_another_and_all_come_whole() -> None:
    budget = ReceiveBudget(200 * KB)
    pairs = [Pair(budget) for _ in range(4)]
    answers = [random.Random(at).randbytes(90 * KB) for at in range(4)]
    for pair, answer in zip(pairs, answers, strict=True):
        pair.ask(answer)
    for pair in pairs:
        pair.step()
    assert sums(budget) == (180 * KB, 20 * KB, 2)
    got: list[list[bytes]] = [[], [], [], []]
    for _ in range(200):
        for at, pair in enumerate(pairs):
            for event in pair.step():
                assert isinstance(event, ResponseReceived)
                got[at].append(bytes(event.body))
            assert budget.granted_bytes <= budget.most_bytes
    assert got == [[answer] for answer in answers]
    assert sums(budget) == (0, 0, 0)


def test_link_that_stalls_holds_half_and_others_go_past_it() -> None:
    budget = ReceiveBudget(200 * KB)
    stalled, busy = Pair(budget), Pair(budget)
    streams = [stalled.ask(bytes(80 * KB)) for _ in range(3)]
    for _ in range(6):
        stalled.step()
    assert sums(budget) == (80 * KB, 20 * KB, 2)
    busy.ask(bytes(90 * KB))
    assert [type(event) for event in busy.settle()] == [ResponseReceived]
    for stream in streams:
        stalled.router.cancel(stream)
    assert sums(budget) == (0, 0, 0)


def test_too_many_beginnings_on_one_link_are_refused_alone() -> None:
    budget = ReceiveBudget(60 * KB)
    pair = Pair(budget)
    for _ in range(4):
        pair.ask(bytes(10 * KB))
    (error,) = [event.error for event in pair.settle() if isinstance(event, ErrorReceived)]
    assert type(error) is PeerError
    assert "no room for an answer of 50000 bytes" in error.message
    assert sums(budget) == (0, 0, 0)


def test_peer_that_sends_more_than_was_allowed_breaks_the_rules() -> None:
    budget = ReceiveBudget(200 * KB)
    holder, pair = Pair(budget), Pair(budget)
    holder.ask(bytes(200 * KB))
    holder.step()
    stream = pair.router.ask(b"")
    first = head(RESPONSE, stream, 4 * KB, 50 * KB, FINAL) + bytes(4 * KB)
    chunk = head(FrameKind.CHUNK, stream, 4 * KB, flags=FINAL) + bytes(4 * KB)
    assert feed(pair.router, first + chunk) == []
    said = "sent 60000 bytes of a body of 250000, of which 50000"
    with pytest.raises(ProtocolViolation, match=said):
        feed(pair.router, chunk)
    pair.router.end()
    assert sums(budget) == (200 * KB, 0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_sums_hold_all_is_given_back_and_the_oldest_goes_on_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    budget = ReceiveBudget(400 * KB)
    pairs = [Pair(budget) for _ in range(4)]
    open_streams: list[tuple[Pair, int]] = []
    for _ in range(400):
        at = rng.randrange(len(pairs))
        pair = pairs[at]
        match rng.randrange(8):
            case 0 | 1:
                size_bytes = rng.choice([KB, 9 * KB, 30 * KB, 120 * KB, 200 * KB])
                open_streams.append((pair, pair.ask(bytes(size_bytes))))
            case 2 if open_streams:
                other, stream = rng.choice(open_streams)
                other.router.cancel(stream)
            case 3 if rng.random() < 0.2:
                pair.router.end()
                pairs[at] = Pair(budget)
                open_streams = [one for one in open_streams if one[0] is not pair]
            case _:
                pair.step(rng.choice([4 * KB, 30 * KB]))
        assert 0 <= budget.granted_bytes <= budget.most_bytes
        assert 0 <= budget.first_bytes <= budget.most_bytes
        assert budget.granted_bytes or not budget.waiting, "somebody waits, and nobody goes on"
    for _ in range(2000):
        for pair in pairs:
            pair.step(30 * KB)
    assert sums(budget) == (0, 0, 0)
    assert all("0 asked" in repr(pair.router) for pair in pairs)
