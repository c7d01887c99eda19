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

from capamesh.protocol.errors import (
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LinkLost,
    ModelUnavailable,
    Overloaded,
    ProtocolViolation,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.oip import encode_request

BODY = json_body("one")


def with_parameters(**parameters: object) -> bytes:
    return json_body("one", parameters=parameters)


def binary(*, length: bytes = b"", more: bytes = b"") -> tuple[bytes, bytes]:
    buffers, json_bytes = encode_request([fp32("x", [3, 4])], id="binary")
    said = length or b"%d" % (json_bytes or 0)
    return b"".join(buffers) + more, b"Inference-Header-Content-Length: " + said


def option(name: str, value: str | bytes) -> tuple[str, bytes, tuple[bytes, ...]]:
    said = value if isinstance(value, bytes) else value.encode()
    return INFER, BODY, (f"X-Capamesh-{name}: ".encode() + said,)


def parameters(**given_: object) -> tuple[str, bytes, tuple[bytes, ...]]:
    return INFER, with_parameters(**given_), ()


def body(value: object) -> tuple[str, bytes, tuple[bytes, ...]]:
    return INFER, value if isinstance(value, bytes) else json.dumps(value).encode(), ()


def raw(**options: bytes) -> tuple[str, bytes, tuple[bytes, ...]]:
    data, header = binary(**options)
    return INFER, data, (header,)


Case = tuple[str, bytes, tuple[bytes, ...]]
CASES: dict[str, Case] = {
    "JSON": body(BODY),
    "binary": raw(),
    "binary, and the version": ("/v2/models/m/versions/1/infer", binary()[0], (binary()[1],)),
    "no id": body({"inputs": [X]}),
    "an empty id": body({"id": "", "inputs": [X]}),
    "an id of another script": body({"id": "é\N{GRINNING FACE}\x00\n\u2028", "inputs": [X]}),
    "an id that is escaped": body(BODY.replace(b'"one"', b'"\\u00e9\\ud83d\\ude00\\n"')),
    "an id that is a number": body({"id": 7, "inputs": [X]}),
    "an id that is long": body({"id": "i" * 5000, "inputs": [X]}),
    "an id that is half a pair": body(BODY.replace(b'"one"', b'"\\ud800"')),
    "UTF-8 as it is": body(json.dumps({"id": "é", "inputs": [X]}, ensure_ascii=False).encode()),
    "a byte order mark": body(b"\xef\xbb\xbf" + BODY),
    "UTF-16": body(BODY.decode().encode("utf-16")),
    "space around": body(b" \r\n\t" + BODY + b"\r\n "),
    "NUL behind": body(BODY + b"\0"),
    "outputs": body({"inputs": [X], "outputs": [{"name": "y"}]}),
    "a binary output": body(
        {"inputs": [X], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    ),
    "binary outputs": parameters(binary_data_output=True),
    "an output twice": body({"inputs": [X], "outputs": [{"name": "y"}, {"name": "y"}]}),
    "an output that is not there": body({"inputs": [X], "outputs": [{"name": "z"}]}),
    "no JSON": body(b"{"),
    "a list": body(b"[]"),
    "nothing": body(b""),
    "spaces": body(b"   "),
    "no UTF-8": body(b"\xff\xfe"),
    "NaN": body(BODY.replace(b"[1, 2]", b"[NaN, 2]")),
    "deep": body(b"[" * 100_000),
    "a key twice": body(BODY.replace(b'"one"', b'"one","id":"two"')),
    "no inputs": body({"id": "a"}),
    "an input that is none": body({"inputs": [None]}),
    "a name that the model lacks": body({"inputs": [{**X, "name": "z"}]}),
    "a datatype that nobody knows": body({"inputs": [{**X, "datatype": "FP33"}]}),
    "a datatype that does not fit": body({"inputs": [{**X, "datatype": "INT64"}]}),
    "a shape that does not fit": body({"inputs": [{**X, "shape": [2, 2]}]}),
    "a shape below 0": body({"inputs": [{**X, "shape": [-1, 2]}]}),
    "data that do not fit": body({"inputs": [{**X, "data": ["a", 2]}]}),
    "nested data": body({"inputs": [{**X, "data": [[1, 2]]}]}),
    "large": body({"id": "l", "inputs": [{**X, "shape": [30_000, 2], "data": [1.5] * 60_000}]}),
    "another model": ("/v2/models/other/infer", BODY, ()),
    "another version": ("/v2/models/m/versions/9/infer", BODY, ()),
    "a version that is no number": ("/v2/models/m/versions/one/infer", BODY, ()),
    "a name in percent signs": ("/v2/models/%6d/infer", BODY, ()),
    "a name that is missing": ("/v2/models//infer", BODY, ()),
    "a slash behind": (INFER + "/", BODY, ()),
    "a query": (INFER + "?a=b", BODY, ()),
    "a timeout": parameters(timeout=5_000_000),
    "a timeout of 0": parameters(timeout=0),
    "a timeout that is over": parameters(timeout=1),
    "a timeout that is huge": parameters(timeout=2**64 - 1),
    "a timeout below 0": parameters(timeout=-1),
    "a timeout that is no number": parameters(timeout="soon"),
    "a priority": parameters(priority=1),
    "a priority of 0": parameters(priority=0),
    "a priority that is too low": parameters(priority=10**6),
    "a priority that is none": parameters(priority=True),
    "a sequence": parameters(sequence_id=42, sequence_start=True),
    "a sequence with a name": parameters(sequence_id="é", sequence_start=True, sequence_end=True),
    "a sequence that ends": parameters(sequence_id=42, sequence_end=True),
    "a sequence without an id": parameters(sequence_start=True),
    "a sequence whose start is none": parameters(sequence_id=1, sequence_start="yes"),
    "a sequence's id that is too long": parameters(sequence_id="s" * 5000),
    "another parameter": parameters(note="\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
    "parameters that are none": body({"inputs": [X], "parameters": [1]}),
    "a length of the JSON alone": (
        INFER,
        BODY,
        (b"Inference-Header-Content-Length: %d" % len(BODY),),
    ),
    "a length of the JSON that is too short": raw(length=b"5"),
    "a length of the JSON that is too long": raw(length=b"99999"),
    "a length of the JSON that is junk": raw(length=b"junk"),
    "a length of the JSON that is empty": raw(length=b" "),
    "a length of the JSON with a plus": raw(length=b"+99"),
    "a length of the JSON with zeros": (
        INFER,
        BODY,
        (b"Inference-Header-Content-Length: 000%d" % len(BODY),),
    ),
    "a length of the JSON in odd bytes": raw(length=b"\xb2"),
    "two lengths of the JSON": (
        INFER,
        binary()[0],
        (binary()[1], b"Inference-Header-Content-Length: 1"),
    ),
    "raw bytes that are too few": raw(more=b"1"),
    "a node": option("Nodes", "B"),
    "nodes": option("Nodes", " C ,B, "),
    "a node that is not there": option("Nodes", "C"),
    "nodes that are none": option("Nodes", ","),
    "too many nodes": option("Nodes", ",".join(f"n{n}" for n in range(65))),
    "nodes twice": (INFER, BODY, (b"X-Capamesh-Nodes: B", b"X-Capamesh-Nodes: A")),
    "a node in another case": (INFER, BODY, (b"x-CAPAMESH-nodes:\t B \t",)),
    "a price": option("Max-Price", "1.5"),
    "a price that is too low": option("Max-Price", "1.49"),
    "a price that is none": option("Max-Price", "cheap"),
    "a price in Arabic digits": option("Max-Price", "٣"),
    "a region": option("Region", "eu"),
    "regions": option("Region", "us,asia"),
    "a region in UTF-8": option("Region", "é"),
    "a region in Latin-1": option("Region", b"\xe9\xff"),
    "a device": option("Device", "cpu"),
    "a device that is not there": option("Device", "cuda"),
    "a policy": option("Policy", "round-robin"),
    "a policy that nobody knows": option("Policy", "best"),
    "an affinity": option("Affinity", "session"),
    "an affinity in UTF-8": option("Affinity", "\N{GRINNING FACE}"),
    "an affinity in Latin-1": option("Affinity", b"\xe9"),
    "an affinity that is too long": option("Affinity", "a" * 1025),
    "an affinity of 1024 characters of two bytes": option("Affinity", "é" * 1024),
    "a tenant": option("Tenant", "t"),
    "a tenant in spaces": option("Tenant", " \t "),
    "an explanation": option("Explain", "1"),
    "an explanation in words": option("Explain", " TRUE "),
    "no explanation": option("Explain", "0"),
    "an explanation that is neither": option("Explain", "maybe"),
    "a wish that nobody knows": option("Unknown", "1"),
    "an explanation of an error": (
        "/v2/models/other/infer",
        BODY,
        (b"X-Capamesh-Explain: 1",),
    ),
    "an explanation of a refusal": (
        INFER,
        BODY,
        (b"X-Capamesh-Explain: 1", b"X-Capamesh-Max-Price: 0.1"),
    ),
    "a content type": (INFER, BODY, (b"Content-Type: text/plain; charset=utf-16",)),
    "an expectation": (INFER, BODY, (b"Expect: something",)),
}


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


@pytest.mark.parametrize("name", CASES)
async def test_both_ways_give_one_answer(name: str) -> None:
    path, data, headers = CASES[name]
    plain = request(path, data, *headers)
    answer, calls, counted = await asked(plain)
    in_chunks = await asked(chunked(path, data, *headers, size=1000))
    assert compared(answer) == compared(in_chunks[0])
    assert (calls, counted) == in_chunks[1:]
    in_pieces = await asked(plain, cut=len(plain) - len(data) // 2)
    assert compared(answer) == compared(in_pieces[0])
    assert (calls, counted) == in_pieces[1:]


FAILURES: dict[str, Reply] = {
    "invalid": failing(InvalidRequest("input x is wrong: é\n")),
    "too large": failing(TooLarge("too large for the node")),
    "late": failing(DeadlineExceeded("late")),
    "full": failing(Overloaded("full")),
    "full for a while": failing(Overloaded("full", 4.2)),
    "leaving": failing(Draining("leaving")),
    "loading": failing(ModelUnavailable("loading")),
    "lost": failing(LinkLost("gone")),
    "rude": failing(ProtocolViolation("rude")),
    "out of memory": failing(RunFailed("out of memory")),
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
