"""A head that can be read in two ways is refused, and what follows it is never read as a request."""

from __future__ import annotations

import pytest
from raw_http import LAST, LIVE, RawAnswer, RawClient, connected, exchange, statuses
from router_http import INFER, Http
from tidy_router import check, infer, json_body

TARGET = INFER.encode()
BODY = json_body("one")
SIZE = len(BODY)
HOST = b"Host: x"
LENGTH = b"Content-Length: %d" % SIZE
CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"
INNER = infer("inner") + LIVE
"""What a smuggler wants to be read as requests."""


def post(
    *lines: bytes, body: bytes = BODY + INNER, first: bytes = b"", end: bytes = b"\r\n"
) -> bytes:
    return end.join([first or b"POST %b HTTP/1.1" % TARGET, *lines]) + end * 2 + body


LENGTHS = (
    *(
        b"%d, %d" % (SIZE, SIZE),
        b"%d, 0" % SIZE,
        b"+%d" % SIZE,
        b"%d 5" % SIZE,
        b" 5 5",
        b"-1",
        b"-0",
    ),
    *(
        b"0x%x" % SIZE,
        b"5a",
        b"1_0",
        b"1e1",
        b"%d.0" % SIZE,
        b"9" * 23,
        b"18446744073709551616",
        b"",
    ),
    *(
        "٣".encode(),
        b"\xb2",
        b"%d\0" % SIZE,
        b"%d\x0b" % SIZE,
        b"%d\xa0" % SIZE,
        b'"%d"' % SIZE,
        b"%d\r" % SIZE,
    ),
)
CODING = b"Transfer-Encoding:"
"""Codings beside a length are of the body, those alone of its end."""
HEADERS: tuple[tuple[bytes, ...], ...] = (
    # how long the body is
    *(
        (LENGTH, b"%b: %b" % each)
        for each in ((b"Content-Length", b"%d" % SIZE), (b"content-length", b"0"))
    ),
    *((b"Content-Length: 0", LENGTH), (b"Content-Length:", b" %d" % SIZE), (b"Content-Length:",)),
    *((b"Content-Length%b: %d" % (each, SIZE),) for each in (b" ", b"\t")),
    *((LENGTH, CHUNKED), (CHUNKED, LENGTH), (CODING, LENGTH), (LENGTH, CODING, b" chunked")),
    *((LENGTH, CODING + each) for each in (b" identity", b"", b" xchunked")),
    *((LENGTH, b"Transfer-Encoding : chunked"), (LENGTH, b"TRANSFER-ENCODING: CHUNKED")),
    # where a line ends
    *((b"X-A: a\nX-B: b", LENGTH), (b"X-A: a\n" + LENGTH,)),
    *((LENGTH, each) for each in (b"X-A: a\rb", b"X-A: a\rContent-Length: 0")),
    *((LENGTH, b"X-A: a", each) for each in (b" b", b"\tb")),
    # names and values
    *((LENGTH, b"X-A: a%bb" % each) for each in (b"\0", b"\x01", b"\x7f")),
    *(
        (LENGTH, b"X%bA: a" % each)
        for each in (b"\0", b" ", b"(", b"@", b"/", b'"', b"-\xe9", "é".encode())
    ),
    *(
        (LENGTH, each)
        for each in (b"X-A : a", b": a", b"nothing", "\N{KELVIN SIGN}eep: a".encode())
    ),
    # who is meant
    *((LENGTH, each) for each in (HOST, b"hOST: y", b"Sec-WebSocket-Key1: a")),
    (LENGTH, b"Content-Type: a/b", b"Content-Type: a/b"),
    # sizes
    *((LENGTH, b"X-A: " + b"a" * 8191), (LENGTH, b"a" * 8191 + b": a")),
    *((LENGTH, *(b"X-%d: a" % n for n in range(count))) for count in (127, 998)),
)
TARGETS = (
    *(b"v2/models/m/infer", b"*", b"\\v2\\models\\m\\infer", "/v2/models/é/infer".encode()),
    *(
        b"/v2/models/%b/infer" % each
        for each in (b"\xff\xfe", b"m\0", b"m m", b"m\tm", b"m\r", b"a" * 8191)
    ),
    TARGET + b"?" + b"a" * 8191,
)
FIRST_LINES = (
    *(
        b"POST HTTP/1.1",
        b"POST  HTTP/1.1",
        b"POST\t%b\tHTTP/1.1" % TARGET,
        b" POST %b HTTP/1.1" % TARGET,
    ),
    *(b"%b %b HTTP/1.1" % (each, TARGET) for each in (b"post", b"POSTS")),
    *(
        b"POST %b %b" % (TARGET, each)
        for each in b"http/1.1 HTTP/1.2 HTTP/1.10 HTTP/11.1 HTTP/1.1x HTTP/1,1".split()
    ),
    b"POST %b HTTP/1.1 " % TARGET,
)
JUNK = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
    bytes(200),
    bytes(range(128, 256)),
)
HEAD = b"\r\n".join([b"POST %b HTTP/1.1" % TARGET, HOST, LENGTH])
REFUSED: tuple[bytes, ...] = (
    *(post(HOST, b"Content-Length: " + each) for each in LENGTHS),
    *(post(HOST, *each) for each in HEADERS),
    *(
        post(HOST, *each, body=END + INNER)
        for each in ((b"Content-Length: 5", CHUNKED), (CHUNKED, CHUNKED))
    ),
    *(
        post(HOST, CODING + each, body=END + INNER)
        for each in (b" xchunked", b" chunked, gzip", b" \x0bchunked")
    ),
    post(HOST, CHUNKED, b"Transfer-Encoding: identity", body=END + INNER),
    *(post(HOST, LENGTH, end=b"\n"), HEAD + b"\r\n\r\r" + BODY + INNER),
    *(post(LENGTH), post(b" " + HOST, LENGTH), post(b"\tX-A: b", HOST, LENGTH)),
    *(post(HOST, LENGTH, first=b"POST %b HTTP/1.1" % each) for each in TARGETS),
    *(post(HOST, LENGTH, first=each) for each in FIRST_LINES),
    *(each + b"\r\n\r\n" + INNER for each in JUNK),
)


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: repr(data[:90]))
async def test_head_that_is_none_is_a_400_and_the_end(http: Http, data: bytes) -> None:
    link = http.node("A")
    (refusal,) = await exchange(http.client.port, data + LAST)
    assert (refusal.status, refusal.get("X-Capamesh-Error")) == (400, "invalid_request")
    assert refusal.error.startswith("the request cannot be read: ")
    assert refusal.is_last
    assert link.asks == []
    # behind a good one
    first, second = await exchange(http.client.port, infer("good"), data + LAST)
    check(first, "infer", "good")
    assert (second.status, len(link.asks)) == (400, 1)
    # in one write with it, which may cost it its answer
    seen = statuses(await exchange(http.client.port, infer("good") + data + LAST))
    assert seen in ([200, 400], [400])
    assert {asked.call.model for asked in link.asks} == {"m"}
    assert len(link.asks) == seen.count(200) + 1
    # byte by byte, or in pieces
    size = 1000 if len(data) > 4000 else 1
    link.asks.clear()
    assert statuses(await in_pieces(http, data, size)) == [400]
    assert link.asks == []
    first, second = await in_pieces(http, infer("good") + data, size)
    check(first, "infer", "good")
    assert (second.status, len(link.asks)) == (400, 1)


async def send_while_open(client: RawClient, *parts: bytes) -> None:
    for part in parts:
        if client.has_ended:
            return
        await client.send(part)


async def in_pieces(http: Http, data: bytes, size: int) -> list[RawAnswer]:
    async with connected(http.client.port) as client:
        await send_while_open(client, *(data[at : at + size] for at in range(0, len(data), size)))
        return await client.rest()


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"", b"A"),
        (b"POST /v2/models/", b"a"),
        (b"POST %b HTTP/1.1\r\nHost: x\r\n" % TARGET, b"X-Filler: some\r\n"),
        (b"POST %b HTTP/1.1\r\nHost: x\r\nX-A: " % TARGET, b"a"),
        (b"POST %b HTTP/1.1\r\nHost: x\r\nX-" % TARGET, b"a"),
        (b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: " % TARGET, b"0"),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\n", b"X-Filler: some\r\n"),
    ],
    ids=["nothing", "target", "headers", "value", "name", "zeros", "headers of GET"],
)
async def test_head_that_never_ends_is_ended(http: Http, start: bytes, more: bytes) -> None:
    """It costs its sender the connection before the router has taken 4 MiB of it."""
    link = http.node("A")
    block = more * (65536 // len(more))
    async with connected(http.client.port) as client:
        await client.send(start)
        await send_while_open(client, *[block] * 64)
        assert client.has_ended
        assert set(statuses(await client.rest())) <= {400, 431}
    assert link.asks == []
    assert statuses(await exchange(http.client.port, LAST)) == [200]


async def test_endless_empty_lines_are_no_request(http: Http) -> None:
    http.node("A")
    answers = await exchange(http.client.port, *[b"\r\n" * 1000] * 20, infer("one") + LAST)
    assert statuses(answers) in ([200, 200], [400])


@pytest.mark.parametrize(
    "first",
    [
        b"POST %b",
        b"POST %b HTTP/2.0",
        b"POST  %b HTTP/1.1",
        b"POST %b  HTTP/1.1",
        b"POST %b RTSP/1.1",
    ],
)
async def test_first_line_that_some_take_is_at_most_the_one_request_that_it_says(
    http: Http, first: bytes
) -> None:
    """A version that is none, or odd spaces: refused or answered, and the body is a body in either case."""
    link = http.node("A")
    data = post(HOST, LENGTH, b"Connection: close", first=first % TARGET, body=BODY)
    async with connected(http.client.port) as client:
        await client.send(data)
        await client.ended()
        assert bytes(client.received).split(b" ")[1] in {b"200", b"400"}
        assert client.received.count(b"HTTP/") == 1
    assert len(link.asks) <= 1


@pytest.mark.parametrize("lines", [b"\n\n", b"\r\r", b"\r\n\n\r"])
async def test_odd_line_ends_before_a_request_are_nothing_or_refused(
    http: Http, lines: bytes
) -> None:
    http.node("A")
    seen = statuses(await exchange(http.client.port, lines + infer("one") + LAST))
    assert seen in ([200, 200], [400])


@pytest.mark.parametrize("count", [1, 64, 126])
async def test_head_of_the_most_headers_is_taken(http: Http, count: int) -> None:
    http.node("A")
    data = post(HOST, LENGTH, *(b"X-%d: a" % n for n in range(count)), body=BODY)
    answers = await exchange(http.client.port, data + data + LAST)
    assert statuses(answers) == [200, 200, 200]


async def test_headers_as_long_as_they_may_be(http: Http) -> None:
    http.node("A")
    option = b"X-Capamesh-Affinity: " + b"a" * 1024
    data = post(HOST, option, b"X-A: " + b"a" * 8000, LENGTH, body=BODY)
    pieces = [data[at : at + 500] for at in range(0, len(data), 500)]
    assert statuses(await exchange(http.client.port, data, *pieces, LAST)) == [200, 200, 200]
    long = b"/v2/models/" + b"a" * 8000 + b"/infer"
    data = post(HOST, LENGTH, body=BODY, first=b"POST %b HTTP/1.1" % long)
    answers = await exchange(http.client.port, data, LAST)
    assert statuses(answers) == [404, 200]
    assert "a" * 8000 in answers[0].error
