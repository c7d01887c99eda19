"""However a request's bytes come, its answer is the same, and the next request begins where it ends."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from fleet_fakes import fp32
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_http import LAST, LIVE, ask, connected, exchange, request, statuses
from router_http import INFER, Http
from tidy_router import KINDS, X, check, essence, infer, json_body, of_kind, tidy

from capamesh.protocol.oip import encode_request

BUFFERS, JSON_BYTES = encode_request([fp32("x", [3, 4])], id="binary")
BINARY = request(
    INFER, b"".join(BUFFERS), b"Inference-Header-Content-Length: %d" % (JSON_BYTES or 0)
)
WHOLE = infer("one", b"User-Agent: a test", b"X-Capamesh-Affinity: session", b"Accept: */*")


@pytest.mark.parametrize(
    "data",
    [WHOLE, BINARY, *(of_kind(kind, "one") for kind in KINDS)],
    ids=["options", "binary", *KINDS],
)
async def test_request_in_two_pieces_cut_anywhere_is_answered_as_in_one(
    http: Http, data: bytes
) -> None:
    http.node("A")
    expected = essence(await ask(http.client.port, data))
    async with connected(http.client.port) as client:
        for at in range(1, len(data)):
            await client.send(data[:at], data[at:])
            assert essence(await client.answer()) == expected, at


@settings(max_examples=15)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=8),
    cuts=st.lists(st.floats(0, 1), max_size=12),
)
def test_any_requests_cut_in_any_way_are_answered_in_order(
    kinds: list[str], cuts: list[float]
) -> None:
    async def scenario() -> None:
        async with tidy() as http:
            http.node("A")
            data = b"".join(of_kind(kind, f"n{number}") for number, kind in enumerate(kinds)) + LAST
            ends = sorted(round(cut * len(data)) for cut in cuts)
            pieces = [data[a:b] for a, b in itertools.pairwise([0, *ends, len(data)]) if a < b]
            answers = await exchange(http.client.port, *pieces)
            assert len(answers) == len(kinds) + 1
            for number, kind in enumerate(kinds):
                check(answers[number], kind, f"n{number}")

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["infer", "metadata"])
async def test_answer_before_the_last_does_not_say_close(http: Http, kind: str) -> None:
    http.node("A")
    answer = await ask(http.client.port, of_kind(kind, "one"))
    assert not answer.is_last
    data = of_kind(kind, "one").replace(b"\r\n", b"\r\nConnection: keep-alive\r\n", 1)
    assert statuses(await exchange(http.client.port, data, LAST)) == [200, 200]


async def test_http_1_0_has_no_second_request_unless_it_asks_to(http: Http) -> None:
    link = http.node("A")
    old = infer("old").replace(b"HTTP/1.1", b"HTTP/1.0")
    (answer,) = await exchange(http.client.port, old)
    check(answer, "infer", "old")
    kept = old.replace(b"\r\n", b"\r\nConnection: keep-alive\r\n", 1)
    async with connected(http.client.port) as client:
        for _ in range(2):
            await client.send(kept)
            answer = await client.answer()
            check(answer, "infer", "old")
            assert answer.get("Connection") == "keep-alive"
        await client.send(LAST)
        assert statuses(await client.rest()) == [200]
    assert len(link.asks) == 3


SIZED = b"Content-Length: %d"
NAMES = [
    *((b"host: x", b"content-length: %d"), (b"HOST: x", b"CONTENT-LENGTH: %d")),
    *((b"hOsT: x", b"cOnTeNt-LeNgTh: %d"), (b"Host:x", b"Content-Length:%d")),
    *(
        (b"Host: \t  x \t ", b"Content-Length: \t  %d \t "),
        (b"Host: x:8000", b"Content-Length: 000%d"),
    ),
    *((host, SIZED) for host in (b"Host:", b"Host: a b")),
    (b"Host: x", SIZED + b"\r\nContent-Length-Not: 3"),
    *(
        (b"Host: x", more + b"\r\n" + SIZED)
        for more in (
            *(b"X-Empty:", b"X-Twice: a\r\nX-Twice: b", b"!#$%%&'*+-.^_`|~0: a"),
            *(b"X-Content-Length: 3\r\nContent_Length: 3", b"Transfer_Encoding: chunked"),
            *(b"X: Content-Length: 3", b"X: \xc3\xa9 \xe9 \xff", b"Content-Encoding: identity"),
            *(b"Content-Type: ;;;", b"Accept-Encoding: gzip, br", b"Connection: x-odd"),
        )
    ),
]


@pytest.mark.parametrize(("host", "length"), NAMES)
async def test_names_have_any_case_and_values_any_space_around_them(
    http: Http, host: bytes, length: bytes
) -> None:
    http.node("A")
    body = json_body("one")
    head = b"\r\n".join([b"POST %b HTTP/1.1" % INFER.encode(), host, length % len(body)])
    data = head + b"\r\n\r\n" + body
    first, second, last = await exchange(http.client.port, data, infer("two") + LAST)
    check(first, "infer", "one")
    check(second, "infer", "two")
    assert last.status == 200
    first, second, last = await exchange(
        http.client.port, *(bytes([one]) for one in data + data + LAST)
    )
    assert essence(first) == essence(second)
    assert statuses([first, last]) == [200, 200]


@pytest.mark.parametrize("lines", [b"\r\n", b"\r\n\r\n", b"\r\n" * 5])
@pytest.mark.parametrize("kind", ["infer", "metadata"])
async def test_empty_lines_before_a_request_are_nothing(
    http: Http, lines: bytes, kind: str
) -> None:
    http.node("A")
    data = lines + of_kind(kind, "one")
    answers = await exchange(http.client.port, data + data + lines + LAST)
    assert statuses(answers) == [200, 200, 200]
    async with connected(http.client.port) as client:
        for at in range(1, len(data)):
            await client.send(data[:at], data[at:])
            check(await client.answer(), kind, "one")


async def test_body_may_look_like_requests_and_is_one_body(http: Http) -> None:
    link = http.node("A")
    inner = infer("inner") + LIVE
    answers = await exchange(http.client.port, request(INFER, inner) + infer("outer"), LAST)
    assert statuses(answers) == [400, 200, 200]
    check(answers[1], "infer", "outer")
    parameters = {"note": inner.decode()}
    data = request(INFER, json_body("one", parameters=parameters)) + LAST
    answers = await exchange(
        http.client.port, *(data[at : at + 5] for at in range(0, len(data), 5))
    )
    assert statuses(answers) == [200, 200]
    assert len(link.asks) == 2


async def test_binary_body_full_of_line_ends_is_one_body(http: Http) -> None:
    http.node("A")
    raw = b"\r\n\r\nGET / HTTP/1.1\r\n\r\n" * 12
    described = {**X, "shape": [len(raw) // 8, 2], "parameters": {"binary_data_size": len(raw)}}
    del described["data"]
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    head = json_body("one", inputs=[described], outputs=outputs)
    data = request(INFER, head + raw, b"Inference-Header-Content-Length: %d" % len(head))
    expected = await ask(http.client.port, data)
    assert (expected.status, expected.body.endswith(b"}" + raw)) == (200, True)
    async with connected(http.client.port) as client:
        for at in range(len(data) - len(raw) - 4, len(data), 3):
            await client.send(data[:at], data[at:])
            assert essence(await client.answer()) == essence(expected)
