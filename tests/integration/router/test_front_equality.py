"""A request with a length and the same request in chunks, which takes another way, are answered the same."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fleet_fakes import (
    Reply,
    answer_of,
    answering,
    echo,
    failing,
    fp32,
    garbage,
    offer,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_http import LAST, RawAnswer, chunked, exchange, request
from router_http import INFER
from tidy_router import X, essence, json_body, tidy

from capamesh.protocol import errors
from capamesh.protocol.oip import encode_request

BODY = json_body("one")


Case = tuple[str, bytes, tuple[bytes, ...]]
"""A path, a body and headers."""


def json_of(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def binary(*, length: bytes = b"", more: bytes = b"") -> tuple[bytes, bytes]:
    buffers, json_bytes = encode_request([fp32("x", [3, 4])], id="binary")
    said = length or b"%d" % (json_bytes or 0)
    return b"".join(buffers) + more, LENGTH + said


LENGTH = b"Inference-Header-Content-Length: "
BODIES: tuple[object, ...] = (
    *(
        {"id": each, "inputs": [X]}
        for each in ("", "é\N{GRINNING FACE}\x00\n\u2028", 7, "i" * 5000)
    ),
    *(BODY.replace(b'"one"', each) for each in (b'"\\u00e9\\ud83d\\ude00\\n"', b'"\\ud800"')),
    *(BODY.replace(*each) for each in ((b'"one"', b'"one","id":"two"'), (b"[1, 2]", b"[NaN, 2]"))),
    json.dumps({"id": "é", "inputs": [X]}, ensure_ascii=False).encode(),
    *(
        b"\xef\xbb\xbf" + BODY,
        BODY.decode().encode("utf-16"),
        b" \r\n\t" + BODY + b"\r\n ",
        BODY + b"\0",
    ),
    *(b"{", b"[]", b"", b"   ", b"\xff\xfe", b"[" * 100_000),
    *({"inputs": [X], "outputs": [{"name": name} for name in names]} for names in ("y", "yy", "z")),
    {"inputs": [X], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
    *({"inputs": [X]}, {"id": "a"}, {"inputs": [None]}, {"inputs": [X], "parameters": [1]}),
    *({"inputs": [{**X, "datatype": each}]} for each in ("FP33", "INT64")),
    *({"inputs": [{**X, "shape": each}]} for each in ([2, 2], [-1, 2])),
    *({"inputs": [{**X, "data": each}]} for each in (["a", 2], [[1, 2]])),
    {"inputs": [{**X, "name": "z"}]},
    {"id": "l", "inputs": [{**X, "shape": [30_000, 2], "data": [1.5] * 60_000}]},
)
PARAMETERS: tuple[dict[str, object], ...] = (
    {"binary_data_output": True},
    *({"timeout": each} for each in (5_000_000, 0, 1, 2**64 - 1, -1, "soon")),
    *({"priority": each} for each in (1, 0, 10**6, True)),
    *({"sequence_id": each, "sequence_start": True} for each in (42, "é", "s" * 5000)),
    {"sequence_id": 42, "sequence_end": True},
    {"sequence_start": True},
    {"sequence_id": 1, "sequence_start": "yes"},
    {"note": "\r\n\r\nGET / HTTP/1.1\r\n\r\n"},
)
OTHER = "/v2/models/other/infer"
TARGETS = (
    *(OTHER, "/v2/models/m/versions/9/infer", "/v2/models/m/versions/one/infer"),
    *("/v2/models/%6d/infer", "/v2/models//infer", INFER + "/", INFER + "?a=b"),
)
OPTIONS: dict[str, tuple[str | bytes, ...]] = {
    "Nodes": ("B", " C ,B, ", "C", ",", ",".join(f"n{n}" for n in range(65))),
    "Max-Price": ("1.5", "1.49", "cheap", "٣"),
    "Region": ("eu", "us,asia", "é", b"\xe9\xff"),
    "Device": ("cpu", "cuda"),
    "Policy": ("round-robin", "best"),
    "Affinity": ("session", "\N{GRINNING FACE}", b"\xe9", "a" * 1025, "é" * 1024),
    "Tenant": ("t", " \t "),
    "Explain": ("1", " TRUE ", "0", "maybe"),
    "Unknown": ("1",),
}
JSON_LENGTHS = (b"5", b"99999", b"junk", b" ", b"+99", b"\xb2")
EXPLAIN = b"X-Capamesh-Explain: 1"
CASES: tuple[Case, ...] = (
    *((INFER, json_of(each), ()) for each in BODIES),
    *((INFER, json_body("one", parameters=each), ()) for each in PARAMETERS),
    *((each, BODY, ()) for each in TARGETS),
    *(
        (
            INFER,
            BODY,
            (f"X-Capamesh-{name}: ".encode() + (of if isinstance(of, bytes) else of.encode()),),
        )
        for name, values in OPTIONS.items()
        for of in values
    ),
    ("/v2/models/m/versions/1/infer", binary()[0], (binary()[1],)),
    *((INFER, data, (header,)) for data, header in (binary(), binary(more=b"1"))),
    *((INFER, *binary(length=each)[:1], (LENGTH + each,)) for each in JSON_LENGTHS),
    *((INFER, BODY, (LENGTH + b"%s%d" % (zeros, len(BODY)),)) for zeros in (b"", b"000")),
    (INFER, binary()[0], (binary()[1], LENGTH + b"1")),
    (INFER, BODY, (b"X-Capamesh-Nodes: B", b"X-Capamesh-Nodes: A")),
    (INFER, BODY, (b"x-CAPAMESH-nodes:\t B \t",)),
    (OTHER, BODY, (EXPLAIN,)),
    (INFER, BODY, (EXPLAIN, b"X-Capamesh-Max-Price: 0.1")),
    *(
        (INFER, BODY, (each,))
        for each in (b"Content-Type: text/plain; charset=utf-16", b"Expect: something")
    ),
)


def name_of(case: Case) -> str:
    path, data, headers = case
    return repr(
        (
            path[:40],
            data[:60] if path == INFER and not headers else b"",
            *[each[:50] for each in headers],
        )
    )


async def asked(
    data: bytes, *scripts: tuple[Reply, ...], cut: int = 0
) -> tuple[RawAnswer, list[Any], str]:
    """Return what a fresh router answers, what its nodes were asked and what it counted."""
    async with tidy() as http:
        links = [
            http.node(peer, *script, models=(offer(),))
            for peer, script in zip("AB", scripts or ((echo,), (echo,)), strict=True)
        ]
        parts = [data[:cut], data[cut:], LAST] if cut else [data + LAST]
        answer, last = await exchange(http.client.port, *parts)
        assert last.status == 200
        counted = [
            line
            for line in http.telemetry.exposition().decode().splitlines()
            if line.startswith("capamesh_requests_total")
        ]
        return answer, [link.calls for link in links], "\n".join(sorted(counted))


def compared(answer: RawAnswer) -> object:
    text = answer.get("X-Capamesh-Explanation")
    explained = json.loads(text) if text is not None else {}
    return essence(answer), {name: explained.get(name) for name in ("model", "policy", "chosen")}


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_both_ways_give_one_answer(case: Case) -> None:
    path, data, headers = case
    plain = request(path, data, *headers)
    answer, calls, counted = await asked(plain)
    in_chunks = await asked(chunked(path, data, *headers, size=1000))
    assert compared(answer) == compared(in_chunks[0])
    assert (calls, counted) == in_chunks[1:]
    in_pieces = await asked(plain, cut=len(plain) - len(data) // 2)
    assert compared(answer) == compared(in_pieces[0])
    assert (calls, counted) == in_pieces[1:]


FAILURES: dict[str, Reply] = {
    "invalid": failing(errors.InvalidRequest("input x is wrong: é\n")),
    "too large": failing(errors.TooLarge("too large for the node")),
    "late": failing(errors.DeadlineExceeded("late")),
    "full": failing(errors.Overloaded("full")),
    "full for a while": failing(errors.Overloaded("full", 4.2)),
    "leaving": failing(errors.Draining("leaving")),
    "loading": failing(errors.ModelUnavailable("loading")),
    "lost": failing(errors.LinkLost("gone")),
    "rude": failing(errors.ProtocolViolation("rude")),
    "out of memory": failing(errors.RunFailed("out of memory")),
    "garbage": garbage(b"\xc1junk"),
    "no output": answering(answer_of("1")),
    "what JSON cannot hold": answering(answer_of("1", fp32("y", [float("nan")]))),
    "another version": answering(answer_of("7", fp32("y", [1]))),
    "two outputs": answering(answer_of("1", fp32("y", [1]), fp32("z", [2]))),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("is_binary", [False, True])
async def test_both_ways_say_the_same_of_a_node_s_failure(name: str, is_binary: bool) -> None:
    data, header = binary() if is_binary else (BODY, b"X-Filler: a")
    headers = header, b"X-Capamesh-Explain: 1"
    scripts = ((FAILURES[name],), (FAILURES[name],))
    answer, _, counted = await asked(request(INFER, data, *headers), *scripts)
    assert answer.get("X-Capamesh-Explanation") is not None
    in_chunks = await asked(chunked(INFER, data, *headers), *scripts)
    assert compared(answer) == compared(in_chunks[0])
    assert counted == in_chunks[2]


@settings(max_examples=25)
@given(
    changes=st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 6),
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from(
                    [b'"', b"{", b"}", b"[", b",", b"\\u", b"\r\n\r\n", b"null", b"-1", b"1e999"]
                ),
            ),
        ),
        min_size=1,
        max_size=3,
    ),
    is_binary=st.booleans(),
)
def test_both_ways_say_the_same_of_any_body(
    changes: list[tuple[float, int, bytes]], is_binary: bool
) -> None:
    async def scenario() -> None:
        data, header = binary() if is_binary else (BODY, b"X-Filler: a")
        for where, taken, put in changes:
            at = round(where * len(data))
            data = data[:at] + put + data[at + taken :]
        async with tidy() as http:
            http.node("A")
            parts = request(INFER, data, header), chunked(INFER, data, header, size=50), LAST
            plain, in_chunks, last = await exchange(http.client.port, *parts)
            assert essence(plain) == essence(in_chunks)
            assert last.status == 200

    asyncio.run(scenario())
