"""A thousand streams of a language model at once, through one router and a node with eight slots, beside a client that never reads.

Each is answered whole or refused with a reason, none hangs, memory is bounded, and afterwards all is free.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from chaos import worker_pids
from chaos_cluster import still_in_flight
from free_slots import SLOTS, has_all_slots, is_idle
from polling import until
from process_memory import peak_bytes, resident_bytes
from tiny_llama import CONTEXT, write_decoder_folder

from capamesh.cli.local_cluster import LocalCluster

STREAMS = 1000
TOKENS = 24
GUARD_S = 300.0
"""The time after which a stream hangs, on the slowest machine."""
STREAM_BYTES = 128 * 2**10
"""The most memory of a stream, in the router and in the worker each."""
SPARE_BYTES = 32 * 2**20


def body_of(number: int, tokens: int = TOKENS) -> dict[str, object]:
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"What is the number {number}?"}],
        "max_tokens": tokens,
        "seed": number,
        "ignore_eos": True,
        "stream": True,
    }


async def end_of(client: aiohttp.ClientSession, url: str, number: int) -> str:
    """Ask for one answer; return how it ended."""
    async with client.post(f"{url}/v1/chat/completions", json=body_of(number)) as answer:
        text = await answer.text()
    if answer.status != 200:
        assert "Retry-After" in answer.headers, text
        return f"{answer.status} {json.loads(text)['error']['code']}"
    events = [each for each in text.split("\n\n") if each.startswith("data: ")]
    assert events[-1] == "data: [DONE]", events[-1]
    assert sum('"finish_reason":"length"' in each for each in events) == 1
    return "whole"


async def never_read(url: str) -> socket.socket:
    """Ask for an answer that fills its slot, of which not a byte is read; return the connection."""
    data = json.dumps(body_of(STREAMS, CONTEXT)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    where = urlsplit(url)
    await loop.sock_connect(sock, (where.hostname, where.port))
    await loop.sock_sendall(sock, head.encode() + data)
    return sock


async def test_thousand_streams_at_once_end_once_and_leave_nothing(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_decoder_folder(models / "tiny" / "1")
    (models / "tiny" / "capamesh.toml").write_text("task = 'chat'\n")
    async with asyncio.timeout(GUARD_S), LocalCluster(tmp_path, models, nodes=1) as cluster:
        await cluster.wait_routable(1)
        url, (node,) = cluster.http_url, cluster.nodes
        assert await has_all_slots(url, "tiny", CONTEXT)
        pids = {"router": cluster.router.pid, "worker": worker_pids(node)[0]}
        before = {name: resident_bytes(pid) for name, pid in pids.items()}
        stalled = await never_read(url)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
            ends = Counter(
                await asyncio.gather(*(end_of(client, url, number) for number in range(STREAMS)))
            )
        stalled.close()
        assert ends.keys() <= {"whole", "503 overloaded"}, ends
        assert ends["whole"] > SLOTS, ends
        for name, pid in pids.items():
            grown = peak_bytes(pid) - before[name]
            assert grown <= STREAMS * STREAM_BYTES + SPARE_BYTES, (name, grown)
        assert await still_in_flight(url) == {}
        await until(lambda: is_idle(node))
        assert await has_all_slots(url, "tiny", CONTEXT)
