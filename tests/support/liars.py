"""Nodes of one token that lie about what they are asked, beside honest ones, and callers who count what becomes of that. IO: processes, sockets.

Each honest node of the cluster has an invite of its own; the liars share one, as strangers do who got one token.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from evil_node import Answers, EvilNode, Late, made_up, present
from hostile import AttackedNetwork, children_of

from capamesh.protocol.adverts import ModelOffer, ModelState
from capamesh.protocol.errors import InvalidRequest, RunFailed, TooLarge
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.network import Role
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

INPUTS = (TensorSpec("X", Datatype.FP32, (-1, 64)),)
OUTPUTS = (
    TensorSpec("label", Datatype.INT64, (-1,)),
    TensorSpec("probabilities", Datatype.FP32, (-1, 10)),
)
WRONG_LABEL = 42
LATE_S = 0.3
"""A hundred times what the model takes."""
BODY = json.dumps(
    {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]}
).encode()
JSON = {"Content-Type": "application/json"}


def _strange(_: InferCall) -> list[Tensor]:
    """Answer in another form than the model has."""
    return [
        made_up(TensorSpec(spec.name, Datatype.FP64, (-1, 3)), 1, WRONG_LABEL) for spec in OUTPUTS
    ]


LIES: dict[str, Answers] = {
    "invalid": lambda _: InvalidRequest("your request is wrong"),
    "too_large": lambda _: TooLarge("your request is too large"),
    "run_failed": lambda _: RunFailed("the model failed"),
    "strange outputs": _strange,
    "never answers": lambda _: None,
    "late": lambda _: Late(LATE_S, InvalidRequest("your request is wrong")),
    "once": lambda _: InvalidRequest("your request is wrong"),
}
"""What liars answer; of `once` they advertise beside that no request may run twice."""


@dataclass(slots=True)
class Outcomes:
    """What callers saw."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])
    wrong: int = 0
    """Answers that are not the model's."""
    seconds: list[float] = field(default_factory=list[float])

    @property
    def p99_ms(self) -> float:
        """Return the 99th percentile of the latencies in milliseconds."""
        return sorted(self.seconds)[int(0.99 * len(self.seconds))] * 1e3 if self.seconds else 0.0


async def label_of(url: str) -> int:
    """Return what the model answers; to be asked while all nodes are honest."""
    async with aiohttp.ClientSession() as session, _asked(session, url) as reply:
        return _label(await reply.json())


def _asked(session: aiohttp.ClientSession, url: str) -> Any:
    return session.post(f"{url}/v2/models/digits/infer", data=BODY, headers=JSON)


def _label(given: dict[str, Any]) -> int:
    (label,) = [output["data"][0] for output in given["outputs"] if output["name"] == "label"]
    return int(label)


async def ask(
    url: str,
    count: int,
    right: int,
    *,
    callers: int = 4,
    at: dict[int, Callable[[], None]] | None = None,
) -> Outcomes:
    """Ask digits `count` times, a few at a time; `at` are to be called before the requests of these numbers."""
    seen = Outcomes()
    numbers = iter(range(count))

    async def caller(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            if at and number in at:
                at[number]()
            began_s = time.monotonic()
            async with _asked(session, url) as reply:
                given = await reply.json()
            seen.seconds.append(time.monotonic() - began_s)
            if reply.status != 200:
                seen.failed[f"{reply.status} {given}"[:200]] += 1
                continue
            seen.answered += 1
            seen.wrong += _label(given) != right

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller(session))
    return seen


@asynccontextmanager
async def lying(
    running: AttackedNetwork, folder: Path, *answers: Answers, is_once: bool = False
) -> AsyncIterator[list[EvilNode]]:
    """Let a node be there for each of `answers`, all of one token, that hosts digits by its own word.

    `is_once`: they advertise that no request may run twice.
    """
    mesh = running.router.status()["mesh_addresses"]
    token = running.cluster._token(running.cluster._owner(), Role.NODE, mesh).encode()
    async with aiohttp.ClientSession() as session:

        async def get(page: str) -> Any:
            async with session.get(running.url + page) as reply:
                return await reply.json()

        owned = (await get("/v1/models"))["models"]
        (digest,) = [one["digest"] for one in owned if one["name"] == "digits"]
        offer = ModelOffer(
            ModelName("digits"),
            ModelVersion("1"),
            digest,
            ModelState.READY,
            "",
            INPUTS,
            OUTPUTS,
            is_idempotent=not is_once,
        )
        async with AsyncExitStack() as stack:
            liars: list[EvilNode] = []
            for number, each in enumerate(answers):
                liar = EvilNode(folder / str(number), token, offer)
                liar.answers = each
                liars.append(await stack.enter_async_context(present(liar)))
            peers = {liar.membership.identity.peer_id for liar in liars}
            async with asyncio.timeout(60):
                while True:
                    linked = {
                        node["peer_id"]
                        for node in (await get("/v1/nodes"))["nodes"]
                        if any(link["is_usable"] for link in node["links"])
                    }
                    if peers <= linked:
                        break
                    await asyncio.sleep(0.1)
            yield liars


def signal_all(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and to all that it has started."""
    for child in children_of(pid):
        with suppress(ProcessLookupError):
            os.kill(child, number)
