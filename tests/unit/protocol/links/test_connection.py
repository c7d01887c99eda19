"""Two cores joined back to back: messages in turns within their credit, parts, limits, and whatever a peer may send."""

from __future__ import annotations

import contextlib
import dataclasses
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from link_wire import feed, greeted, hello, limits

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
from capamesh.protocol.links.unawaited import (
    MOST,
    SMALL_CHUNK_BYTES,
)

OTHER_HELLO = encode_frame(FrameKind.HELLO, meta=hello(LinkLimits(message_bytes=1)).encode())


def test_peer_may_introduce_itself_again_by_another_chain_while_requests_are_under_way() -> None:
    wire = greeted()
    stream = wire.dialer.ask(b"meta", [bytes(600_000)])
    again = dataclasses.replace(hello(LinkLimits()), chain=(b"new leaf", b"new invite"))
    wire.acceptor.introduce(again)
    at_dialer, at_acceptor = wire.settle()
    assert at_dialer == [HelloReceived(again)]
    assert at_acceptor == [RequestReceived(stream, b"meta", memoryview(bytes(600_000)))]
    assert wire.acceptor.respond(stream, b"answer", [])
    at_dialer, _ = wire.settle()
    assert at_dialer == [ResponseReceived(stream, b"answer", memoryview(b""), True)]


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
    assert not wire.dialer.has_output()
    assert wire.dialer.queued_bytes == 700_000


def test_next_part_has_room_only_once_enough_of_those_before_is_released() -> None:
    window_bytes = 4 * PART_BYTES
    wire = greeted(dialer=limits(part_window_bytes=window_bytes))
    stream = wire.dialer.ask(b"")
    wire.settle()
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
    other = wire.dialer.ask(b"")
    wire.settle()
    assert wire.acceptor.has_part_room(other)


@pytest.mark.parametrize("end", ["final", "error", "cancel"])
def test_answer_in_parts_leaves_nothing_behind_however_it_ends(end: str) -> None:
    wire = greeted()
    stream = wire.dialer.ask(b"")
    wire.settle()
    wire.acceptor.respond(stream, b"", [bytes(100)], is_final=False)
    wire.settle()
    match end:
        case "final":
            wire.acceptor.respond(stream, b"", [])
        case "error":
            wire.acceptor.fail(stream, RunFailed("it fell over"))
        case _:
            wire.dialer.cancel(stream)
    wire.settle()
    wire.dialer.release(stream, 100)
    wire.acceptor._receiver._released(stream, 10**6)  # a peer that makes it up
    assert wire.settle() == ([], [])
    assert wire.acceptor._streams.sent_parts == {}
    assert (bool(wire.dialer._streams.parts), wire.dialer._streams.parts.size_bytes) == (False, 0)


def test_peer_that_releases_what_it_was_not_sent_gains_nothing() -> None:
    wire = greeted(dialer=limits(part_window_bytes=2 * PART_BYTES))
    stream = wire.dialer.ask(b"")
    wire.settle()
    wire.acceptor.respond(stream, b"", [], is_final=False)
    wire.settle()
    wire.acceptor._receiver._released(stream, 2**32 - 1)
    for _ in range(2):
        assert wire.acceptor.has_part_room(stream)
        wire.acceptor.respond(stream, b"", [], is_final=False)
    assert not wire.acceptor.has_part_room(stream)


def test_request_cancelled_while_it_is_sent_is_never_delivered() -> None:
    wire = greeted()
    stream = wire.dialer.ask(b"", [bytes(5_000_000)])
    wire.step(wire.dialer, wire.acceptor, budget=1)
    wire.dialer.cancel(stream)
    assert wire.settle() == ([], [])
    assert repr(wire.acceptor) == "Connection(0 asked, 0 serving, 0 receiving, 0 bytes)"


def test_request_that_only_this_peer_does_not_take_is_the_peer_s_fault() -> None:
    wire = greeted(acceptor=limits(message_bytes=1))
    with pytest.raises(PeerError, match="2 bytes; this peer takes 1 at most") as caught:
        wire.dialer.ask(b"", [bytes(2)])
    assert type(caught.value) is PeerError
    assert repr(wire.dialer) == "Connection(0 asked, 0 serving, 0 receiving, 0 bytes)"


def test_peer_that_ignores_the_limit_is_refused_before_memory_is_taken() -> None:
    core = Connection(is_dialer=False, hello=hello(LinkLimits()), limits=limits(message_bytes=1000))
    feed(core, encode_frame(FrameKind.HELLO, meta=hello(LinkLimits()).encode()))
    head = HEADER.pack(4, 0, 4_000_000_000, 1, FrameKind.REQUEST, 0, 0)
    assert feed(core, head + b"1234") == []
    assert repr(core) == "Connection(0 asked, 0 serving, 0 receiving, 0 bytes)"


def test_requests_over_the_receive_budget_are_overloaded_and_the_rest_goes_on() -> None:
    wire = greeted(acceptor=limits(receive_bytes=1_000_000))
    kept = wire.dialer.ask(b"", [bytes(900_000)])
    refused = wire.dialer.ask(b"", [bytes(200_000)])
    at_dialer, at_acceptor = wire.settle()
    assert [type(event) for event in at_acceptor] == [RequestReceived]
    (event,) = at_dialer
    assert event.stream == refused
    assert isinstance(event.error, Overloaded)
    assert wire.acceptor.respond(kept, b"", [])
    wire.settle()
    wire.dialer.ask(b"", [bytes(900_000)])
    assert [type(event) for event in wire.settle()[1]] == [RequestReceived]


def test_more_streams_than_allowed_are_overloaded() -> None:
    wire = greeted(acceptor=limits(streams=2))
    for _ in range(3):
        wire.dialer.ask(b"")
    at_dialer, at_acceptor = wire.settle()
    assert len(at_acceptor) == 2
    assert [type(event.error) for event in at_dialer] == [Overloaded]


def test_answers_that_the_peer_does_not_read_are_errors_once_too_many_wait() -> None:
    wire = greeted(acceptor=limits(send_bytes=100_000))
    first, second = wire.dialer.ask(b""), wire.dialer.ask(b"")
    wire.settle()
    assert wire.acceptor.respond(first, b"", [bytes(80_000)])
    assert wire.acceptor.respond(second, b"", [bytes(80_000)])
    at_dialer, _ = wire.settle()
    errors = [event for event in at_dialer if isinstance(event, ErrorReceived)]
    assert [event.stream for event in errors] == [second]
    assert isinstance(errors[0].error, PeerError)
    assert "no room for 80000 more within 100000" in errors[0].error.message
    assert wire.dialer.is_idle
    assert wire.acceptor.is_idle


def test_probe_ping_and_goaway() -> None:
    wire = greeted()
    stream = wire.dialer.probe(b"m")
    wire.dialer.ping(77)
    wire.acceptor.goaway("upgrade")
    at_dialer, at_acceptor = wire.settle()
    assert at_acceptor == [ProbeReceived(stream, b"m")]
    assert at_dialer == [GoawayReceived("upgrade"), PongReceived(77)]
    wire.acceptor.send_load(stream, b"load")
    assert wire.settle()[0] == [LoadReceived(stream, b"load")]
    wire.acceptor.send_load(stream, b"a leftover")
    wire.acceptor.send_load(0, b"told unasked")
    assert wire.settle()[0] == [LoadReceived(0, b"told unasked")]
    assert wire.dialer.is_idle


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (HEADER.pack(0, 0, 0, 1, 99, 0, 0), "unknown kind 99"),
        (HEADER.pack(0, 0, 0, 1, FrameKind.PING, 0, 7), "reserved field is 7"),
        (HEADER.pack(0, 0, 0, 2, FrameKind.REQUEST, END | FINAL, 0), "not the peer's to open"),
        (HEADER.pack(0, 0, 0, 0, FrameKind.REQUEST, END | FINAL, 0), "not the peer's to open"),
        (HEADER.pack(3, 0, 0, 1, FrameKind.PING, 0, 0) + b"abc", "with a body of 3 bytes"),
        (
            HEADER.pack(3, 0, 2, 1, FrameKind.REQUEST, END, 0) + b"abc",
            "sent 3 bytes of a body of 2",
        ),
        (HEADER.pack(3, 0, 9, 1, FrameKind.REQUEST, END, 0) + b"abc", "ended at 3 of 9"),
        (HEADER.pack(0, 0, 0, 1, FrameKind.REQUEST, 0, 0), "did not end at 0 of 0"),
        (HEADER.pack(3, 3, 0, 0, FrameKind.GOAWAY, 0, 0) + b"\xc1\xc1\xc1", "no msgpack"),
        (HEADER.pack(0, 0, 0, 0, FrameKind.HELLO, 0, 0), "no msgpack"),
        (OTHER_HELLO, "a second HELLO that changes more than the chain"),
    ],
)
def test_broken_rule_ends_the_connection_and_is_named(data: bytes, complaint: str) -> None:
    wire = greeted()
    with pytest.raises(ProtocolViolation, match=complaint):
        feed(wire.acceptor, data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        HEADER.pack(0, 0, 0, 1, FrameKind.REQUEST, END | FINAL, 0),
        encode_frame(FrameKind.HELLO, meta=b"\x80"),
        encode_frame(FrameKind.HELLO, meta=b"\x81\xa1v\x02"),
        encode_frame(FrameKind.HELLO, meta=b"x" * 40_000),
    ],
)
def test_first_frame_other_than_a_proper_hello_is_refused(data: bytes) -> None:
    core = Connection(is_dialer=False, hello=hello(LinkLimits()), limits=LinkLimits())
    with pytest.raises(ProtocolViolation):
        feed(core, data)


def test_leftovers_of_closed_streams_are_dropped() -> None:
    wire = greeted()
    for kind in (
        FrameKind.CREDIT,
        FrameKind.CANCEL,
        FrameKind.ERROR,
        FrameKind.LOAD,
        FrameKind.CHUNK,
    ):
        assert feed(wire.acceptor, encode_frame(kind, 41)) == []
    assert (
        feed(wire.dialer, HEADER.pack(3, 0, 3, 41, FrameKind.RESPONSE, END | FINAL, 0) + b"abc")
        == []
    )
    assert feed(wire.acceptor, HEADER.pack(9, 0, 0, 41, FrameKind.CHUNK, 0, 0) + b"123", 2) == []
    assert feed(wire.acceptor, b"456789" + encode_frame(FrameKind.PROBE, 43), 4) == [
        ProbeReceived(43, b"")
    ]


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
        expected[asker.ask(b"m" * (size % 97), [body])] = body
    for side, events in zip((wire.dialer, wire.acceptor), wire.settle(), strict=True):
        for event in events:
            assert bytes(event.body) == expected[event.stream]
            assert side.respond(event.stream, event.meta, [event.body])
    answers = [event for events in wire.settle() for event in events]
    assert {event.stream: bytes(event.body) for event in answers} == expected
    assert wire.dialer.is_idle
    assert wire.acceptor.is_idle
    assert repr(wire.dialer) == repr(wire.acceptor)


def outcome(
    frames: list[tuple[int, int, int, int, bytes]], step: int | None
) -> tuple[list[Event | str], str, bytes, str]:
    """Return what a side makes of frames that come whole or in pieces: events, complaint, what it sends, what it holds."""
    core = greeted(acceptor=limits(streams=2, message_bytes=16, receive_bytes=24)).acceptor
    for _ in range(2):
        core.ask(b"")
    core.take(1 << 20)
    events: list[Event | str] = []
    complaint = ""
    try:
        for kind, flags, stream, missing, body in frames:
            head = HEADER.pack(len(body), 0, len(body) + missing, stream, kind, flags, 0)
            came = feed(core, head + body, step)
            # errors equal none but themselves
            events += [repr(each) if isinstance(each, ErrorReceived) else each for each in came]
    except ProtocolViolation as error:
        complaint = error.message
    return events, complaint, b"".join(core.take(1 << 20)), repr(core)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([FrameKind.REQUEST, FrameKind.RESPONSE]),
            st.sampled_from([END | FINAL, END | FINAL, END | FINAL, END, 0]),
            st.sampled_from([1, 2, 3, 4, 5]),
            st.sampled_from([0, 0, 0, 3]),
            st.sampled_from([b"", b"8 bytes!", b"13 bytes here", b"17 bytes are here"]),
        ),
        max_size=6,
    )
)
@example(
    # behind the beginning of an answer another
    [(FrameKind.RESPONSE, 0, 2, 3, b"8 bytes!"), (FrameKind.RESPONSE, 3, 2, 0, b"8 bytes!")]
)
@example(
    # more than the side takes at a time
    [
        (FrameKind.REQUEST, 3, 1, 0, b"8 bytes!"),
        (FrameKind.REQUEST, 3, 3, 0, b"13 bytes here"),
        (FrameKind.RESPONSE, 3, 2, 0, b"8 bytes!"),
    ]
)
def test_frame_that_comes_whole_means_what_it_means_in_pieces(
    frames: list[tuple[int, int, int, int, bytes]],
) -> None:
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
            head = HEADER.pack(len(meta) + len(body), len(meta), value, stream, kind, flags, 0)
            for event in feed(wire.acceptor, head + meta + body):
                if isinstance(event, RequestReceived):
                    wire.acceptor.respond(event.stream, b"", [event.body])
        feed(wire.acceptor, junk)


def test_part_is_sent_whatever_its_size_where_none_is_held() -> None:
    wire = greeted(dialer=limits(part_window_bytes=1))
    stream = wire.dialer.ask(b"")
    wire.settle()
    for _ in range(3):
        assert wire.acceptor.has_part_room(stream)
        wire.acceptor.respond(stream, b"", [bytes(300_000)], is_final=False)
        assert not wire.acceptor.has_part_room(stream)
        (part,), _ = wire.settle()
        assert isinstance(part, ResponseReceived)
        wire.dialer.release(stream, len(part.body))
        assert wire.settle() == ([], [PartsReleased(stream)])


def test_cancel_crossing_the_answer_loses_nothing_else() -> None:
    wire = greeted()
    stream, other = wire.dialer.ask(b""), wire.dialer.ask(b"")
    wire.settle()
    wire.acceptor.respond(stream, b"late", [bytes(800_000)])
    wire.acceptor.respond(other, b"kept", [bytes(800_000)])
    wire.step(wire.acceptor, wire.dialer, budget=1)
    wire.dialer.cancel(stream)
    at_dialer, _ = wire.settle()
    assert at_dialer == [ResponseReceived(other, b"kept", memoryview(bytes(800_000)), True)]
    assert repr(wire.dialer) == "Connection(0 asked, 0 serving, 0 receiving, 0 bytes)"
    assert wire.acceptor.queued_bytes == 0


def test_answer_over_the_limit_fails_only_its_own_request() -> None:
    wire = greeted(dialer=limits(message_bytes=1000))
    stream = wire.dialer.ask(b"")
    wire.settle()
    assert wire.acceptor.respond(stream, b"", [bytes(2000)])
    at_dialer, _ = wire.settle()
    assert [type(event.error) for event in at_dialer] == [TooLarge]


ASK = FrameKind.REQUEST
BIG = SMALL_BYTES + 1


def frames(data: bytes) -> list[tuple[int, int, int, bytes, bytes]]:
    """Return kind, stream, flags, metadata and body of each frame."""
    found = []
    while data:
        payload, meta_bytes, _, stream, kind, flags, _ = HEADER.unpack_from(data)
        end = HEADER.size + payload
        body_at = HEADER.size + meta_bytes
        found.append((kind, stream, flags, data[HEADER.size : body_at], data[body_at:end]))
        data = data[end:]
    return found


def sent(outgoing: Outgoing, budget: int = 1 << 30) -> list[tuple[int, int, int, bytes, bytes]]:
    return frames(b"".join(outgoing.take(budget)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(
        st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([0, 1, 900, BIG, 40_000])), max_size=6
    ),
)
def test_every_body_arrives_whole_within_its_credit(
    seed: int, messages: list[tuple[int, int]]
) -> None:
    rng = random.Random(seed)
    outgoing = Outgoing(8000)
    expected: dict[int, list[bytes]] = {}
    for stream, size in messages:
        body = rng.randbytes(size)
        cut = rng.randint(0, size)
        outgoing.message(
            ASK,
            stream,
            b"m" * (size % 7),
            [body[:cut], body[cut:]],
            size,
            0,
            rng.randint(0, 50_000),
        )
        expected.setdefault(stream, []).append(body)
    got: dict[int, list[bytes]] = {}
    for _ in range(200):
        for kind, stream, flags, _, body in sent(outgoing, rng.randint(1, 50_000)):
            assert len(body) <= 16 * 1024
            if kind == ASK:
                got.setdefault(stream, []).append(b"")
            got[stream][-1] += body
            if flags & END:
                done = len(got[stream]) - 1
                assert got[stream][done] == expected[stream][done]
        for stream in (1, 3, 5):
            if rng.random() < 0.7:
                outgoing.grant(stream, rng.randint(1, 10_000))
    assert got == expected
    assert (bool(outgoing), outgoing.queued_bytes) == (False, 0)


def test_all_answers_together_are_bounded() -> None:
    parts = HeldParts(3 * PART_BYTES, 4 * PART_BYTES)
    assert [parts.take(stream, 0) for stream in (1, 1, 2, 3)] == [""] * 4
    assert parts.take(4, 0) == (
        "2560 bytes of all answers in parts are not released; at most 2048 may be"
    )
    parts.end(1)
    assert [parts.take(4, 0), parts.take(4, 0)] == ["", ""]


def streams(*, is_dialer: bool = True) -> tuple[Streams, Outgoing]:
    outgoing = Outgoing(1000)
    own = limits(initial_credit_bytes=100)
    return (
        Streams(outgoing, own, is_dialer=is_dialer, budget=None, on_output=lambda: None),
        outgoing,
    )


def test_numbers_wrap_around_past_those_in_use() -> None:
    for is_dialer, numbers in ((True, [1, MAX_STREAM, 3]), (False, [2, MAX_STREAM - 1, 4])):
        side, _ = streams(is_dialer=is_dialer)
        first = side.open()
        side._next_stream = numbers[1]
        assert [first, side.open(), side.open()] == numbers


LEFTOVER = HEADER.pack(1, 0, 1, 99, FrameKind.RESPONSE, END | FINAL, 0) + b"x"
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
    "chunk of nothing known": HEADER.pack(1, 0, 0, 99, FrameKind.CHUNK, END, 0) + b"x",
    "answer to nothing": LEFTOVER,
    "request and its cancellation": encode_frame(FrameKind.REQUEST, 1, flags=END | FINAL)
    + encode_frame(FrameKind.CANCEL, 1),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_flood_of_each_kind_ends_the_link(flood: bytes) -> None:
    acceptor = greeted().acceptor
    acceptor.check_unawaited(0.0)
    for _ in range(MOST // 100):
        feed(acceptor, flood * 100)
    acceptor.check_unawaited(0.0)
    feed(acceptor, flood * 100)
    with pytest.raises(ProtocolViolation, match="more frames that nobody awaits"):
        acceptor.check_unawaited(0.0)


def test_small_chunks_of_a_body_that_is_awaited_are_counted_and_large_ones_are_not() -> None:
    def chunk(size: int, flags: int = 0) -> bytes:
        return HEADER.pack(size, 0, 0, 1, FrameKind.CHUNK, flags, 0) + bytes(size)

    acceptor = greeted().acceptor
    large, count = SMALL_CHUNK_BYTES, 2 * MOST
    feed(acceptor, HEADER.pack(0, 0, 1 << 24, 1, FrameKind.REQUEST, FINAL, 0))
    for _ in range(count // 10):
        feed(acceptor, chunk(large))
    acceptor.check_unawaited(0.0)
    for _ in range(MOST + 1):
        feed(acceptor, chunk(0))
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
    errors = [event.error for event in pair.settle() if not isinstance(event, ResponseReceived)]  # type: ignore[union-attr]
    assert [type(error) for error in errors] == [PeerError]
    assert "no room for an answer of 50000 bytes" in errors[0].message
    assert sums(budget) == (0, 0, 0)


def test_peer_that_sends_more_than_was_allowed_breaks_the_rules() -> None:
    budget = ReceiveBudget(200 * KB)
    holder, pair = Pair(budget), Pair(budget)
    holder.ask(bytes(200 * KB))
    holder.step()
    stream = pair.router.ask(b"")
    head = HEADER.pack(4 * KB, 0, 50 * KB, stream, FrameKind.RESPONSE, FINAL, 0)
    chunk = HEADER.pack(4 * KB, 0, 0, stream, FrameKind.CHUNK, FINAL, 0)
    assert feed(pair.router, head + bytes(4 * KB) + chunk + bytes(4 * KB)) == []
    with pytest.raises(
        ProtocolViolation, match="sent 60000 bytes of a body of 250000, of which 50000"
    ):
        feed(pair.router, chunk + bytes(4 * KB))
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
                stream = pair.router.ask(b"")
                feed(pair.node, b"".join(pair.router.take(1 << 20)))
                pair.node.respond(stream, b"", [bytes(size_bytes)])
                open_streams.append((pair, stream))
            case 2 if open_streams:
                asked, stream = rng.choice(open_streams)
                asked.router.cancel(stream)
            case 3 if rng.random() < 0.2:
                pair.router.end()
                pairs[at] = Pair(budget)
                open_streams = [one for one in open_streams if one[0] is not pair]
            case _:
                pair.step(rng.choice([4 * KB, 30 * KB]))
        assert 0 <= budget.granted_bytes <= budget.most_bytes
        assert 0 <= budget.first_bytes <= budget.most_bytes
        if budget.waiting and not budget.granted_bytes:
            raise AssertionError("somebody waits, and nobody goes on")
    for _ in range(2000):
        for pair in pairs:
            pair.step(30 * KB)
    assert sums(budget) == (0, 0, 0)
    assert all("0 asked" in repr(pair.router) for pair in pairs)
