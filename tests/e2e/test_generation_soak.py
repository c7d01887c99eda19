"""Many callers of a language model: a thousand streams at once, and sixty-four callers for minutes. Each is answered once or told why not, and nothing leaks.

Memory is bounded, and afterwards one request gets all slots and all their tokens. `make test-slow` runs the minutes; CAPAMESH_SOAK_S
is how long they take, ten minutes unless it is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from chaos import worker_pids
from clusters import Cluster, metrics_at, still_in_flight
from http_load import never_read
from patience import until
from process_memory import peak_bytes, resident_bytes
from tiny_llama import CONTEXT, TEXTS, write_decoder_folder

SLOTS = 8
"""The answers that a node generates at once on a CPU, which is also the most of one request."""
STREAMS, TOKENS = 1000, 24
GUARD_S = 300.0
"""The time after which a stream hangs, on the slowest machine."""
STREAM_BYTES = 128 * 2**10
"""The most memory of a stream, in the router and in the worker each."""
SPARE_BYTES = 32 * 2**20
SOAK_S = float(os.environ.get("CAPAMESH_SOAK_S", "600"))
CALLERS = 64
SEED = 20261129
ANSWER_S = 5.0
"""The time of an answer, which those that wait in the queue behind others sometimes pass."""
SAMPLES = 40
"""The memory of processes is read so many times."""
GROWTH = 1.05
"""The most that processes may have grown by from the second quarter of the time to the last."""
CHATS = "/v1/chat/completions"
REFUSALS = {
    (400, "context_length_exceeded"),
    (503, "overloaded"),
    (504, "deadline_exceeded"),
}


@asynccontextmanager
async def network(folder: Path, *options: str) -> AsyncIterator[Cluster]:
    """Run a router and a node with a tiny language model; at the end nothing is in flight, and all slots are free."""
    models = folder / "models"
    write_decoder_folder(models / "tiny" / "1")
    (models / "tiny" / "capamesh.toml").write_text("task = 'chat'\n")
    async with Cluster(folder / "cluster", models, 1, router_options=options) as cluster:
        await cluster.wait_routable(1)
        yield cluster
        assert await still_in_flight(cluster.http_url) == {}

        def is_idle() -> bool:
            models = cluster.nodes[0].status().get("models")  # a worker's counts come later
            return bool(models) and all(each.get("requests_in_flight") == 0 for each in models)

        await until(is_idle)
        body = body_of("Hi", CONTEXT, n=SLOTS)
        async with aiohttp.ClientSession(cluster.http_url) as client:
            reply = await client.post(CHATS, json=body)
            assert (reply.status, len((await reply.json())["choices"])) == (200, SLOTS)


def body_of(content: str, tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {
        "model": "tiny",
        "messages": messages,
        "max_tokens": tokens,
        "ignore_eos": True,
        **more,
    }


def end_of(text: str, choices: int) -> str:
    """Return how a stream ended: once, with an end of each choice, or by an error."""
    events = [each for each in text.split("\n\n") if each.startswith("data: ")]
    done = "data: [DONE]"
    if events[-1] == done:
        assert events.count(done) == 1
        assert sum('"finish_reason":"' in each for each in events) == choices
        return "streamed"
    assert done not in events
    assert '"error"' in events[-1], events[-1]
    return "broke off"


async def test_thousand_streams_at_once_end_once_and_leave_nothing(tmp_path: Path) -> None:
    async with asyncio.timeout(GUARD_S), network(tmp_path) as cluster:
        (worker,) = worker_pids(cluster.nodes[0])
        pids = {"router": cluster.router.pid, "worker": worker}
        before = {name: resident_bytes(pid) for name, pid in pids.items()}
        body = json.dumps(body_of("Go on", CONTEXT, stream=True)).encode()
        stalled = await never_read(cluster.address, CHATS, body)
        async with aiohttp.ClientSession(
            cluster.http_url, connector=aiohttp.TCPConnector(limit=0)
        ) as client:

            async def end(number: int) -> str:
                body = body_of(f"What is the number {number}?", TOKENS, seed=number, stream=True)
                async with client.post(CHATS, json=body) as answer:
                    text = await answer.text()
                if answer.status == 200:
                    return end_of(text, 1)
                assert "Retry-After" in answer.headers, text
                return f"{answer.status} {json.loads(text)['error']['code']}"

            ends = Counter(await asyncio.gather(*map(end, range(STREAMS))))
        stalled.close()
        assert ends.keys() <= {"streamed", "503 overloaded"}, ends
        assert ends["streamed"] > SLOTS, ends
        for name, pid in pids.items():
            grown = peak_bytes(pid) - before[name]
            assert grown <= STREAMS * STREAM_BYTES + SPARE_BYTES, (name, grown)


class Caller:
    """One caller: asks, waits or leaves, and asks again."""

    def __init__(self, number: int) -> None:
        self._rng = random.Random(SEED + number)
        self.ends: Counter[str] = Counter()

    def _body(self) -> dict[str, Any]:
        rng = self._rng
        words = " ".join(rng.choices(TEXTS, k=rng.choice((1, 1, 2, 4, 8, 20))))
        words = words[: rng.randrange(10, 1200)]
        if rng.random() < 0.05:
            words = "over " * CONTEXT
        body = body_of(
            words,
            rng.choice((1, 4, 16, 64, CONTEXT)),
            temperature=rng.choice((0, 1)),
            seed=rng.randrange(8),
            n=rng.choice((1, 1, 1, 2, 8)),
            stream=rng.random() < 0.7,
            ignore_eos=rng.random() < 0.2,
        )
        if rng.random() < 0.3:
            body["stop"] = rng.sample("aeiou ", 2)
        if rng.random() < 0.2:
            body["response_format"] = {"type": "json_object"}
        return body

    async def run(self, client: aiohttp.ClientSession, until_s: float) -> None:
        while asyncio.get_running_loop().time() < until_s:
            body = self._body()
            leaves_s = self._rng.choice((None, None, None, 0.01, 0.1, 0.5))
            try:
                async with asyncio.timeout(leaves_s):
                    self.ends[await self._ask(client, body)] += 1
            except TimeoutError:
                self.ends["left"] += 1

    async def _ask(self, client: aiohttp.ClientSession, body: dict[str, Any]) -> str:
        async with client.post(CHATS, json=body) as answer:
            text = await answer.text()
        if answer.status != 200:
            code = json.loads(text)["error"]["code"]
            assert (answer.status, code) in REFUSALS, text
            return str(code)
        if body["stream"]:
            return end_of(text, body["n"])
        choices = json.loads(text)["choices"]
        assert [each["index"] for each in choices] == list(range(body["n"]))
        assert all(each["finish_reason"] for each in choices)
        return "whole"


@pytest.mark.slow
async def test_many_callers_leave_nothing_behind(tmp_path: Path) -> None:
    async with network(tmp_path, "--answer-timeout", f"{ANSWER_S}") as cluster:
        (node,) = cluster.nodes
        pids = (cluster.router.pid, node.pid, *worker_pids(node))
        held: list[list[int]] = []
        until_s = asyncio.get_running_loop().time() + SOAK_S
        callers = [Caller(number) for number in range(CALLERS)]
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(cluster.http_url, connector=connector) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for each in callers:
                tasks.create_task(each.run(client, until_s))
            for _ in range(SAMPLES):
                await asyncio.sleep(SOAK_S / SAMPLES)
                held.append([resident_bytes(pid) for pid in pids])
        for of_process in zip(*held, strict=True):
            before = max(of_process[SAMPLES // 4 : SAMPLES // 2])
            last = max(of_process[-SAMPLES // 4 :])
            assert last <= GROWTH * before + SPARE_BYTES / 4, of_process
        ends = sum((each.ends for each in callers), Counter[str]())
        assert {"whole", "streamed", "left", "context_length_exceeded"} <= ends.keys(), ends
        counted = sum(
            value
            for name, value in (await metrics_at(cluster.http_url)).items()
            if name.startswith('capamesh_requests_total{code="') and 'model="tiny"' in name
        )
        # who leaves before the router has read his request is not counted
        assert sum(ends.values()) - ends["left"] <= counted <= sum(ends.values()), ends
