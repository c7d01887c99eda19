"""Bodies that are large, slow, packed, late, cut short or none."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest
from fleet_fakes import answer_of, answering, fp32, hang
from loop_clock import LoopClock
from raw_http import LAST, RawAnswer, ask, chunked, connected, exchange, request, statuses, turns
from router_http import INFER, Http
from tidy_router import check, essence, infer, json_body, of_kind, tidy

from capamesh.protocol.oip import encode_request
from capamesh.protocol.tensors import Limits, Tensor

BODY = json_body("one")
LENGTH = b"Inference-Header-Content-Length: %d"
HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\n" % INFER.encode()


def binary(tensor: Tensor, name: str = "one") -> bytes:
    buffers, json_bytes = encode_request([tensor], id=name)
    return request(INFER, b"".join(buffers), LENGTH % (json_bytes or 0))


def numbers_of(answer: RawAnswer) -> list[float]:
    end = int(answer.get("Inference-Header-Content-Length") or "0")
    assert answer.status == 200
    assert answer.get("Content-Type") == "application/octet-stream"
    return list(np.frombuffer(answer.body[end:], "<f4").tolist())


# no body


@pytest.mark.parametrize("kind", ["no length", "length 0", "no chunks"])
async def test_request_without_a_body_is_a_400_and_the_connection_goes_on(
    http: Http, kind: str
) -> None:
    link = http.node("A")
    data = {
        "no length": HEAD + b"\r\n",
        "length 0": request(INFER),
        "no chunks": chunked(INFER, b""),
    }[kind]
    for parts in ((data + LAST,), tuple(bytes([byte]) for byte in data + LAST)):
        first, last = await exchange(http.client.port, *parts)
        assert (first.status, last.status) == (400, 200)
        assert first.error.startswith("no JSON in a body of 0 bytes (JSON length 0)")
    assert link.asks == []


async def test_body_without_a_length_is_no_body_and_no_request(http: Http) -> None:
    """What follows the head is read as a request, which it is not. In one write the two may be one refusal."""
    link = http.node("A")
    head, body = HEAD + b"\r\n", BODY + infer("in")
    assert statuses(await exchange(http.client.port, head + body)) in ([400], [400, 400])
    assert statuses(await exchange(http.client.port, head, body)) == [400, 400]
    assert link.asks == []


# large


async def test_large_tensors_in_pieces_of_any_size_come_back_as_they_were(http: Http) -> None:
    link = http.node("A")
    tensors = [
        fp32("x", *np.random.default_rng(seed).random((75_001, 2), np.float32)) for seed in range(3)
    ]
    async with connected(http.client.port) as client:
        for size in (1000, 4093, 16_384, 65_535, 65_537, 262_144, 600_001, 10_000_000):
            for tensor in tensors:
                data = binary(tensor)
                cuts = [data[at : at + size] for at in range(0, len(data), size)]
                for piece in cuts:
                    client.transport.write(piece)
                    await turns(2)
                answer = await client.answer()
                assert answer.status == 200
                assert answer.body.endswith(bytes(tensor.data))
                assert link.asks[-1].call.inputs == (tensor,)
                link.asks.clear()


async def test_large_body_may_come_byte_by_byte_at_its_ends(http: Http) -> None:
    http.node("A")
    tensor = fp32("x", *np.random.default_rng(9).random((75_001, 2), np.float32))
    data = binary(tensor)
    ends = 600
    pieces = [
        *(data[at : at + 1] for at in range(ends)),
        data[ends:-ends],
        *(data[at : at + 1] for at in range(len(data) - ends, len(data) - 1)),
        data[-1:] + infer("next") + data + LAST,
    ]
    first, second, third, last = await exchange(http.client.port, *pieces)
    assert first.body.endswith(bytes(tensor.data))
    check(second, "infer", "next")
    assert (essence(third), last.status) == (essence(first), 200)


async def test_tensors_of_earlier_requests_stay_as_they_were(http: Http) -> None:
    first, second = http.node("A", hang), http.node("B", hang)
    del second
    async with connected(http.client.port) as client, connected(http.client.port) as other:
        await client.send(binary(fp32("x", [1, 2], [3, 4]), "first"))
        await first.asked.wait()
        for number in range(20):
            await other.send(binary(fp32("x", [number, 5], [6, 7]), f"n{number}"))
            while len(first.asks) < number + 2:
                await turns()
            first.asks[-1].echo()
            assert numbers_of(await other.answer()) == [number, 5, 6, 7]
        first.asks[0].echo()
        assert numbers_of(await client.answer()) == [1, 2, 3, 4]


# over the limit


async def test_limit_is_the_last_size_that_is_taken() -> None:
    async with tidy(limits=Limits(max_message_bytes=1000)) as http:
        link = http.node("A")
        full = BODY + b" " * (1000 - len(BODY))
        for data in (request(INFER, full), chunked(INFER, full), chunked(INFER, full, size=7)):
            assert statuses(await exchange(http.client.port, data + LAST)) == [200, 200]
        lengths = (b"1001", b"00001001", b"300000000", b"%d" % 2**62, b"%d" % (2**64 - 1))
        for data in (
            *(request(INFER, length=length) for length in lengths),  # by its head alone
            *(chunked(INFER, full + b" "), chunked(INFER, full + b" " * 999, size=999)),
        ):
            answer = await ask(http.client.port, data)
            assert (answer.status, answer.get("X-Capamesh-Error")) == (413, "too_large")
            assert answer.error.startswith("the request's body is over the limit of 1000 bytes")
        assert len(link.asks) == 3


@pytest.mark.parametrize("body", [b"a" * 1001, infer("inner").ljust(1001)], ids=["filler", "inner"])
async def test_body_over_the_limit_is_not_read_as_requests(body: bytes) -> None:
    """The connection goes on behind that body, or ends before it."""
    async with tidy(limits=Limits(max_message_bytes=1000)) as http:
        link = http.node("A")
        for parts in (
            (request(INFER, body) + infer("next") + LAST,),
            (request(INFER, length=1001), body, infer("next"), LAST),
        ):
            async with connected(http.client.port) as client:
                for part in parts:
                    if not client.has_ended:
                        await client.send(part)
                answers = await client.rest()
            assert statuses(answers) in ([413], [413, 200, 200])
            assert len(link.asks) == len(answers) // 2
            link.asks.clear()


# late


@pytest.mark.parametrize("sent", [b"", b'{"inputs": ['])
async def test_body_that_does_not_come_in_time_is_a_408(sent: bytes) -> None:
    async with tidy(arrival_s=0.2) as http:
        link = http.node("A")
        async with connected(http.client.port) as client:
            await client.send(request(INFER, length=5000) + sent)
            answer = await client.answer()
            assert answer.status == 408
            assert answer.error == (
                f"{len(sent)} of 5000 bytes of the request's body came within 0.2 s, the limit; send it "
                "faster or in smaller requests, or give the router a longer --arrival"
            )
            # what comes too late is no request, whether or not the connection is kept
            inner = infer("inner")
            late = inner * ((5000 - len(sent)) // len(inner) + 1)
            await client.send(late[: 5000 - len(sent)])
            if not client.has_ended:
                await client.send(LAST)
            assert statuses(await client.rest()) in ([], [200])
        assert link.asks == []
        check(await ask(http.client.port, infer("two")), "infer", "two")


async def test_body_that_trickles_is_given_no_more_time() -> None:
    async with tidy(arrival_s=0.2) as http:
        link = http.node("A")
        async with connected(http.client.port) as client:
            slow = request(INFER, b"", LENGTH % 9, length=10**8)
            await client.send(infer("good") + slow)
            check(await client.answer(), "infer", "good")
            while not client.received:
                await client.send(b" ")
            assert (await client.answer()).status == 408
        assert len(link.asks) == 1


async def test_time_for_a_body_is_not_the_time_for_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = LoopClock(monkeypatch)
    async with tidy(arrival_s=20.0) as http:
        link = http.node("A", hang)
        async with connected(http.client.port) as client, connected(http.client.port) as late:
            data = infer("one")
            await client.send(data[:-1], data[-1:])
            await link.asked.wait()
            await late.send(request(INFER, length=9))
            while http.front.requests.count < 2:
                await turns()
            clock.set_forward(21.0)
            assert (await late.answer()).status == 408  # so this time is over
            link.asks[0].echo()
            check(await client.answer(), "infer", "one")


# packed, announced, in chunks


def raw_deflate(data: bytes) -> bytes:
    """Return it without its frame, as some send it."""
    return zlib.compress(data, wbits=-15)


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        (b"gzip", gzip.compress(BODY, mtime=0)),
        (b"deflate", zlib.compress(BODY)),
        (b"deflate", raw_deflate(BODY)),
        (b"GZIP", gzip.compress(BODY, mtime=0)),
    ],
)
async def test_packed_body_is_unpacked(http: Http, coding: bytes, packed: bytes) -> None:
    http.node("A")
    data = request(INFER, packed, b"Content-Encoding: " + coding)
    for parts in ((data + infer("two") + LAST,), (data[:-5], data[-5:], infer("two") + LAST)):
        first, second, last = await exchange(http.client.port, *parts)
        check(first, "infer", "one")
        check(second, "infer", "two")
        assert last.status == 200


@pytest.mark.parametrize(
    ("coding", "packed", "error"),
    [
        (b"gzip", b"junk", "cannot be decoded: gzip: Error -3 while decompressing data"),
        (b"deflate", b"junk", "the request's body cannot be decoded: deflate: "),
        (b"gzip", gzip.compress(BODY, mtime=0)[:-9], "cannot be decoded: gzip: it ends too early"),
        (b"gzip", b"", "cannot be decoded: gzip: it ends too early"),
        (b"gzip", gzip.compress(BODY, mtime=0) + b"x", "gzip: it goes on behind its end"),
        (b"br", b"junk", "Content-Encoding is 'br'; it may be gzip, x-gzip, deflate"),
        (b"gzip, gzip", b"junk", "Content-Encoding is 'gzip, gzip'"),
    ],
)
async def test_body_whose_coding_is_broken_is_a_400_and_its_connection_goes_on(
    http: Http, coding: bytes, packed: bytes, error: str
) -> None:
    http.node("A")
    data = request(INFER, packed, b"Content-Encoding: " + coding)
    refused, second, last = await exchange(http.client.port, data + infer("two") + LAST)
    assert (refused.status, error in refused.error) == (400, True), refused
    check(second, "infer", "two")
    assert last.status == 200


async def test_body_that_unpacks_to_far_too_much_is_a_413(http: Http) -> None:
    def bomb(size: int) -> bytes:
        packed = gzip.compress(BODY + bytes(size), mtime=0)
        return request(INFER, packed, b"Content-Encoding: gzip")

    answer = await ask(http.client.port, bomb(50 * 2**20))
    assert (answer.status, "unpacks to more than 200 times" in answer.error) == (413, True)
    assert http.front.budget.used_bytes == 0
    async with tidy(limits=Limits(max_message_bytes=1000)) as narrow:
        assert (await ask(narrow.client.port, bomb(100_000))).status == 413


BROKEN = (
    *(b"%b\r\njunk\r\n0\r\n\r\n" % size for size in (b"zz", b"-1", b"4 ", b"3", b"f" * 19)),
    *(b"0x1\r\nj\r\n0\r\n\r\n", b"4\njunk\n0\n\n"),
)


@pytest.mark.parametrize("chunks", BROKEN)
async def test_body_whose_coding_is_broken_is_a_400_and_the_end(http: Http, chunks: bytes) -> None:
    link = http.node("A")
    data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    assert statuses(await exchange(http.client.port, data, infer("two"))) == [400]
    seen = statuses(await exchange(http.client.port, infer("one"), data, infer("two")))
    assert (seen, len(link.asks)) == ([200, 400], 1)


async def test_chunks_may_have_extensions_and_trailers(http: Http) -> None:
    http.node("A")
    size = b"%x" % len(BODY)
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for data in (
        head + size + b";a=b\r\n" + BODY + b"\r\n0\r\n\r\n",
        head + size.upper() + b"\r\n" + BODY + b"\r\n0\r\nX-Trailer: a\r\n\r\n",
        head + b"000" + size + b"\r\n" + BODY + b"\r\n000\r\n\r\n",
    ):
        answers = await exchange(http.client.port, data + infer("two") + data + LAST)
        assert statuses(answers) == [200, 200, 200, 200]


@pytest.mark.parametrize("value", [b"100-continue", b"100-CONTINUE"])
async def test_client_that_expects_100_continue_gets_it(http: Http, value: bytes) -> None:
    link = http.node("A")
    head = HEAD + b"Expect: %b\r\nContent-Length: %d\r\n\r\n" % (value, len(BODY))
    async with connected(http.client.port) as client:
        for _ in range(2):
            await client.send(head)
            assert (await client.answer()).status == 100
            assert not client.received
            await client.send(BODY[:5], BODY[5:])
            check(await client.answer(), "infer", "one")
            await client.send(infer("two"))
            check(await client.answer(), "infer", "two")
        await client.send(head + BODY + LAST)
        assert statuses(await client.rest()) == [100, 200, 200]
    assert len(link.asks) == 5


async def test_another_expectation_is_a_417(http: Http) -> None:
    link = http.node("A")
    data = infer("one", b"Expect: the-unexpected")
    answers = await exchange(http.client.port, data + infer("two") + LAST)
    assert statuses(answers) == [417, 200, 200]
    text = "Expect is 'the-unexpected'; nothing but 100-continue can be expected"
    assert answers[0].error == text
    (odd, _) = await exchange(http.client.port, infer("three", b"Expect: \xea") + LAST)
    assert (odd.status, odd.error.startswith("Expect is '\\udcea'; ")) == (417, True)
    assert len(link.asks) == 1


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0"])
async def test_upgrade_is_not_taken_and_the_request_is_answered(http: Http, upgrade: bytes) -> None:
    http.node("A")
    headers = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + upgrade, b"HTTP2-Settings: A")
    one, two, last = await exchange(http.client.port, infer("one", *headers), infer("two"), LAST)
    check(one, "infer", "one")
    check(two, "infer", "two")
    assert last.status == 200


# junk


WRONG = (
    *(b"0", b"-1", b"1", b"99999", b"junk", b"", b"1 1", b"1e3", b"1.0", b"0x10"),
    "٣".encode(),
)


@pytest.mark.parametrize("length", WRONG)
async def test_wrong_length_of_the_json_is_a_400(http: Http, length: bytes) -> None:
    link = http.node("A")
    data = infer("one", b"Inference-Header-Content-Length: " + length)
    answers = await exchange(http.client.port, data + infer("two") + LAST)
    assert statuses(answers) == [400, 200, 200]
    assert "Inference-Header-Content-Length" in answers[0].error or "JSON" in answers[0].error
    assert len(link.asks) == 1


async def test_raw_bytes_that_are_too_few_or_too_many_are_a_400(http: Http) -> None:
    link = http.node("A")
    for size in (0, 7, 9, 2**62, -1, 1.5, "8", None):
        packed = {"binary_data_size": size}
        described = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": packed}
        head = json.dumps({"inputs": [described]}).encode()
        data = request(INFER, head + bytes(8), LENGTH % len(head))
        assert statuses(await exchange(http.client.port, data + LAST)) == [400, 200]
    assert link.asks == []


async def test_another_route_may_have_a_body_too(http: Http) -> None:
    http.node("A")
    big = request("/v2/repository/index", json.dumps({"ready": True}).encode().ljust(200_000))
    answers = await exchange(
        http.client.port, big + infer("one") + big + of_kind("index", "") + LAST
    )
    assert statuses(answers) == [200] * 5
    get = request("/v2/models/m", b"a body", method=b"GET")
    answers = await exchange(http.client.port, get + infer("one") + get + LAST)
    assert statuses(answers) == [200] * 4


# answers that are packed

LONG = fp32("y", *np.random.default_rng(0).random((10_000, 2)))
NONE, RAW = (
    json.dumps({"inputs": [], "parameters": {"binary_data_output": of}}).encode()
    for of in (False, True)
)
GZIP = b"Accept-Encoding: gzip, deflate"


async def test_long_json_comes_packed_to_who_takes_it_so_and_raw_bytes_to_who_packs_its_own(
    http: Http,
) -> None:
    http.node("A", answering(answer_of("1", LONG)))
    plain = await ask(http.client.port, request(INFER, NONE))
    assert plain.get("content-encoding") is None
    for coding, takes, unpack in (
        ("gzip", GZIP, gzip.decompress),
        ("deflate", b"Accept-Encoding: deflate", zlib.decompress),
    ):
        packed = await ask(http.client.port, request(INFER, NONE, takes))
        assert (packed.get("content-encoding"), packed.get("vary")) == (coding, "Accept-Encoding")
        assert unpack(packed.body) == plain.body
        assert len(packed.body) < len(plain.body) * 0.6
    raw = await ask(http.client.port, request(INFER, RAW, GZIP))
    assert raw.get("content-encoding") is None
    own = b"Content-Encoding: gzip"
    for _ in range(3):  # the form of the answer is known then
        packed = await ask(http.client.port, request(INFER, gzip.compress(RAW), GZIP, own))
        assert packed.get("content-encoding") == "gzip"
        length = "inference-header-content-length"
        assert packed.get(length) == raw.get(length)
        assert gzip.decompress(packed.body) == raw.body
    assert (await ask(http.client.port, request(INFER, gzip.compress(RAW), own))).body == raw.body


async def test_short_answer_comes_as_it_is(http: Http) -> None:
    http.node("A", answering(answer_of("1", fp32("y", [1.0, 2.0]))))
    answer = await ask(http.client.port, request(INFER, NONE, GZIP))
    assert answer.get("content-encoding") is None
