"""What a client may get wrong: each time a clear error, nothing lost, nothing hung."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path

import aiohttp
import pytest
from cluster_load import digits_stream
from polling import until

from capamesh.cli.local_cluster import LocalCluster
from capamesh.protocol.oip import HEADER_LENGTH_NAME

pytestmark = pytest.mark.asyncio(loop_scope="session")
LIMIT_S = 120.0


def tensor(**changes: object) -> dict[str, object]:
    return {"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64} | changes


def body(*inputs: dict[str, object], **more: object) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


async def post(
    cluster: LocalCluster, path: str, sent: bytes, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str]]:
    async with (
        aiohttp.ClientSession() as session,
        asyncio.timeout(LIMIT_S),
        session.post(cluster.http_url + path, data=io.BytesIO(sent), headers=headers) as reply,
    ):
        return reply.status, await reply.json()


BINARY = {"name": "X", "datatype": "FP32", "shape": [1, 64]}
DIGITS = "/v2/models/digits/infer"


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("path", "sent", "status", "said"),
    [
        ("/v2/models/nonesuch/infer", body(tensor()), 404, "no node hosts model 'nonesuch'"),
        ("/v2/models/digits/versions/9/infer", body(tensor()), 404, "no version '9'"),
        (DIGITS, body(tensor(name="Y")), 400, "'Y'"),
        (DIGITS, body(tensor(datatype="INT64", data=[0] * 64)), 400, "INT64"),
        (DIGITS, body(tensor(datatype="FP33")), 400, "FP33"),
        (DIGITS, body(tensor(shape=[1, 63], data=[0.0] * 63)), 400, "63"),
        (DIGITS, body(tensor(shape=[64])), 400, "64"),
        (DIGITS, body(tensor(shape=[1, -64])), 400, "-64"),
        (DIGITS, body(tensor(shape=[2**40, 64])), 400, "1099511627776"),
        (DIGITS, body(tensor(data=[0.0] * 63)), 400, "63"),
        (DIGITS, body(tensor(data=["a"] * 64)), 400, "'a'"),
        (DIGITS, body(tensor(), tensor()), 400, "X"),
        (DIGITS, body(), 400, "X"),
        (DIGITS, body(tensor(), outputs=[{"name": "nope"}]), 400, "nope"),
        (DIGITS, body(tensor())[:-20], 400, "JSON"),
        (DIGITS, b"", 400, "JSON"),
        (DIGITS, b"\xff\xfe", 400, "UTF-8"),
        (DIGITS, body(tensor()).replace(b"0.0", b"NaN", 1), 400, "NaN"),
        (DIGITS, b"[" * 100_000, 400, "must be an object"),
        (DIGITS, b'{"parameters":' + b"[" * 100_000, 400, "nested"),
        (DIGITS, body(*({**tensor(), "name": f"i{n}"} for n in range(10_000))), 400, "i0"),
        (DIGITS, body(tensor(), parameters={"timeout": "soon"}), 400, "soon"),
    ],
)
async def test_bad_request_is_reported_what_is_wrong(
    cluster: LocalCluster, path: str, sent: bytes, status: int, said: str
) -> None:
    status_seen, answer = await post(cluster, path, sent)
    assert (status_seen, list(answer)) == (status, ["error", "code"])
    assert said in answer["error"]


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v2/models/digits/infer/more", 404, "nothing at"),
        ("/v2/models/digits", 405, "takes GET, HEAD"),
    ],
)
async def test_request_to_no_route_is_told_so(
    cluster: LocalCluster, path: str, status: int, said: str
) -> None:
    status_seen, answer = await post(cluster, path, body(tensor()))
    assert (status_seen, list(answer)) == (status, ["error"])
    assert said in answer["error"]


@pytest.mark.parametrize(
    ("described", "raw", "header_length", "said"),
    [
        ({**BINARY, "parameters": {"binary_data_size": 255}}, bytes(255), None, "256"),
        ({**BINARY, "parameters": {"binary_data_size": 256}}, bytes(100), None, "100"),
        ({**BINARY, "parameters": {"binary_data_size": 256}}, bytes(300), None, "300"),
        ({**BINARY, "parameters": {"binary_data_size": -1}}, b"", None, "-1"),
        ({**BINARY, "parameters": {"binary_data_size": "many"}}, b"", None, "many"),
        ({**BINARY, "parameters": {"binary_data_size": 256}}, bytes(256), "100000", "100000"),
        ({**BINARY, "parameters": {"binary_data_size": 256}}, bytes(256), "-5", "-5"),
        ({**BINARY, "parameters": {"binary_data_size": 256}}, bytes(256), "junk", "junk"),
    ],
)
async def test_bad_binary_framing_is_reported_with_the_numbers(
    cluster: LocalCluster,
    described: dict[str, object],
    raw: bytes,
    header_length: str | None,
    said: str,
) -> None:
    head = body(described)
    headers = {HEADER_LENGTH_NAME: header_length or str(len(head))}
    async with (
        aiohttp.ClientSession() as session,
        asyncio.timeout(LIMIT_S),
        session.post(cluster.http_url + DIGITS, data=head + raw, headers=headers) as reply,
    ):
        answer = await reply.json()
    assert reply.status == 400
    assert said in answer["error"]


async def test_oversize_body_is_refused_without_reading_it_all(cluster: LocalCluster) -> None:
    host, port = cluster.http_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    size = 257 * 2**20
    writer.write(
        f"POST {DIGITS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
        + bytes(65536)
    )
    async with asyncio.timeout(LIMIT_S):
        head = await reader.readuntil(b"\r\n\r\n")
    assert b" 413 " in head.splitlines()[0]
    writer.close()


async def test_client_that_sends_half_a_request_and_leaves_disturbs_nobody(
    cluster: LocalCluster, built_models: Path
) -> None:
    host, port = cluster.http_url.removeprefix("http://").split(":")
    for _ in range(20):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {DIGITS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n".encode()
        )
        writer.write(b'{"inputs": [')
        await writer.drain()
        writer.transport.abort()
    seen = await digits_stream(
        cluster.http_url,
        built_models.parent / "cases" / "digits.npz",
        count=100,
        concurrency=8,
    )
    assert (seen.answered, seen.failures, seen.wrong) == (100, [], [])


async def test_deadline_that_has_passed_is_504(cluster: LocalCluster) -> None:
    sent = body(tensor(), parameters={"timeout": 1})
    status, answer = await post(cluster, DIGITS, sent)
    assert status == 504
    assert "deadline" in answer["error"]


@pytest.mark.smoke
async def test_requests_in_flight_are_none_after_all_that(cluster: LocalCluster) -> None:
    async def are_none() -> bool:
        async with aiohttp.ClientSession(cluster.http_url) as session:
            async with session.get("/v1/nodes") as reply:
                nodes = (await reply.json())["nodes"]
            async with session.get("/metrics") as reply:
                metrics = await reply.text()
        at_links = [link["requests_in_flight"] for node in nodes for link in node["links"]]
        return at_links == [0, 0] and "capamesh_requests_in_flight 0.0" in metrics

    await until(are_none)  # a connection that was cut is noticed later


async def test_all_that_a_router_exports_is_in_the_reference(cluster: LocalCluster) -> None:
    async with (
        aiohttp.ClientSession() as session,
        asyncio.timeout(LIMIT_S),
        session.get(f"{cluster.http_url}/metrics") as reply,
    ):
        metrics = await reply.text()
    exported = re.findall(r"^# TYPE (capamesh_\S+)(?<!_created) ", metrics, re.MULTILINE)
    assert exported
    page = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
    assert [name for name in exported if f"| `{name}` |" not in page] == []
