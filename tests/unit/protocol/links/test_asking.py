"""Asking over a link: who is told, when, and how often. The peer is a bare core, the socket a list of bytes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import cast

import pytest
from link_ends import Ends, Transport
from link_wire import greeted, limits

from capamesh.protocol.errors import (
    CapameshError,
    LinkLost,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.links.connection import Connection
from capamesh.protocol.links.events import (
    Answer,
    LoadReceived,
    ProbeReceived,
    RequestCancelled,
    RequestReceived,
)
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.handlers import PartsHandler
from capamesh.protocol.links.held_parts import PART_BYTES
from capamesh.protocol.links.writer import LinkWriter


class ResponseHandler:
    """Keeps what it is told, and acts then as a test says."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        self.news: list[object] = []
        self._act = act

    def answered(self, answer: Answer) -> None:
        self._take((answer.meta, bytes(answer.body)))

    def reported(self, meta: bytes) -> None:
        self._take(meta)

    def failed(self, error: CapameshError) -> None:
        self._take(error)

    def _take(self, news: object) -> None:
        self.news.append(news)
        self._act()


@pytest.fixture
async def ends() -> Ends:
    return Ends()


async def test_asker_that_crashes_costs_no_other_its_answer(ends: Ends) -> None:
    def crash() -> None:
        raise asyncio.InvalidStateError

    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    well = ResponseHandler()
    first = ends.link.ask(b"", [], ResponseHandler(crash))
    second = ends.link.ask(b"", [], ResponseHandler(crash))
    probe = ends.link.ask_load(b"", ResponseHandler(crash))
    last = ends.link.ask(b"", [], well)
    await ends.reads()
    ends.peer.respond(first, b"", [])
    ends.peer.fail(second, Overloaded("full", 0.5))
    ends.peer.send_load(probe, b"busy")
    ends.peer.respond(last, b"re", [b"sult"])
    ends.deliver()
    assert well.news == [(b"re", b"sult")]
    assert (ends.owner.reasons, ends.is_idle) == ([], True)
    assert [type(each["exception"]) for each in complaints] == [asyncio.InvalidStateError] * 3


async def test_load_that_is_told_unasked_comes_to_the_owner_once_the_peer_is_verified() -> None:
    ends = Ends(is_greeted=False)
    ends.link._writer.flush()
    ends.read()
    ends.peer.send_load(0, b"idle")
    ends.deliver()
    ends.link.tell_load(b"mine")
    assert LoadReceived(0, b"mine") in await ends.reads()
    assert ends.owner.told == [b"idle"]
    ends.link.close("over")
    ends.link.tell_load(b"late")


async def test_peer_hears_of_a_withdrawal_but_not_of_a_request_that_was_not_written_yet(
    ends: Ends,
) -> None:
    first = ends.link.ask(b"", [], ResponseHandler())  # a lone one is written at once
    second = ends.link.ask(b"", [bytes(100_000)], ResponseHandler())
    ends.link.withdraw(second)
    heard = [event for event in await ends.reads() if isinstance(event, RequestReceived)]
    assert [event.stream for event in heard] == [first]
    for _ in range(2):
        ends.link.withdraw(first)
    ends.link.withdraw_load(first)
    assert await ends.reads() == [RequestCancelled(first)]
    ends.link.withdraw(12345)
    assert await ends.reads() == []
    assert ends.is_idle


async def test_asker_may_ask_and_withdraw_in_the_very_call_in_which_it_is_reported() -> None:
    ends, second, third = Ends(), ResponseHandler(), ResponseHandler()
    streams: list[int] = []

    def act() -> None:
        ends.link.withdraw(streams[1])
        streams.append(ends.link.ask(b"again", [], third))

    first = ResponseHandler(act)
    streams += [ends.link.ask(b"1", [], first), ends.link.ask(b"2", [], second)]
    await ends.reads()
    for stream in tuple(streams):
        ends.peer.respond(stream, b"r", [])
    ends.deliver()
    assert (first.news, second.news, third.news) == ([(b"r", b"")], [], [])
    events = await ends.reads()
    assert [event.meta for event in events if isinstance(event, RequestReceived)] == [b"again"]
    ends.peer.respond(streams[2], b"r2", [])
    ends.deliver()
    assert third.news == [(b"r2", b"")]


@pytest.mark.parametrize("how", ["close", "lose", "abort", "violation"])
async def test_link_that_ends_tells_all_once_in_order_and_they_may_ask_again(how: str) -> None:
    ends = Ends()
    order: list[int] = []
    refused: list[str] = []

    def again(number: int) -> Callable[[], None]:
        def act() -> None:
            order.append(number)
            assert not ends.link.is_usable
            for ask in (ends.link.ask, lambda meta, _, asker: ends.link.ask_load(meta, asker)):
                with pytest.raises(LinkLost, match="the link has ended: ") as caught:
                    ask(b"", [], ResponseHandler())
                refused.append(caught.value.message)

        return act

    askers = [ResponseHandler(again(number)) for number in range(4)]
    probers = [ResponseHandler(again(number)) for number in (4, 5)]
    for asker in askers:
        ends.link.ask(b"", [], asker)
    for prober in probers:
        ends.link.ask_load(b"", prober)
    await ends.reads()
    match how:
        case "close":
            ends.link.close("enough")
        case "abort":
            ends.link.abort("enough")
            assert order == []  # it hears of the socket's end
            ends.lose()
        case "violation":
            ends.link.get_buffer(-1)[:64] = b"\xff" * 64
            ends.link.buffer_updated(64)
        case _:
            ends.lose()
    assert order == [0, 1, 2, 3, 4, 5]
    ends.lose()
    assert order == [0, 1, 2, 3, 4, 5]
    assert len(refused) == 12
    for one in (*askers, *probers):
        (error,) = one.news
        assert isinstance(error, LinkLost)
        assert error.message.startswith("the link to peer ended: ")
    assert len({id(one.news[0]) for one in (*askers, *probers)}) == 6  # no error is shared
    assert ends.is_idle
    assert len(ends.owner.reasons) >= 1


async def test_load_for_a_request_or_an_answer_to_a_probe_ends_the_link() -> None:
    for is_probe in (False, True):
        ends, asker, other = Ends(), ResponseHandler(), ResponseHandler()
        ask = ends.link.ask_load(b"", asker) if is_probe else ends.link.ask(b"", [], asker)
        ends.link.ask(b"", [], other)
        await ends.reads()
        if is_probe:
            ends.peer._streams.serving[ask] = 0
            ends.peer.respond(ask, b"", [])
        else:
            ends.peer.send_load(ask, b"")
        ends.deliver()
        for one in (asker, other):
            (error,) = one.news
            assert isinstance(error, LinkLost)
            assert "protocol_violation: a " in error.message
        assert ends.is_idle


# answers in parts


class Reader(ResponseHandler, PartsHandler):
    """Takes an answer in parts."""

    def part_answered(self, part: Answer) -> None:
        self._take(part)


async def test_answer_in_parts_is_an_error_to_who_wants_a_whole_one_and_the_rest_is_declined(
    ends: Ends,
) -> None:
    asker = ResponseHandler()
    stream = ends.link.ask(b"", [], asker)
    await ends.reads()
    ends.peer.respond(stream, b"1", [], is_final=False)
    ends.deliver()
    (error,) = asker.news
    assert isinstance(error, PeerError)
    assert error.message == "the peer answers in parts; a whole answer was asked for"
    assert ends.is_idle
    assert await ends.reads() == [RequestCancelled(stream)]
    assert not ends.peer.respond(stream, b"2", [])


async def test_reader_may_withdraw_at_any_part_and_hears_no_more(ends: Ends) -> None:
    reader = Reader(lambda: ends.link.withdraw(stream))
    stream = ends.link.ask(b"", [], reader)
    await ends.reads()
    for meta in (b"1", b"2", b"3"):
        ends.peer.respond(stream, meta, [], is_final=meta == b"3")
    ends.deliver()
    assert reader.news == [Answer(b"1", memoryview(b""))]
    assert ends.is_idle


async def test_peer_that_sends_parts_without_room_loses_the_request() -> None:
    ends, reader = Ends(limits(part_window_bytes=10 * PART_BYTES)), Reader()
    stream = ends.link.ask(b"", [], reader)
    await ends.reads()
    for _ in range(11):
        ends.peer.respond(stream, b"", [], is_final=False)
    ends.deliver()
    *parts, error = reader.news
    assert parts == [Answer(b"", memoryview(b""))] * 10
    assert isinstance(error, PeerError)
    assert "a part came while 5120 bytes of the parts before it were not released" in error.message
    assert ends.is_idle
    assert await ends.reads() == [RequestCancelled(stream)]
    assert ends.link._core._streams.parts.size_bytes == 0


async def test_request_that_cannot_be_sent_raises_and_leaves_nothing_waiting() -> None:
    cases: list[tuple[Ends, list[bytes], type[CapameshError]]] = [
        (Ends(is_greeted=False), [], ProtocolViolation),
        (Ends(limits(send_bytes=1000)), [bytes(1001)], Overloaded),
        (Ends(), [bytes(LinkLimits().message_bytes + 1)], TooLarge),
    ]
    for ends, body, kind in cases:
        asker = ResponseHandler()
        with pytest.raises(kind):
            ends.link.ask(b"", body, asker)
        if kind is ProtocolViolation:
            with pytest.raises(ProtocolViolation):
                ends.link.ask_load(b"", asker)
        assert ends.is_idle
        ends.lose()
        assert asker.news == []


async def test_each_asker_is_told_once_or_has_withdrawn_in_any_order_of_events() -> None:
    for seed in range(150):
        rng = random.Random(seed)
        ends = Ends(limits(part_window_bytes=10 * PART_BYTES))
        open_at_peer: list[tuple[int, bool]] = []
        askers: dict[int, tuple[ResponseHandler, bool]] = {}
        sent: dict[int, list[object]] = {}
        withdrawn: set[int] = set()
        for _ in range(60):
            match rng.randrange(5):
                case 0 | 1:
                    asker = rng.choice([ResponseHandler, Reader])()
                    is_probe = rng.random() < 0.4
                    body = [bytes(rng.choice([0, 10, 300_000]))]
                    stream = (
                        ends.link.ask_load(b"", asker)
                        if is_probe
                        else ends.link.ask(b"", body, asker)
                    )
                    assert stream not in askers
                    askers[stream] = asker, is_probe
                case 2:
                    ends.link._writer.flush()
                    open_at_peer += [
                        (event.stream, isinstance(event, ProbeReceived))
                        for event in ends.read()
                        if isinstance(event, RequestReceived | ProbeReceived)
                    ]
                case 3 if askers:
                    stream = rng.choice(list(askers))
                    if not any(is_last(news) for news in askers[stream][0].news):
                        withdrawn.add(stream)
                    ends.link.withdraw_load(stream)
                    ends.link.withdraw(stream)
                case _:
                    rng.shuffle(open_at_peer)
                    while open_at_peer and rng.random() < 0.7:
                        stream, is_probe = open_at_peer.pop()
                        meta = b"%d" % stream
                        if is_probe and rng.random() < 0.2:
                            ends.peer._receiver._refuse(stream, RunFailed(str(stream)))
                            sent[stream] = [str(stream)]
                            continue
                        if is_probe:
                            ends.peer.send_load(stream, meta)
                            sent[stream] = [meta]
                            continue
                        is_reader = isinstance(askers[stream][0], Reader)
                        sent[stream] = [Answer(meta, memoryview(b"p"))] * rng.choice([0, 3])
                        sent[stream] *= is_reader
                        for _ in sent[stream]:
                            ends.peer.respond(stream, meta, [b"p"], is_final=False)
                        if rng.random() < 0.5:
                            ends.peer.respond(stream, meta, [b"b", b"ody"])
                            sent[stream].append((meta, b"body"))
                        else:
                            ends.peer.fail(stream, RunFailed(str(stream)))
                            sent[stream].append(str(stream))
                    ends.deliver()
        ends.lose()
        for stream, (asker, _) in askers.items():
            news = [each.message if isinstance(each, RunFailed) else each for each in asker.news]
            if stream in withdrawn:
                assert not any(is_last(each) for each in news), seed
            elif stream in sent and not isinstance(news[-1], LinkLost):
                assert news == sent[stream], seed
            else:
                assert isinstance(news.pop(), LinkLost), seed
                assert news == sent.get(stream, [])[: len(news)], seed
        assert ends.is_idle, seed
        assert ends.link._core._streams.parts.size_bytes == 0, seed


def is_last(news: object) -> bool:
    """Return whether nothing may follow."""
    return not isinstance(news, Answer)


MOST_BYTES = 1_000_000


class Writing:
    """A writer on a core that has been greeted."""

    def __init__(self) -> None:
        self.core: Connection = greeted().dialer
        self.transport = Transport()
        self.reasons: list[str] = []
        loop = asyncio.get_running_loop()
        self.writer = LinkWriter(loop, self.core, MOST_BYTES, self.reasons.append)
        self.writer.begin(cast("asyncio.Transport", self.transport))


async def test_writer_that_is_held_or_paused_writes_nothing() -> None:
    writing = Writing()
    await asyncio.sleep(0)
    writing.transport.sent.clear()
    writing.core.ping(1)
    for name in ("is_held", "is_paused"):
        setattr(writing.writer, name, True)
        writing.writer.flush_soon()
        await asyncio.sleep(0)
        assert len(writing.transport.sent) == 0
        setattr(writing.writer, name, False)
    writing.writer.flush()
    assert len(writing.transport.sent) == 20


async def test_peer_that_reads_nothing_is_given_up_when_too_much_waits() -> None:
    writing = Writing()
    writing.writer.is_paused = True
    writing.core.ask(b"", [bytes(MOST_BYTES)])
    writing.writer.flush()
    assert writing.reasons == []
    writing.core.ask(b"", [b"x"])
    writing.writer.flush()
    (reason,) = writing.reasons
    assert reason.endswith("bytes wait that the peer does not read")
