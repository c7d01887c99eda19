"""One client's prompts and streams against a language model: others that share no address with it are answered all the same."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from hostile import AttackedNetwork, Figures, attacked
from http_load import never_read
from machine_speed import times_slower
from tiny_llama import write_decoder_folder

ATTACKER, HONEST = "127.0.0.2", "127.0.0.3"
CHATS = "/v1/chat/completions"
PROMPTS, PROMPT_CHARACTERS = 40, 1_000_000
STREAMS, PLACES = 64, 32
CHATS_BESIDE = 26
LONGEST_S = 5.0
"""The longest that a chat of two tokens may take beside an attack, as many times as this machine is slower."""


@asynccontextmanager
async def chatting(folder: Path, manifest: str = "") -> AsyncIterator[AttackedNetwork]:
    """Run a router and a node with a tiny language model."""
    models = folder / "models"
    write_decoder_folder(models / "tiny" / "1")
    (models / "tiny" / "capamesh.toml").write_text(f"task = 'chat'\n{manifest}")
    async with attacked(folder / "network", models, nodes=1) as network:
        yield network


def client_of(address: str) -> aiohttp.ClientSession:
    """Return a client with an address of its own."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, local_addr=(address, 0)),
        timeout=aiohttp.ClientTimeout(120),
    )


async def chat(
    client: aiohttp.ClientSession, network: AttackedNetwork, content: str, **more: Any
) -> tuple[int, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}
    async with client.post(network.http_url + CHATS, json=body) as answer:
        return answer.status, await answer.json()


async def chats_beside(network: AttackedNetwork) -> tuple[Counter[int], float]:
    """Ask for two tokens again and again; return the statuses, and the longest time of a chat."""
    statuses: Counter[int] = Counter()
    longest_s = 0.0
    async with client_of(HONEST) as client:
        for number in range(CHATS_BESIDE):
            began_s = time.monotonic()
            status, _ = await chat(client, network, f"Hi {number}", max_tokens=2)
            statuses[status] += 1
            longest_s = max(longest_s, time.monotonic() - began_s)
    return statuses, longest_s


async def test_prompts_that_cannot_fit_do_not_keep_others_waiting(
    tmp_path: Path, figures: Figures
) -> None:
    async with chatting(tmp_path) as network, client_of(ATTACKER) as attacker:
        digits = "1234567890" * (PROMPT_CHARACTERS // 10)
        attack = asyncio.gather(*(chat(attacker, network, digits) for _ in range(PROMPTS)))
        statuses, longest_s = await chats_beside(network)
        refused = Counter(status for status, _ in await attack)
    most_s = LONGEST_S * await asyncio.to_thread(times_slower)
    assert statuses == {200: CHATS_BESIDE}
    assert refused.keys() <= {400, 429, 503}
    what = f"longest chat beside {PROMPTS} prompts of a million digits, s"
    figures.at_most(what, longest_s, most_s)


async def test_client_that_holds_all_streams_leaves_places_to_others(
    tmp_path: Path, figures: Figures
) -> None:
    async with chatting(tmp_path, f"max_queue = {PLACES}\n") as network:
        turns = [{"role": "user", "content": "Go on"}]
        body = json.dumps({"model": "tiny", "stream": True, "n": 8, "messages": turns}).encode()
        socks = [await never_read(network.address, CHATS, body, ATTACKER) for _ in range(STREAMS)]
        try:
            statuses, longest_s = await chats_beside(network)
        finally:
            for sock in socks:
                sock.close()
    most_s = 4 * LONGEST_S * await asyncio.to_thread(times_slower)
    assert statuses == {200: CHATS_BESIDE}
    what = f"longest chat beside {STREAMS} streams that nobody reads, s"
    figures.at_most(what, longest_s, most_s)
