"""What a cluster shows that nobody hurts: examples and tutorials print what they say, bad requests are told what is wrong, metrics are described."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sys

import aiohttp
import pytest
from page_steps import ROOT, blocks

from capamesh.cli.local_cluster import LocalCluster
from capamesh.protocol.oip import HEADER_LENGTH_NAME

pytestmark = pytest.mark.asyncio(loop_scope="session")
LIMIT_S = 120.0
EXAMPLES = {"classify_digits.py": "it is a 7\n"}
"""Those that need no library of others, and what each prints."""
TUTORIAL = "docs/tutorial/python-client.md"
ROUTER = "http://127.0.0.1:8000"
"""Where the page has it."""
DIGITS = "/v2/models/digits/infer"
X = {"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}


def body(*inputs: dict[str, object], **more: object) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


async def post(
    cluster: LocalCluster, path: str, sent: bytes, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(cluster.http_url) as session,
        asyncio.timeout(LIMIT_S),
        session.post(path, data=io.BytesIO(sent), headers=headers) as reply,
    ):
        return reply.status, (await reply.json())["error"]


async def printed(cluster: LocalCluster, *words: str) -> str:
    """Return what a program prints that finds the router in its environment; it must say nothing else."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", *words),
        env={"CAPAMESH_ROUTER": cluster.http_url, "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


@pytest.mark.smoke
@pytest.mark.parametrize("example", EXAMPLES)
async def test_example_prints_what_it_promises(cluster: LocalCluster, example: str) -> None:
    assert await printed(cluster, str(ROOT / "examples" / example)) == EXAMPLES[example]


async def test_tutorial_prints_what_it_says(cluster: LocalCluster) -> None:
    snippets = [text for language, text in blocks(TUTORIAL) if language == "python"]
    assert len(snippets) > 8
    said = await printed(cluster, "-c", "".join(snippets).replace(ROUTER, cluster.http_url))
    promised = "".join(text for language, text in blocks(TUTORIAL) if language == "text")
    assert said.replace(cluster.http_url, ROUTER) == promised


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("path", "sent", "status", "said"),
    [
        ("/v2/models/nonesuch/infer", body(X), 404, "no node hosts model 'nonesuch'"),
        ("/v2/models/digits/versions/9/infer", body(X), 404, "no version '9'"),
        ("/v2/models/digits/infer/more", body(X), 404, "nothing at"),
        ("/v2/models/digits", body(X), 405, "takes GET, HEAD"),
        # what the router refuses, and what the node does
        (DIGITS, body(X)[:-20], 400, "JSON"),
        (DIGITS, b'{"parameters":' + b"[" * 100_000, 400, "nested"),
        (DIGITS, body({**X, "datatype": "FP33"}), 400, "FP33"),
        (DIGITS, body(*({**X, "name": f"i{n}"} for n in range(10_000))), 400, "i0"),
        (DIGITS, body({**X, "name": "Y"}), 400, "'Y'"),
        (DIGITS, body({**X, "datatype": "INT64", "data": [0] * 64}), 400, "INT64"),
        (DIGITS, body({**X, "shape": [1, 63], "data": [0.0] * 63}), 400, "63"),
        (DIGITS, body(X, outputs=[{"name": "nope"}]), 400, "nope"),
        (DIGITS, body(X, parameters={"timeout": 1}), 504, "deadline"),
    ],
)
async def test_bad_request_is_told_what_is_wrong(
    cluster: LocalCluster, path: str, sent: bytes, status: int, said: str
) -> None:
    seen = await post(cluster, path, sent)
    assert (seen[0], said in seen[1]) == (status, True)


async def test_bad_binary_framing_is_told_with_the_numbers(cluster: LocalCluster) -> None:
    head = body({**X, "data": None, "parameters": {"binary_data_size": 256}})
    head = head.replace(b', "data": null', b"")
    for raw, length, said in ((100, len(head), "100"), (300, len(head), "300"), (256, -5, "-5")):
        sent = await post(cluster, DIGITS, head + bytes(raw), {HEADER_LENGTH_NAME: str(length)})
        assert (sent[0], said in sent[1]) == (400, True)


async def test_all_that_a_router_exports_is_in_the_reference(cluster: LocalCluster) -> None:
    async with (
        aiohttp.ClientSession(cluster.http_url) as session,
        session.get("/metrics") as reply,
    ):
        metrics = await reply.text()
    exported = re.findall(r"^# TYPE (capamesh_\S+)(?<!_created) ", metrics, re.MULTILINE)
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert exported
    assert [name for name in exported if f"| `{name}` |" not in page] == []
