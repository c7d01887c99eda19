"""Requests that would end the process that runs them: too many rows, results of any size, loops without an end."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import engine_models
import numpy as np
import pytest
from chaos import send_signal, worker_pids
from engine_link import logged
from hostile import MIB, AttackedNetwork, Figures, attacked
from machine_speed import times_longer
from patience import until

BESIDE = 6
"""Under way at the same time."""
MODELS = ("digits", "magika", "counting", "looping")
NODE_OPTIONS = ("--watchdog", "20")
DATA_BYTES = 1792 * MIB
"""Of the 2 GiB of a node's container, less what its agent and sidecar take; here the container is played by a watcher."""
GAP_S = 5.0
"""The longest that a model may not be had, where nothing else runs: a worker starts anew twice at most."""


def body(name: str, datatype: str, array: np.ndarray, **parameters: object) -> tuple[bytes, str]:
    raw = array.tobytes()
    head = {
        "parameters": {"binary_data_output": True, **parameters},
        "inputs": [
            {
                "name": name,
                "datatype": datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(raw)},
            }
        ],
    }
    text = json.dumps(head).encode()
    return text + raw, str(len(text))


def attacks(count: int) -> Iterator[tuple[str, bytes, str]]:
    """Yield the model, the body and the length of its head of each attack; no two are the same."""
    for number in range(count):
        match number % 5:
            case 0 | 1:
                rows = (3_000, 3_000, 3_000, 5_000)[number % 4] + number
                yield "magika", *body("bytes", "INT32", np.full((rows, 2048), number, np.int32))
            case 2 | 3:
                count = np.array(4_000_000_000 + number, np.int64)
                yield "counting", *body("count", "INT64", count)
            case _:
                turns = np.array([engine_models.FOREVER + number])
                yield "looping", *body("turns", "INT64", turns, timeout=2_000_000)


async def post(
    session: aiohttp.ClientSession, url: str, model: str, content: bytes, head: str
) -> tuple[int, str]:
    headers = {"Inference-Header-Content-Length": head}
    async with session.post(
        f"{url}/v2/models/{model}/infer", data=io.BytesIO(content), headers=headers
    ) as reply:
        text = await reply.read()
        return reply.status, text[:400].decode("utf-8", "replace") if reply.status != 200 else ""


SMALL = {
    "magika": body("bytes", "INT32", np.zeros((1, 2048), np.int32)),
    "counting": body("count", "INT64", np.array(5, np.int64)),
    "looping": body("turns", "INT64", np.array([3])),
}
"""What well-behaved callers of the attacked models ask."""


class Uses:
    """Asks each model for something small, again and again; tells the longest that one could not be had."""

    def __init__(self, network: AttackedNetwork) -> None:
        self._network = network
        self.failures: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.longest_gap_s: dict[str, float] = {}

    async def run(self, model: str, is_over: asyncio.Event) -> None:
        async with aiohttp.ClientSession() as session:
            last_s = time.monotonic()
            while not is_over.is_set():
                status, text = await post(session, self._network.http_url, model, *SMALL[model])
                now_s = time.monotonic()
                if status == 200:
                    self.answered[model] += 1
                    gap_s = now_s - last_s
                    self.longest_gap_s[model] = max(self.longest_gap_s.get(model, 0.0), gap_s)
                    last_s = now_s
                else:
                    self.failures[f"{model} {status} {text}"] += 1
                await asyncio.sleep(0.05)


@pytest.mark.smoke
@pytest.mark.parametrize("count", [25, pytest.param(100, marks=pytest.mark.slow)])
async def test_requests_that_would_kill_take_no_model_away(
    built_models: Path, tmp_path: Path, figures: Figures, count: int
) -> None:
    models = tmp_path / "models"
    for name in ("digits", "magika"):
        shutil.copytree(built_models / name, models / name)
    engine_models.save(engine_models.counting(), models, "counting")
    engine_models.save(engine_models.looping(), models, "looping", manifest="instances = 4\n")
    answers: Counter[str] = Counter()
    others: list[str] = []
    longer = times_longer()
    async with attacked(
        tmp_path / "cluster", models, nodes=2, node_options=NODE_OPTIONS, data_bytes=DATA_BYTES
    ) as network:
        uses, is_over = Uses(network), asyncio.Event()
        async with network.honest() as seen, asyncio.TaskGroup() as tasks:
            using = [tasks.create_task(uses.run(model, is_over)) for model in SMALL]
            waiting = attacks(count)

            async def attack() -> None:
                async with aiohttp.ClientSession() as session:
                    for model, content, head in waiting:
                        status, text = await post(session, network.http_url, model, content, head)
                        answers[f"{model} {status}"] += 1
                        if status not in {400, 413}:
                            others.append(f"{model} {status} {text}")

            await asyncio.gather(*(attack() for _ in range(BESIDE)))
            is_over.set()
            await asyncio.gather(*using)
        deaths = sum(len(logged(node, "worker_died")) for node in network.nodes)
        peaks = [network.peak_bytes(node) / MIB for node in network.nodes]
        killed = network.watch.kills
        states = {
            model["name"]: model["state"]
            for node in network.nodes
            for model in node.status()["models"]
        }
    figures.at_most("query of death: workers that died", deaths, 2)
    figures.at_most("query of death: node, MB", max(peaks), 2048)
    longest_s = GAP_S * max(longer, times_longer())
    figures.at_most(
        "query of death: longest gap of a model, s", max(uses.longest_gap_s.values()), longest_s
    )
    assert sum(answers.values()) == count
    assert not any(key.endswith(" 200") for key in answers)
    # over the memory, or not to be done in the time left on a busy machine: not run, and no fault of the node
    assert {key for key in answers if key.startswith("magika")} <= {"magika 413", "magika 400"}, (
        "\n".join(others)
    )
    assert killed == []
    assert seen.failures == []
    assert set(states.values()) == {"ready"}
    assert set(states) == set(MODELS)
    assert set(uses.answered) == set(SMALL)


LARGE_ROWS = 40
"""More than the node measured at load."""
HEALED_S = 1.0


async def test_worker_that_is_killed_from_outside_runs_requests_as_large_once_it_is_back(
    built_models: Path, tmp_path: Path, figures: Figures
) -> None:
    shutil.copytree(built_models / "magika", tmp_path / "models" / "magika")
    numbers = itertools.count()
    texts: Counter[str] = Counter()

    async with attacked(tmp_path / "cluster", tmp_path / "models", nodes=1) as network:
        (node,) = network.nodes

        async def large(session: aiohttp.ClientSession) -> int:
            array = np.full((LARGE_ROWS, 2048), next(numbers), np.int32)
            status, text = await post(
                session, network.http_url, "magika", *body("bytes", "INT32", array)
            )
            texts[f"{status} {text}"] += status != 200
            return status

        async with aiohttp.ClientSession() as session:

            async def is_small_answered() -> bool:
                small = await post(session, network.http_url, "magika", *SMALL["magika"])
                return small[0] == 200

            async def is_large_answered() -> bool:
                return await large(session) == 200

            # the second and the third accuse, for none as large may have ended between
            for deaths in (1, 2, 3):
                running = [asyncio.create_task(large(session)) for _ in range(3)]
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                running.append(asyncio.create_task(large(session)))
                send_signal(worker_pids(node), signal.SIGKILL)
                await until(lambda deaths=deaths: len(logged(node, "worker_died")) == deaths)  # type: ignore[misc]
                await asyncio.gather(*running)
                await until(is_small_answered)
                back_s = time.monotonic()
                await until(is_large_answered)
                healed_s = time.monotonic() - back_s
                figures.at_most(
                    f"kill -9 from outside {deaths}: large ones answered, s", healed_s, HEALED_S
                )
        executing = [line["executing"] for line in logged(node, "worker_died")]
    assert executing.count(["magika/1 running"]) == 3, executing
    assert not any(text.startswith("413") for text in texts), texts
