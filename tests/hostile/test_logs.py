"""Strangers cannot fill a disk with what a router says about them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

from hostile import Figures, attacked

INFER = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\n"
HTTP = {
    "broken gzip": INFER + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk",
    "broken chunks": INFER + b"Transfer-Encoding: chunked\r\n\r\nzz\r\njunk\r\n0\r\n\r\n",
    "cut gzip chunks": INFER
    + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n4\r\njunk\r\n0\r\n\r\n",
    "malformed head": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "bad header": b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
    "no model": b"POST /v2/models/x/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
    "no JSON": INFER + b"Content-Length: 2\r\n\r\n{{",
}
LINK = {
    "half a handshake": b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03" + bytes(32),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "junk": bytes(range(256)),
}
ROUNDS = 20


async def throw(address: tuple[str, int], data: bytes) -> int:
    """Send, wait a little for an answer, leave; return how many bytes went."""
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(data)
        try:
            async with asyncio.timeout(0.2):
                await reader.read(1)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return len(data)


async def test_log_is_smaller_than_what_strangers_send(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=1) as network:
        before = network.router.log_file.stat().st_size
        status = json.loads((network.router.data_folder / "status.json").read_text())
        host, _, port = status["link_address"].rpartition(":")
        async with network.honest(connections=2) as seen:
            sent = 0
            for _ in range(ROUNDS):
                sizes = await asyncio.gather(
                    *(throw(network.address, data) for data in HTTP.values()),
                    *(throw((host, int(port)), data) for data in LINK.values()),
                )
                sent += sum(sizes)
            for data in (HTTP["broken gzip"], HTTP["broken chunks"]) * 100:
                sent += await throw(network.address, data)
        text = network.router.log_file.read_bytes()
        assert seen.failures == []
        logged = text[before:]
        events = [json.loads(line)["event"] for line in text.splitlines()]  # each is JSON
        assert "request_crashed" not in events
        figures.at_most("bytes logged for ten sent", 10 * len(logged) / sent, 1.0)
