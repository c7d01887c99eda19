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


def target(path: bytes) -> bytes:
    return post(HOST, LENGTH, first=b"POST %b HTTP/1.1" % path)


REFUSED = {
    # how long the body is
    "two lengths": post(HOST, LENGTH, LENGTH),
    "two lengths that differ": post(HOST, LENGTH, b"Content-Length: 0"),
    "two lengths that differ, the other way": post(HOST, b"Content-Length: 0", LENGTH),
    "two lengths in two cases": post(HOST, LENGTH, b"content-length: 0"),
    "a list of lengths": post(HOST, b"Content-Length: %d, %d" % (SIZE, SIZE)),
    "a list of lengths that differ": post(HOST, b"Content-Length: %d, 0" % SIZE),
    "a length with a plus": post(HOST, b"Content-Length: +%d" % SIZE),
    "a length with a space": post(HOST, b"Content-Length: %d 5" % SIZE),
    "a length with spaces around and in it": post(HOST, b"Content-Length:  5 5"),
    "a negative length": post(HOST, b"Content-Length: -1"),
    "a length of minus 0": post(HOST, b"Content-Length: -0"),
    "a length in hex": post(HOST, b"Content-Length: 0x%x" % SIZE),
    "a length in hex digits": post(HOST, b"Content-Length: 5a"),
    "a length with an underscore": post(HOST, b"Content-Length: 1_0"),
    "a length with an exponent": post(HOST, b"Content-Length: 1e1"),
    "a length with a point": post(HOST, b"Content-Length: %d.0" % SIZE),
    "a length over 64 bits": post(HOST, b"Content-Length: 99999999999999999999999"),
    "a length of 2 ** 64": post(HOST, b"Content-Length: 18446744073709551616"),
    "an empty length": post(HOST, b"Content-Length: "),
    "an emptier length": post(HOST, b"Content-Length:"),
    "a length in Arabic digits": post(HOST, "Content-Length: ٣".encode()),
    "a length in superscript": post(HOST, b"Content-Length: \xb2"),
    "a length with NUL": post(HOST, LENGTH + b"\0"),
    "a length with a vertical tab": post(HOST, LENGTH + b"\x0b"),
    "a length with a no-break space": post(HOST, LENGTH + b"\xa0"),
    "a length in quotes": post(HOST, b'Content-Length: "%d"' % SIZE),
    "a length and chunks": post(HOST, LENGTH, CHUNKED),
    "chunks and a length": post(HOST, CHUNKED, LENGTH),
    "a length and chunks that are there": post(
        HOST, b"Content-Length: 5", CHUNKED, body=END + INNER
    ),
    "a length and identity": post(HOST, LENGTH, b"Transfer-Encoding: identity"),
    "an empty coding and a length": post(HOST, b"Transfer-Encoding:", LENGTH),
    "a length and an empty coding": post(HOST, LENGTH, b"Transfer-Encoding:"),
    "a length and a coding that nobody knows": post(HOST, LENGTH, b"Transfer-Encoding: xchunked"),
    "a length and chunks, folded": post(HOST, LENGTH, b"Transfer-Encoding:", b" chunked"),
    "a length and chunks, a space before the colon": post(
        HOST, LENGTH, b"Transfer-Encoding : chunked"
    ),
    "a length and chunks in capitals": post(HOST, LENGTH, b"TRANSFER-ENCODING: CHUNKED"),
    "a coding that nobody knows": post(HOST, b"Transfer-Encoding: xchunked", body=END + INNER),
    "chunks before another coding": post(
        HOST, b"Transfer-Encoding: chunked, gzip", body=END + INNER
    ),
    "chunks after a vertical tab": post(HOST, b"Transfer-Encoding: \x0bchunked", body=END + INNER),
    "chunks twice": post(HOST, CHUNKED, CHUNKED, body=END + INNER),
    "chunks and identity": post(HOST, CHUNKED, b"Transfer-Encoding: identity", body=END + INNER),
    # where a line ends
    "bare line feeds": post(HOST, LENGTH, end=b"\n"),
    "a bare line feed in a head": post(HOST, b"X-A: a\nX-B: b", LENGTH),
    "a bare line feed before the length": post(HOST, b"X-A: a\n" + LENGTH),
    "a bare carriage return in a value": post(HOST, LENGTH, b"X-A: a\rb"),
    "a header behind a bare carriage return": post(HOST, LENGTH, b"X-A: a\rContent-Length: 0"),
    "two carriage returns": post(HOST, LENGTH + b"\r"),
    "a head that ends in two carriage returns": b"\r\n".join(
        [b"POST %b HTTP/1.1" % TARGET, HOST, LENGTH]
    )
    + b"\r\n\r\r"
    + BODY
    + INNER,
    "a folded value": post(HOST, LENGTH, b"X-A: a", b" b"),
    "a value folded by a tab": post(HOST, LENGTH, b"X-A: a", b"\tb"),
    "a folded length": post(HOST, b"Content-Length:", b" %d" % SIZE),
    "a first header that is folded": post(b" " + HOST, LENGTH),
    "a first line that is folded": post(b"\tX-A: b", HOST, LENGTH),
    # names and values
    "NUL in a value": post(HOST, LENGTH, b"X-A: a\0b"),
    "NUL in a name": post(HOST, LENGTH, b"X\0A: a"),
    "a control character in a value": post(HOST, LENGTH, b"X-A: a\x01b"),
    "DEL in a value": post(HOST, LENGTH, b"X-A: a\x7fb"),
    "a space in a name": post(HOST, LENGTH, b"X A: a"),
    "a space before a colon": post(HOST, LENGTH, b"X-A : a"),
    "a space before the length's colon": post(HOST, b"Content-Length : %d" % SIZE),
    "a tab before the length's colon": post(HOST, b"Content-Length\t: %d" % SIZE),
    "no name": post(HOST, LENGTH, b": a"),
    "no colon": post(HOST, LENGTH, b"nothing"),
    "a parenthesis in a name": post(HOST, LENGTH, b"X(A): a"),
    "an at sign in a name": post(HOST, LENGTH, b"X@A: a"),
    "a slash in a name": post(HOST, LENGTH, b"X/A: a"),
    "a quote in a name": post(HOST, LENGTH, b'X"A: a'),
    "UTF-8 in a name": post(HOST, LENGTH, "X-é: a".encode()),
    "Latin-1 in a name": post(HOST, LENGTH, b"X-\xe9: a"),
    "a Kelvin sign for a k in a name": post(HOST, LENGTH, "\N{KELVIN SIGN}eep: a".encode()),
    # who is meant
    "no host": post(LENGTH),
    "two hosts": post(HOST, HOST, LENGTH),
    "two hosts that differ": post(HOST, LENGTH, b"hOST: y"),
    "two content types": post(HOST, LENGTH, b"Content-Type: a/b", b"Content-Type: a/b"),
    "keys of an old websocket": post(HOST, LENGTH, b"Sec-WebSocket-Key1: a"),
    # the first line
    "no slash": target(b"v2/models/m/infer"),
    "a star": target(b"*"),
    "backslashes": target(b"\\v2\\models\\m\\infer"),
    "UTF-8 in the target": target("/v2/models/é/infer".encode()),
    "bytes in the target": target(b"/v2/models/\xff\xfe/infer"),
    "NUL in the target": target(b"/v2/models/m\0/infer"),
    "a space in the target": target(b"/v2/models/m m/infer"),
    "a tab in the target": target(b"/v2/models/m\tm/infer"),
    "a bare carriage return in the target": target(b"/v2/models/m\r/infer"),
    "no target": post(HOST, LENGTH, first=b"POST HTTP/1.1"),
    "an empty target": post(HOST, LENGTH, first=b"POST  HTTP/1.1"),
    "a space behind the version": post(HOST, LENGTH, first=b"POST %b HTTP/1.1 " % TARGET),
    "a space before the method": post(HOST, LENGTH, first=b" POST %b HTTP/1.1" % TARGET),
    "tabs for spaces": post(HOST, LENGTH, first=b"POST\t%b\tHTTP/1.1" % TARGET),
    "a method in lower case": post(HOST, LENGTH, first=b"post %b HTTP/1.1" % TARGET),
    "a method that nobody knows": post(HOST, LENGTH, first=b"POSTS %b HTTP/1.1" % TARGET),
    "HTTP in lower case": post(HOST, LENGTH, first=b"POST %b http/1.1" % TARGET),
    "HTTP/1.2": post(HOST, LENGTH, first=b"POST %b HTTP/1.2" % TARGET),
    "HTTP/1.10": post(HOST, LENGTH, first=b"POST %b HTTP/1.10" % TARGET),
    "HTTP/11.1": post(HOST, LENGTH, first=b"POST %b HTTP/11.1" % TARGET),
    "HTTP/1.1 and more": post(HOST, LENGTH, first=b"POST %b HTTP/1.1x" % TARGET),
    "HTTP/1,1": post(HOST, LENGTH, first=b"POST %b HTTP/1,1" % TARGET),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50) + b"\r\n\r\n" + INNER,
    "zeros": bytes(200) + b"\r\n\r\n" + INNER,
    "bytes": bytes(range(128, 256)) + b"\r\n\r\n" + INNER,
    # sizes
    "a value that is too long": post(HOST, LENGTH, b"X-A: " + b"a" * 8191),
    "a name that is too long": post(HOST, LENGTH, b"a" * 8191 + b": a"),
    "a target that is too long": target(b"/v2/models/%b/infer" % (b"a" * 8191)),
    "a query that is too long": target(TARGET + b"?" + b"a" * 8191),
    "129 headers": post(HOST, LENGTH, *(b"X-%d: a" % n for n in range(127))),
    "1000 headers": post(HOST, LENGTH, *(b"X-%d: a" % n for n in range(998))),
}
LONG = {name for name, data in REFUSED.items() if len(data) > 4000}


@pytest.mark.parametrize("name", REFUSED)
async def test_head_that_is_none_is_a_400_and_the_end(http: Http, name: str) -> None:
    link = http.node("A")
    data = REFUSED[name]
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


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in LONG])
async def test_head_that_is_none_is_so_byte_by_byte_too(http: Http, name: str) -> None:
    link = http.node("A")
    data = REFUSED[name]
    assert statuses(await bytewise(http, data)) == [400]
    assert link.asks == []
    first, second = await bytewise(http, infer("good") + data)
    check(first, "infer", "good")
    assert (second.status, len(link.asks)) == (400, 1)


async def bytewise(http: Http, data: bytes) -> list[RawAnswer]:
    async with connected(http.client.port) as client:
        await send_while_open(client, *(bytes([byte]) for byte in data))
        return await client.rest()


@pytest.mark.parametrize("name", sorted(LONG))
async def test_head_that_is_too_long_is_so_in_pieces_too(http: Http, name: str) -> None:
    link = http.node("A")
    data = REFUSED[name]
    async with connected(http.client.port) as client:
        await send_while_open(client, *(data[at : at + 1000] for at in range(0, len(data), 1000)))
        assert statuses(await client.rest()) == [400]
    assert link.asks == []


async def send_while_open(client: RawClient, *parts: bytes) -> None:
    for part in parts:
        if client.has_ended:
            return
        await client.send(part)


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
