"""No request, whatever is in it, keeps a router from its links and its other clients."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from pathlib import Path

from hostile import MIB, AttackedNetwork, Figures, attacked

INFER = b"/v2/models/digits/infer"
SIZE = 4 * MIB - 200
"""Of a body: what a router takes of JSON."""
LATE_S = 0.25
"""Of a machine that does other things, too: a timer in a thousand is as late as this without any attack."""


def tensor(datatype: str, shape: list[int], data: bytes) -> bytes:
    head = f'{{"inputs":[{{"name":"X","datatype":"{datatype}","shape":{shape},"data":'
    return head.encode() + data + b"}]}"


def bodies() -> dict[str, bytes]:
    """Return the worst JSON that is known, each of nearly all that may be sent."""
    many = SIZE // 2 - 100
    return {
        "a wrong integer at the end": tensor("UINT8", [many], b"[" + b"0," * (many - 1) + b"300]"),
        "a wrong truth at the end": tensor("BOOL", [many], b"[" + b"0," * (many - 1) + b"2]"),
        "a text at the end": tensor("FP32", [many - 2], b"[" + b"0," * (many - 3) + b'"x"]'),
        "lists": tensor("INT64", [7], b"[" + b"[]," * (SIZE // 3 - 100) + b"[]]"),
        "valid integers": tensor("INT64", [many], b"[" + b"0," * (many - 1) + b"1]"),
        "valid lists": tensor("INT64", [many // 2, 1], b"[" + b"[0]," * (many // 2 - 1) + b"[0]]"),
        "texts": tensor("BYTES", [10**6], b"[" + b'"",' * (10**6 - 1) + b'""]'),
        "a text of escapes": tensor("BYTES", [1], b'["' + b"\\n" * (many - 10) + b'"]'),
        "objects nobody asked for": b'{"inputs":[],"x":[' + b"{}," * (SIZE // 3 - 20) + b"{}]}",
        "keys": b"{" + b'"a":1,' * (SIZE // 6 - 10) + b'"inputs":[]}',
        "brackets": b'{"inputs":[{"data":' + b"[" * (SIZE - 30),
        "inputs": b'{"inputs":[' + b"{}," * (SIZE // 3 - 20) + b"{}]}",
    }


async def post(
    network: AttackedNetwork, path: bytes, body: bytes, *headers: bytes
) -> tuple[int, bytes]:
    """Send a request as it is; return the answer's status and its text."""
    reader, writer = await asyncio.open_connection(*network.address)
    try:
        head = [b"POST " + path + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers]
        writer.write(b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", b""]) + body)
        async with asyncio.timeout(60):
            status = await reader.readline()
            return int(status.split()[1]), await reader.read()
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def events(network: AttackedNetwork, name: str) -> list[dict[str, object]]:
    lines = network.router.log_file.read_text("utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == name]


async def test_no_body_keeps_the_loop_nor_costs_a_link(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=2) as network:
        down = len(events(network, "link_down"))
        async with network.honest(connections=2) as seen:
            for name, body in bodies().items():
                status, text = await post(network, INFER, body)
                assert status in {400, 413}, (name, status, text[-300:])
            # six of the dearest together
            dear = bodies()["texts"]
            answers = await asyncio.gather(*(post(network, INFER, dear) for _ in range(6)))
            assert {status for status, _ in answers} <= {400, 503, 504}
            # and more than is read at all
            status, text = await post(network, INFER, b"[" * (5 * MIB))
            assert (status, b"send tensors as binary data" in text) == (413, True)
        assert seen.failures == {}
        assert len(events(network, "link_down")) == down
        late = [float(str(line["late_s"])) for line in events(network, "loop_late")]
        figures.at_most(
            "the loop's longest delay while JSON comes, s", max(late, default=0), LATE_S
        )
        figures.at_most("the router's peak with long JSON, MB", peak_mb(network), 300)


async def test_no_packed_body_keeps_the_loop_or_takes_its_memory(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    bomb = gzip.compress(bytes(60 * MIB), 9)
    async with attacked(tmp_path, sample_models, nodes=1) as network:
        async with network.honest(connections=2) as seen:
            for path in (INFER, b"/v1/revocations", b"/v2/repository/index"):
                for _ in range(3):
                    status, _ = await post(network, path, bomb, b"Content-Encoding: gzip")
                    assert status == 413
            answers = await asyncio.gather(
                *(post(network, INFER, bomb, b"Content-Encoding: gzip") for _ in range(6))
            )
            assert {status for status, _ in answers} <= {413, 503}
        assert seen.failures == {}
        late = [float(str(line["late_s"])) for line in events(network, "loop_late")]
        figures.at_most(
            "the loop's longest delay with packed bodies, s", max(late, default=0), LATE_S
        )
        figures.at_most("the router's peak with packed bodies, MB", peak_mb(network), 300)


async def test_pages_asked_for_without_end_keep_nobody_waiting(
    tmp_path: Path, sample_models: Path
) -> None:
    async with attacked(tmp_path, sample_models, nodes=2) as network:

        async def ask(path: bytes, until_s: float) -> None:
            loop = asyncio.get_running_loop()
            reader, writer = await asyncio.open_connection(*network.address)
            while loop.time() < until_s:
                writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
            writer.close()
            await writer.wait_closed()

        async with network.honest(connections=2) as seen:
            until_s = asyncio.get_running_loop().time() + 3
            paths = (b"/v1/nodes", b"/metrics", b"/v2")
            await asyncio.gather(*(ask(path, until_s) for path in paths for _ in range(4)))
        assert seen.failures == {}


def peak_mb(network: AttackedNetwork) -> float:
    """Return what the router itself has had at most; its sidecar is not of HTTP."""
    return network.peak_bytes(network.router) / 1e6
