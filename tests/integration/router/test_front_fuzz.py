"""Made-up bytes, cut anywhere: a front sees the requests that aiohttp sees, or refuses."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from fleet_fakes import FakeLink, echo
from fuzz_cases import seeds
from raw_http import RawAnswer, RawClient, chunked, request
from router_http import INFER, Http
from tidy_router import essence, json_body, tidy

from capamesh.router.http.connection import FrontConnection

PATIENCE_TURNS: Final = 200
"""The turns of the loop after which who does not read will not read any more."""
QUIET_TURNS: Final = 40
"""The turns without news after which all that was to come has come: an answer takes a few."""
REFUSALS: Final = frozenset({400, 408, 413, 431, 503})
BAIT: Final = request(INFER, json_body("smuggled"))
SPICE: Final = (
    *(b" ", b"\t", b"\r", b"\n", b"\r\n", b"\r\n\r\n"),
    *(b"\0", b"\x0b", b"\x7f", b"\x80", b"\xc3\xa9"),
    *(b":", b",", b";", b"0", b"5", b"-", b"+", b"%", b"%2f", b"/", b"//", b"/..", b"?", b"#"),
    *(b"a", b"A", b"{", b"}", b"[", b"]", b"HTTP/1.0", b"HTTP/1.1", b"GET ", b"POST "),
    b"\r\nHost: y",
    *(b"\r\nContent-Length: 3", b"\r\nContent-Length: 0"),
    *(b"\r\nTransfer-Encoding: chunked", b"\r\nTransfer-Encoding: identity"),
    *(b"\r\nConnection: close", b"\r\nConnection: keep-alive, close", b"\r\nExpect: 100-continue"),
    b"\r\n X: y",
    b"\r\nX-Filler: " + b"a" * 9_000,  # just below the limit of a line aiohttp goes by the cuts
    b"0\r\n\r\n",
    b"5;a=b\r\nabcde\r\n",
    BAIT,
)


class Difference(AssertionError):
    """A front saw other requests than aiohttp."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The answers to some bytes, and what was asked of the node for them."""

    answers: tuple[RawAnswer, ...]
    asked: tuple[object, ...]
    has_ended: bool
    """The connection was closed."""


class Wire(asyncio.Transport):
    """A transport that keeps what is written; its client sends as long as it is read, and reads all."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.is_paused = False
        self.has_ended = False
        self.on_end: Callable[[], None] = lambda: None

    def is_reading(self) -> bool:
        return not self.is_paused

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def write(self, data: Any) -> None:
        if not self.has_ended:
            self.written += data

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Its client hears that nothing more comes, and goes."""
        self.close()

    def is_closing(self) -> bool:
        return self.has_ended

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def close(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            asyncio.get_running_loop().call_soon(self.on_end)

    def abort(self) -> None:
        self.close()


Reading = tuple[Callable[[bytes], None], Callable[[None], None]]
"""What takes some bytes, and what takes in that the client is gone."""


def of_front(http: Http, wire: Wire) -> Reading:
    """Return a connection of the front."""
    protocol = FrontConnection(http.front)
    protocol.connection_made(wire)

    def feed(data: bytes) -> None:
        while data:
            buffer = protocol.get_buffer(-1)
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            protocol.buffer_updated(count)
            data = data[count:]

    return feed, protocol.connection_lost


def of_aiohttp(http: Http, wire: Wire) -> Reading:
    """Return a connection of aiohttp's, with the same application."""
    protocol = http.front.make_pages()
    protocol.connection_made(wire)
    return protocol.data_received, protocol.connection_lost


async def seen_by(make: Callable[[Wire], Reading], pieces: Iterator[bytes], link: FakeLink) -> Seen:
    """Return what becomes of pieces, each of which is sent when the one before has been taken."""
    wire = Wire()
    feed, lost = make(wire)
    has_left = False

    def end() -> None:
        nonlocal has_left
        has_left = True
        lost(None)

    wire.on_end = end
    link.asks.clear()
    for piece in pieces:
        for _ in range(PATIENCE_TURNS):
            if not wire.is_paused or wire.has_ended:
                break
            await asyncio.sleep(0)
        if wire.has_ended or wire.is_paused:
            break
        feed(piece)
        if len(piece) > 1 or piece == b"\n":
            await asyncio.sleep(0)
    quiet, before = 0, (-1, -1)
    while quiet < QUIET_TURNS:
        now = len(wire.written), len(link.asks)
        quiet = quiet + 1 if now == before and not link.waiting else 0
        before = now
        await asyncio.sleep(0)
    has_ended = wire.has_ended
    if not has_ended:
        wire.close()
    while not has_left:
        await asyncio.sleep(0)
    client = RawClient()
    client.received, client.has_ended = wire.written, has_ended
    asked = tuple(
        (ask.call.model, ask.call.version, tuple(bytes(one.data) for one in ask.call.inputs))
        for ask in link.asks
    )
    return Seen(tuple(client.so_far()), asked, has_ended)


# what is sent


def case(rng: random.Random) -> bytes:
    """Return the bytes of some requests, most of which are spoilt somewhere."""
    data = b"".join(_request(rng) for _ in range(rng.randrange(1, 5)))
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                data = data[:at] + rng.choice(SPICE) + data[at + rng.randrange(4) :]
            case 1:
                data = data[:at] + data[at + rng.randrange(1, 30) :]
            case 2:
                end = at + rng.randrange(1, 200)
                data = data[:end] + data[at:end] + data[end:]
            case 3:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case _:
                data = _in_a_head(data, rng)
    return data


def pieces_of(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """Yield the bytes cut at random places: nowhere, at a few, or at many."""
    cuts = rng.choice((0, 1, 1, 2, 3, 10, 100))
    places = sorted(rng.randrange(len(data) + 1) for _ in range(cuts))
    for begin, end in zip((0, *places), (*places, len(data)), strict=True):
        if begin < end:
            yield data[begin:end]


def _request(rng: random.Random) -> bytes:
    name = f"n{rng.randrange(1000)}"
    body = rng.choice((*[json_body(name)] * 5, BAIT, b"", rng.randbytes(30)))
    path = rng.choice(
        (INFER, INFER, INFER, "/v2/models/m/versions/1/infer", "/v2/repository/index")
    )
    headers = tuple(rng.sample(_HEADERS, rng.choice((0, 0, 0, 1, 2))))
    match rng.randrange(8):
        case 0 | 1 | 2 | 3:
            return request(path, body, *headers)
        case 4:
            return chunked(path, body, *headers, size=rng.choice((1, 17, 1 << 16)))
        case 5:
            return request(path, body, *headers, length=len(body) + rng.choice((-1, 1, 3)))
        case 6:
            length = rng.choice((b"0%d", b"+%d", b" %d", b"%d ", b"%d,%d", b"%d\t", b"0x%x"))
            said = length % ((len(body),) * length.count(b"%"))
            return request(path, body, *headers, length=said)
        case _:
            method = rng.choice((b"GET", b"GET", b"PUT", b"OPTIONS", b"DELETE"))
            there = rng.choice(("/v2/health/live", "/v2", "/v2/models/m", "/nothing", "*", INFER))
            return request(there, b"", *headers, method=method)


# No `Connection: upgrade`: what comes in one read with such a request, behind it, aiohttp never looks at; in a read of its own it does.
_HEADERS: Final = (
    b"Connection: keep-alive",
    b"Connection: close",
    b"Connection: Keep-Alive, Close",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Expect: more",
    b"Content-Type: application/json",
    b"Content-Encoding: identity",
    b"Inference-Header-Content-Length: 10",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Content-Length: 7",
    b"X-Capamesh-Tenant: t",
    b"X-Odd:",
    b"X-Odd:\ta \t",
    b"Host: y",
)


def _in_a_head(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one more header, or something that is none, behind some line."""
    places = [at for at in range(len(data)) if data.startswith(b"\r\n", at)]
    if not places:
        return data
    at = rng.choice(places)
    return data[:at] + b"\r\n" + rng.choice(_HEADERS) + data[at:]


# the comparison


def compared(answer: RawAnswer) -> object:
    """Return what of an answer must be equal: of what is no request, the status alone."""
    if answer.body.startswith(b'{"error":"the request cannot be read'):
        return answer.status
    return essence(answer)


def difference(ours: Seen, theirs: Seen) -> str:
    """Return what a front saw that aiohttp did not; empty: nothing."""
    mine, others = [*map(compared, ours.answers)], [*map(compared, theirs.answers)]
    if ours.asked != theirs.asked[: len(ours.asked)]:
        return "other requests have reached the node"
    if mine == others and ours.asked == theirs.asked:
        is_one_alone = ours.has_ended != theirs.has_ended
        return f"one has hung up: the front {ours.has_ended}" if is_one_alone else ""
    if waits(ours, theirs, len(mine)) and mine == others[:-1]:
        return ""
    *before, last = ours.answers or [None]
    if last is None or last.status not in REFUSALS or not ours.has_ended:
        return "the front has given other answers, and has not refused"
    if mine[:-1] != others[: len(before)]:
        return "the front has given other answers before it refused"
    return ""


def waits(ours: Seen, theirs: Seen, count: int) -> bool:
    """Return whether a front that gave `count` answers waits for the rest of a head of which aiohttp has seen enough."""
    rest = theirs.answers[count:]
    is_refused = len(rest) == 1 and rest[0].status in REFUSALS and theirs.has_ended
    return is_refused and not ours.has_ended and ours.asked == theirs.asked


async def try_case(http: Http, link: FakeLink, number: int) -> Counter[str]:
    """Try one case; raise `Difference`. Return what it came to, to be added up."""
    rng = random.Random(number)
    data = case(rng)
    # aiohttp forgets whole requests before a broken one in the same read: not byte by byte
    bytewise = (bytes([byte]) for byte in data)
    theirs = await seen_by(lambda wire: of_aiohttp(http, wire), bytewise, link)
    ours = await seen_by(lambda wire: of_front(http, wire), pieces_of(data, rng), link)
    found = difference(ours, theirs)
    if found:
        raise Difference(
            f"case {number}: {found}\n  {data!r}\n  front: {[*map(compared, ours.answers)]}, asked {ours.asked}"
            f"\naiohttp: {[*map(compared, theirs.answers)]}, asked {theirs.asked}"
        )
    refused = sum(each.status in REFUSALS for each in ours.answers)
    return Counter({"requests": len(theirs.asked), "refused": refused})


async def test_front_sees_no_other_requests_than_aiohttp() -> None:
    cases = seeds(300)
    done: Counter[str] = Counter()
    async with tidy() as http:
        link = http.node("A", echo)
        for number in cases:
            done += await try_case(http, link, number)
        assert http.front.requests.count == 0
        assert (http.front.budget.used_bytes, http.front.budget.arriving_bytes) == (0, 0)
        assert not len(http.front.connections)
    assert done["requests"] > len(cases) // 4
    assert done["refused"] > len(cases) // 10
