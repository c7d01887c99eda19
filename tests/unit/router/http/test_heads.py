"""What the front recognises of a request's head, and what it leaves to aiohttp."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.tensors import Limits
from capamesh.router.access.keys import KeyRing
from capamesh.router.access.origin_check import ANY_HOST, OriginCheck
from capamesh.router.http.exchange import InferTarget
from capamesh.router.http.heads import MAX_HEAD_BYTES, MAX_LINES, Head, Heads, may_become_head
from capamesh.router.http.key_check import KeyCheck
from capamesh.router.requests.call import RoutingOptions
from capamesh.router.rules.constraints import Constraints

MOST = 1000
LIMITS = Limits(max_message_bytes=MOST)
WISHES = RoutingOptions(Constraints(max_price=0.5), policy="p2c")
INFER = "POST /v2/models/m/infer HTTP/1.1"


HEADS = Heads(LIMITS, KeyCheck(KeyRing()), OriginCheck((ANY_HOST,)))


def read(first: str, *lines: str) -> Head | None:
    """Return what a head of these lines says, with a Host."""
    return HEADS.read("\r\n".join([first, "Host: h", *lines, "", ""]).encode("latin-1"))


def test_plain_inference_request_is_recognised_with_all_that_its_head_says() -> None:
    assert read(
        "POST /v2/models/a.b_c-1~/versions/12/infer HTTP/1.1",
        "Content-Length: 7",
        "Inference-Header-Content-Length: 5",
        "X-Capamesh-Policy: p2c",
        "x-capamesh-EXPLAIN: 1",
        "X-Capamesh-Max-Price:\t0.5 ",
    ) == Head(7, False, InferTarget("a.b_c-1~", "12", WISHES, True, None, 5), 7)


@pytest.mark.parametrize(
    "lines",
    [
        ("GET /v2 HTTP/1.1",),
        ("GET /v2/models/m/infer HTTP/1.1",),
        (INFER,),
        ("POST /v2/models/m/infer?x=1 HTTP/1.1", "Content-Length: 1"),
        ("POST /v2/models/%6d/infer HTTP/1.1", "Content-Length: 1"),
        ("POST /v2/models/../infer HTTP/1.1", "Content-Length: 1"),
        ("POST /v2/models/m/versions/./infer HTTP/1.1", "Content-Length: 1"),
        ("POST http://h/v2/models/m/infer HTTP/1.1", "Content-Length: 1"),
        (INFER, f"Content-Length: {MOST + 1}"),
        (INFER, "Content-Length: 1", "Content-Encoding: gzip"),
        (INFER, "Content-Length: 1", "Inference-Header-Content-Length: x"),
        (INFER, "Content-Length: 1", "Inference-Header-Content-Length: \xb2"),
        (INFER, "Content-Length: 1", "X-Capamesh-Policy: none"),
        (INFER, "Content-Length: 1", "X-Capamesh-Tenant: \xe9"),
    ],
    ids=" | ".join,
)
def test_request_that_is_no_plain_inference_is_for_aiohttp_up_to_its_end(
    lines: tuple[str, ...],
) -> None:
    head = read(*lines)
    assert head is not None
    assert head.target is None
    length = next((line for line in lines if line.startswith("Content-Length")), "x: 0")
    assert head.body_bytes == int(length.partition(":")[2])


@pytest.mark.parametrize(
    "lines",
    [
        ("POST /v2/models/m/infer HTTP/1.0", "Content-Length: 1"),
        ("POST /v2/models/m/infer", "Content-Length: 1"),
        ("POST  /v2/models/m/infer HTTP/1.1", "Content-Length: 1"),
        ("post /v2/models/m/infer HTTP/1.1", "Content-Length: 1"),
        ("CONNECT h:80 HTTP/1.1",),
        (INFER, "Content-Length: 1", "Content-Length: 1"),
        (INFER, "Content-Length: 1", "content-length: 2"),
        (INFER, "Content-Length: +1"),
        (INFER, "Content-Length: -1"),
        (INFER, "Content-Length: 0x1"),
        (INFER, "Content-Length: 1 1"),
        (INFER, "Content-Length: 1,1"),
        (INFER, "Content-Length: \xb9"),
        (INFER, "Content-Length:"),
        (INFER, "Content-Length: 1" + "0" * 18),
        (INFER, "Content-Length : 1"),
        (INFER, " Content-Length: 1"),
        (INFER, "Content-Length: 1", " folded"),
        (INFER, "Content-Length: 1", "no colon"),
        (INFER, "Content-Length: 1", ": no name"),
        (INFER, "Content-Length: 1", "a\tb: c"),
        (INFER, "Content-Length: 1", "caf\xe9: c"),
        (INFER, "Content-Length: 1", "a: b\nc: d"),
        (INFER, "Content-Length: 1", "a: b\rc: d"),
        (INFER, "Content-Length: 1", "a: b\0"),
        (INFER, "Content-Length: 1", "Transfer-Encoding: chunked"),
        (INFER, "Transfer-Encoding: identity"),
        (INFER, "Content-Length: 1", "Expect: 100-continue"),
        (INFER, "Content-Length: 1", "Upgrade: h2c"),
        (INFER, "Content-Length: 1", "Connection: keep-alive, upgrade"),
        (INFER, "Content-Length: 1", "Trailer: x"),
        (INFER, "Content-Length: 1", "Host: another"),
        (INFER, "Content-Length: 1", "a: " + "b" * MAX_HEAD_BYTES),
        (INFER, *[f"a{number}: b" for number in range(MAX_LINES)]),
    ],
    ids=lambda lines: " | ".join(lines)[:60],
)
def test_aiohttp_alone_says_where_a_request_ends_that_is_not_plainly_right(
    lines: tuple[str, ...],
) -> None:
    assert read(*lines) is None


def test_request_needs_a_host() -> None:
    assert HEADS.read(b"GET /v2 HTTP/1.1\r\n\r\n") is None
    assert HEADS.read(b"GET /v2 HTTP/1.1\r\nhost:\r\n\r\n") == Head(0, False, None)


@pytest.mark.parametrize(
    ("part", "may"),
    [
        (b"P", True),
        (b"POST", True),
        (b"POST /v2 HTTP/1.1\r", True),
        (b"POST /v2 HTTP/1.1\r\nHost: h", True),
        (b"\x16\x03\x01", False),
        (b"post ", False),
        (b"\r\nPOST", False),
        (b"POST /v2 HTTP/1.1\n", False),
        (b"A" * 17, False),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, False),
    ],
)
def test_bytes_are_waited_for_only_if_they_may_become_a_head(part: bytes, may: bool) -> None:
    assert may_become_head(part) is may


@given(st.binary(max_size=200))
def test_junk_is_nobody_s_head(junk: bytes) -> None:
    head = HEADS.read(junk + b"\r\n\r\n")
    assert head is None or b"host" in junk.lower()


@given(
    st.text(st.characters(codec="ascii", categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=20),
    st.integers(0, MOST),
    st.permutations(["Accept: */*", "User-Agent: x/1", "Inference-Header-Content-Length: 3"]),
)
def test_order_of_a_head_s_lines_does_not_matter(model: str, length: int, lines: list[str]) -> None:
    head = read(f"POST /v2/models/{model}/infer HTTP/1.1", *lines, f"Content-Length: {length}")
    assert head == Head(length, False, InferTarget(model, "", header_length=3), length)
