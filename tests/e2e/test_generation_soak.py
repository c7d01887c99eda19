"""Sixty-four callers of a language model for minutes: chats of all lengths, callers who leave, stops, deadlines. Nothing leaks.

Each request ends once for its caller, and is counted once; memory is flat; and afterwards one request gets all slots and all their tokens.

`make test-slow` runs it; CAPAMESH_SOAK_S is how long it takes, ten minutes unless it is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from chaos import worker_pids
from chaos_cluster import metrics_at, still_in_flight
from free_slots import has_all_slots, is_idle
from polling import until
from process_memory import resident_bytes
from tiny_llama import CONTEXT, TEXTS, write_decoder_folder

from capamesh.cli.local_cluster import LocalCluster

SOAK_S = float(os.environ.get("CAPAMESH_SOAK_S", "600"))
CALLERS = 64
SEED = 20261129
ANSWER_S = 5.0
"""The time of an answer, which those that wait in the queue behind others sometimes pass."""
SAMPLES = 40
"""The memory of processes is read so many times."""
GROWTH = 1.05
"""The most that processes may have grown by from the second quarter of the time to the last."""
SPARE_BYTES = 8 * 2**20
DONE = "data: [DONE]"
REFUSALS = {
    (400, "context_length_exceeded"),
    (503, "overloaded"),
    (504, "deadline_exceeded"),
}


class Caller:
    """One caller: asks, waits or leaves, and asks again."""

    def __init__(self, url: str, number: int) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._rng = random.Random(SEED + number)
        self.ends: Counter[str] = Counter()

    def _body(self) -> dict[str, Any]:
        rng = self._rng
        words = " ".join(rng.choices(TEXTS, k=rng.choice((1, 1, 2, 4, 8, 20))))
        words = words[: rng.randrange(10, 1200)]
        if rng.random() < 0.05:
            words = "over " * CONTEXT
        messages = [{"role": "user", "content": words}]
        body: dict[str, Any] = {
            "model": "tiny",
            "messages": messages,
            "max_tokens": rng.choice((1, 4, 16, 64, CONTEXT)),
            "temperature": rng.choice((0, 1)),
            "seed": rng.randrange(8),
            "n": rng.choice((1, 1, 1, 2, 8)),
            "stream": rng.random() < 0.7,
        }
        if rng.random() < 0.3:
            body["stop"] = rng.sample("aeiou ", 2)
        if rng.random() < 0.2:
            body["response_format"] = {"type": "json_object"}
        if rng.random() < 0.2:
            body["ignore_eos"] = True
        return body

    async def run(self, client: aiohttp.ClientSession, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until_s:
            body = self._body()
            leaves_s = self._rng.choice((None, None, None, 0.01, 0.1, 0.5))
            try:
                async with asyncio.timeout(leaves_s):
                    self.ends[await self._ask(client, body)] += 1
            except TimeoutError:
                self.ends["left"] += 1

    async def _ask(self, client: aiohttp.ClientSession, body: dict[str, Any]) -> str:
        async with client.post(self._url, json=body) as answer:
            text = await answer.text()
            if answer.status != 200:
                code = json.loads(text)["error"]["code"]
                assert (answer.status, code) in REFUSALS, text
                return str(code)
            if not body["stream"]:
                choices = json.loads(text)["choices"]
                assert [each["index"] for each in choices] == list(range(body["n"]))
                assert all(each["finish_reason"] for each in choices)
                return "whole"
        events = [each for each in text.split("\n\n") if each.startswith("data: ")]
        if events[-1] == DONE:
            assert events.count(DONE) == 1
            ended = sum('"finish_reason":"' in each for each in events)
            assert ended == body["n"], f"{ended} ends of {body['n']} choices"
            return "streamed"
        assert DONE not in events
        assert '"error"' in events[-1], events[-1]
        return "broke off"


def held_bytes(cluster: LocalCluster) -> dict[str, int]:
    """Return the memory of the router, of the node's agent and of its worker."""
    (node,) = cluster.nodes
    (worker,) = worker_pids(node)
    pids = {"router": cluster.router.pid, "agent": node.pid, "worker": worker}
    return {name: resident_bytes(pid) for name, pid in pids.items()}


async def held_in_time(cluster: LocalCluster) -> list[dict[str, int]]:
    """Return the memory of the processes in turn, from the beginning to the end."""
    samples: list[dict[str, int]] = []
    for _ in range(SAMPLES):
        await asyncio.sleep(SOAK_S / SAMPLES)
        samples.append(held_bytes(cluster))
    return samples


@pytest.mark.slow
async def test_many_callers_leave_nothing_behind(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_decoder_folder(models / "tiny" / "1")
    (models / "tiny" / "capamesh.toml").write_text("task = 'chat'\n")
    options = ("--answer-timeout", f"{ANSWER_S}")
    async with LocalCluster(
        tmp_path / "cluster", models, nodes=1, router_options=options
    ) as cluster:
        await cluster.wait_routable(1)
        until_s = asyncio.get_running_loop().time() + SOAK_S
        callers = [Caller(cluster.http_url, number) for number in range(CALLERS)]
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as client:
            samples, *_ = await asyncio.gather(
                held_in_time(cluster), *(each.run(client, until_s) for each in callers)
            )
        assert await still_in_flight(cluster.http_url) == {}
        (node,) = cluster.nodes
        await until(lambda: is_idle(node))
        for name in samples[0]:
            held = [each[name] for each in samples]
            before = max(held[SAMPLES // 4 : SAMPLES // 2])
            assert max(held[-SAMPLES // 4 :]) <= GROWTH * before + SPARE_BYTES, (name, held)
        ends = sum((each.ends for each in callers), Counter[str]())
        assert {"whole", "streamed", "left", "context_length_exceeded"} <= ends.keys(), ends
        metrics = await metrics_at(cluster.http_url)
        counted = sum(
            value
            for name, value in metrics.items()
            if name.startswith('capamesh_requests_total{code="') and 'model="tiny"' in name
        )
        # who leaves before the router has read his request is not counted
        assert sum(ends.values()) - ends["left"] <= counted <= sum(ends.values()), ends
        assert await has_all_slots(cluster.http_url, "tiny", CONTEXT)
