from __future__ import annotations

import asyncio
import json

import aiohttp
import numpy as np
import pytest
from fleet_fakes import answer_of, failing, fp32, garbage, hang, offer
from router_http import INFER, Http, serving

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LinkLost,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.oip import encode_request
from capamesh.protocol.tensors import Limits

X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
BODY = {"inputs": [X]}


async def error_of(response: aiohttp.ClientResponse) -> str:
    assert response.content_type == "application/json"
    body = await response.json()
    assert list(body) == ["error"]
    assert body["error"]
    return str(body["error"])


async def test_json_in_json_out(http: Http) -> None:
    http.node("A")
    response = await http.infer({"id": "r-1", **BODY})
    assert response.status == 200
    assert response.content_type == "application/json"
    assert response.headers["X-Capamesh-Node"] == "A"
    assert await response.json() == {
        "model_name": "m",
        "model_version": "1",
        "id": "r-1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}],
    }


async def test_binary_in_binary_out_and_the_header_says_where_the_json_ends(http: Http) -> None:
    link = http.node("A")
    buffers, json_bytes = encode_request([fp32("x", [3, 4])])
    response = await http.infer(b"".join(buffers), header_length=json_bytes)
    assert response.status == 200
    assert response.content_type == "application/octet-stream"
    body = await response.read()
    end = int(response.headers["Inference-Header-Content-Length"])
    assert json.loads(body[:end])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(body[end:], "<f4").tolist() == [3.0, 4.0]
    assert link.calls[0].inputs == (fp32("x", [3, 4]),)


async def test_the_version_in_the_path_and_the_outputs_asked_for_reach_the_node(
    http: Http,
) -> None:
    link = http.node("A", models=(offer(version="3"),))
    response = await http.infer(
        {**BODY, "outputs": [{"name": "y"}]}, path="/v2/models/m/versions/3/infer"
    )
    assert response.status == 200
    assert (link.calls[0].version, link.calls[0].outputs) == ("3", ("y",))


ERRORS: list[tuple[CapameshError, int]] = [
    (InvalidRequest("input x is wrong"), 400),
    (TooLarge("too large for the node"), 413),
    (ModelNotFound("unloaded"), 404),
    (DeadlineExceeded("late"), 504),
    (Overloaded("full"), 503),
    (Draining("leaving"), 503),
    (ModelUnavailable("loading"), 503),
    (LinkLost("gone"), 502),
    (RunFailed("out of memory"), 500),
]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=[e.code for e, _ in ERRORS])
async def test_what_a_node_says_reaches_the_client_with_its_status(
    http: Http, error: CapameshError, status: int
) -> None:
    http.node("A", failing(error))
    response = await http.infer(BODY)
    assert response.status == status
    assert await error_of(response) == error.message
    assert response.headers["X-Capamesh-Error"] == error.code
    assert [candidate.rif for candidate in http.candidates] == [0]
    text = http.telemetry.exposition().decode()
    assert f'capamesh_requests_total{{code="{error.code}",model="m"}} 1.0' in text


async def test_a_client_sees_nothing_of_a_node_that_fails_beside_one_that_works(
    http: Http,
) -> None:
    http.node("A", failing(LinkLost("gone")))
    http.node("B")
    response = await http.infer(BODY)
    assert (response.status, response.headers["X-Capamesh-Node"]) == (200, "B")


async def test_a_node_that_answers_garbage_is_a_bad_gateway(http: Http) -> None:
    http.node("A", garbage(b"\xc1junk"))
    response = await http.infer(BODY)
    assert response.status == 502
    assert "no msgpack" in await error_of(response)


async def test_hosted_but_out_of_reach_is_503_with_retry_after_and_unknown_is_404(
    http: Http,
) -> None:
    http.node("A").is_usable = False
    response = await http.infer(BODY)
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    assert "no node that has it can be reached now" in await error_of(response)
    response = await http.infer(BODY, path="/v2/models/other/infer")
    assert response.status == 404
    assert await error_of(response) == "no node hosts model 'other'; hosted models: m"
    response = await http.infer(BODY, path="/v2/models/m/versions/8/infer")
    assert response.status == 404
    for path in ("/v2/models/%FF/infer", "/v2/models/%00%0A/infer", "/v2/models/a%2Fb/infer"):
        response = await http.client.post(path, data=json.dumps(BODY))
        assert response.status == 404
        await error_of(response)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"inputs": 1}',
        b'{"inputs": [null]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[Infinity]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP99","shape":[1],"data":[1]}]}',
        b'{"inputs":[{"name":"x","datatype":"INT8","shape":[1],"data":[300]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[-1],"data":[1]}]}',
        b'{"inputs":[{"name":"\\ud800","datatype":"FP32","shape":[1],"data":[1]}]}',
        b"[" * 100_000,
        json.dumps(BODY).encode()[:-1],
        json.dumps({**BODY, "outputs": [{"name": "y"}, {"name": "y"}]}).encode(),
    ],
)
async def test_a_malformed_body_is_a_400_and_reaches_no_node(http: Http, body: bytes) -> None:
    link = http.node("A")
    response = await http.infer(body)
    assert response.status == 400
    await error_of(response)
    assert link.calls == []


@pytest.mark.parametrize("size", [0, 7, 9, 2**62, -1, 1.5, "8", None])
async def test_a_wrong_binary_data_size_is_refused(http: Http, size: object) -> None:
    http.node("A")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": size}}]}).encode()
    response = await http.infer(head + bytes(8), header_length=len(head))
    assert response.status == 400
    await error_of(response)


@pytest.mark.parametrize(
    "length",
    ["-1", "1e3", "abc", "", " ", "99999999999999999999", "999999", "0", "1.0", "0x10", "٣"],
)
async def test_a_header_length_that_is_none_is_refused(http: Http, length: str) -> None:
    http.node("A")
    response = await http.infer(BODY, header_length=length)
    assert response.status == 400
    await error_of(response)


async def test_a_body_over_the_limit_is_413_whether_or_not_it_says_its_length() -> None:
    async with serving(limits=Limits(max_message_bytes=1000)) as http:
        link = http.node("A")

        async def chunks() -> object:
            for _ in range(20):
                yield bytes(100)

        for body in (bytes(1001), chunks()):
            response = await http.client.post(INFER, data=body)
            assert response.status == 413
            assert "1000" in await error_of(response)
        response = await http.infer(BODY)
        assert response.status == 200
        assert len(link.calls) == 1


async def test_ten_thousand_inputs_pass_and_too_many_do_not(http: Http) -> None:
    link = http.node("A")
    many = [
        {"name": f"column_{number}", "datatype": "FP32", "shape": [1, 2], "data": [number, 0]}
        for number in range(10_000)
    ]
    response = await http.infer({"inputs": many})
    assert response.status == 200
    assert [tensor.name for tensor in link.calls[0].inputs] == [one["name"] for one in many]
    async with serving(limits=Limits(max_tensors=3)) as small:
        small.node("A")
        response = await small.infer({"inputs": many[:4]})
        assert response.status == 413
        await error_of(response)


@pytest.mark.parametrize("given", [-1, 1.5, True, "100", "soon"])
async def test_a_timeout_that_is_no_count_of_microseconds_is_refused(
    http: Http, given: object
) -> None:
    link = http.node("A")
    response = await http.infer({**BODY, "parameters": {"timeout": given}})
    assert response.status == 400
    assert "timeout" in await error_of(response)
    assert link.calls == []


@pytest.mark.parametrize(
    ("given", "budget_ms"),
    [(None, 30_000), (0, 30_000), (5_000_000, 5_000), (2**64 - 1, 30_000), (20_000_000, 20_000)],
)
async def test_the_timeout_is_in_microseconds_and_at_most_the_router_s_own(
    http: Http, given: int | None, budget_ms: int
) -> None:
    link = http.node("A")
    parameters = {} if given is None else {"timeout": given}
    assert (await http.infer({**BODY, "parameters": parameters})).status == 200
    (sent_ms,) = link.budgets_ms
    assert sent_ms is not None
    assert budget_ms - 1_000 < sent_ms <= budget_ms


async def test_a_request_whose_time_is_up_is_a_504_and_leaves_nothing_in_flight(
    http: Http,
) -> None:
    link = http.node("A", hang)
    response = await http.infer({**BODY, "parameters": {"timeout": 1}})
    assert response.status == 504
    await error_of(response)
    assert link.cancelled.is_set()
    assert http.candidates[0].rif == 0


async def test_a_client_that_goes_away_cancels_its_request(http: Http) -> None:
    link = http.node("A", hang)
    task = asyncio.create_task(http.infer(BODY))
    await link.asked.wait()
    assert http.candidates[0].rif == 1
    task.cancel()
    await asyncio.wait([task])
    await link.cancelled.wait()
    await http.settled()
    assert http.candidates[0].rif == 0
    assert http.log.events == []


async def test_an_output_that_the_node_did_not_send_or_that_json_cannot_hold(http: Http) -> None:
    async def not_a_number(_: object, __: object) -> object:
        return answer_of("1", fp32("y", [float("nan")]))

    http.node("A", not_a_number)
    response = await http.infer(BODY)
    assert response.status == 400
    await error_of(response)
    buffers, json_bytes = encode_request([fp32("x", [3, 4])])
    assert (await http.infer(b"".join(buffers), header_length=json_bytes)).status == 200
    response = await http.infer({**BODY, "outputs": [{"name": "z"}]})
    assert response.status == 400
    await error_of(response)


async def raw(http: Http, data: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; return the status and the body of what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", http.client.port)
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Encoding: gzip\r\nContent-Length: 4\r\n", b"junk"),
        (b"Content-Encoding: deflate\r\nContent-Length: 4\r\n", b"junk"),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\njunk\r\n0\r\n\r\n"),
    ],
)
async def test_a_body_whose_encoding_is_broken_is_the_client_s_fault(
    http: Http, headers: bytes, body: bytes
) -> None:
    link = http.node("A")
    request = b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n%b" % (INFER.encode(), headers, body)
    status, _ = await raw(http, request)
    assert status == 400
    assert link.calls == []


async def test_a_body_cut_short_by_its_client_reaches_no_node(http: Http) -> None:
    link = http.node("A")
    _, writer = await asyncio.open_connection("127.0.0.1", http.client.port)
    whole = json.dumps(BODY).encode()
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
        INFER.encode(),
        len(whole),
    )
    writer.write(head + whole[:-1])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await http.infer(BODY)).status == 200
    await http.settled()
    assert len(link.calls) == 1
    assert http.log.events == []


async def test_a_path_of_raw_bytes_is_refused_in_good_order(http: Http) -> None:
    request = b"POST /v2/models/\xff\xfe/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    status, _ = await raw(http, request)
    assert status in {400, 404}
    assert http.log.events == []


@pytest.mark.parametrize("path", [INFER, "/v2/repository/index"])
async def test_a_body_that_does_not_arrive_in_time_is_a_408_and_reaches_no_node(path: str) -> None:
    async with serving(arrival_s=0.05) as http:
        link = http.node("A")
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" % path.encode()
        async with asyncio.timeout(10):
            status, body = await raw(http, head + b'{"inputs": [')
        assert status == 408
        assert json.loads(body) == {
            "error": "12 of 5000 bytes of the request's body came within 0.05 s, the limit; send it faster or "
            "in smaller requests, or give the router a longer --arrival"
        }
        assert link.calls == []
        assert (await http.infer(BODY)).status == 200
        assert http.log.events == []


async def test_a_body_that_comes_in_pieces_but_in_time_is_answered(http: Http) -> None:
    http.node("A")
    whole = json.dumps(BODY).encode()

    async def pieces() -> object:
        for byte in whole:
            yield bytes([byte])
            await asyncio.sleep(0)

    response = await http.client.post(INFER, data=pieces())
    assert response.status == 200
