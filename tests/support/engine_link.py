"""A node asked over its own link, as a router asks, and what it counted. IO: links, HTTP, files."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
from awaited_calls import probe, request
from clusters import metrics_text, until_status
from link_ends import Owner
from patience import LIMIT_S
from prometheus_client.parser import text_string_to_metric_families
from typing_extensions import override

from capamesh.cli.local_cluster import LocalCluster
from capamesh.cli.member import Member as Process
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import (
    ControlAction,
    ControlCall,
    InferCall,
    LoadReport,
    decode_answer,
    decode_load,
    encode_call,
    encode_control,
    encode_probe,
)
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.transport import LinkTransport, check_hello
from capamesh.protocol.network import Member, Membership, NetworkOwner, Role
from capamesh.protocol.tensors import Limits, Tensor

T = TypeVar("T")

POLL_S = 0.02
HOUR = dt.timedelta(hours=1)


class RouterEnd(Owner):
    """A router as far as a node can see."""

    def __init__(self, membership: Membership) -> None:
        super().__init__()
        self._trust = membership.trust()

    @override
    def verify(self, *said: Any) -> Member:
        return check_hello(self._trust, *said, dt.datetime.now(dt.UTC), role=Role.NODE)


@asynccontextmanager
async def node_link(cluster: LocalCluster, node: Process) -> AsyncIterator[Link]:
    """Join the cluster's network as one more router and dial the node's first worker."""
    identity = Identity.generate()
    folder = cluster.folder / f"asker-{identity.peer_id}"
    now = dt.datetime.now(dt.UTC)
    owner = NetworkOwner.load(cluster.folder / "network")
    token = owner.invite(Role.ROUTER, expires_at=now + HOUR, bootstrap=(), now=now)
    membership = Membership.join(identity, token, now)
    folder.mkdir()
    membership.save(folder)
    transport = LinkTransport(membership, folder, agent_version="test")
    link = await transport.dial(node.status()["data_addresses"][0], RouterEnd(membership))
    try:
        yield link
    finally:
        link.close("done")
        await link.wait_ended()


async def ask(
    link: Link,
    model: str,
    inputs: dict[str, Any],
    *,
    budget_ms: int = 60_000,
    is_job: bool = False,
) -> dict[str, Any]:
    """Return a model's outputs as arrays; raise what the node answered instead. `is_job`: as rows of a job that run alone."""
    call = InferCall(
        ModelName(model),
        ModelVersion(""),
        tuple(Tensor.from_numpy(name, array) for name, array in inputs.items()),
        is_bulk=is_job,
        is_alone=is_job,
    )
    answer = await request(link, *encode_call(call, budget_ms))
    outputs = decode_answer(answer.meta, answer.body, Limits()).outputs
    return {tensor.name: tensor.to_numpy() for tensor in outputs}


async def control(link: Link, action: ControlAction, model: str) -> None:
    call = ControlCall(action, ModelName(model), ModelVersion(""))
    await request(link, encode_control(call))


async def load_of(link: Link, model: str) -> LoadReport:
    """Return how busy the worker is with a model now."""
    return decode_load(await probe(link, encode_probe(ModelName(model), ModelVersion(""))))


async def counted(node: Process, model: str) -> dict[str, float]:
    """Return what the node's metrics say of a model: "requests ok", "dropped expired", "rows" and so on."""
    text = await metrics_text(node.status()["metrics"])
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if labels.get("model") == model and "le" not in labels:
                what = sample.name.removeprefix("capamesh_node_").removesuffix("_total")
                which = labels.get("code") or labels.get("reason") or ""
                found[f"{what} {which}".strip()] = sample.value
    return found


async def until(read: Callable[[], Awaitable[T]], is_so: Callable[[T], bool]) -> T:
    """Read again and again until `is_so` holds of what was read; return that."""
    seen: Any = None
    try:
        async with asyncio.timeout(LIMIT_S):
            while not is_so(seen := await read()):
                await asyncio.sleep(POLL_S)
    except TimeoutError as exc:
        raise AssertionError(f"not within {LIMIT_S:g} s; last seen: {seen}") from exc
    return seen


async def replaced(node: Process, before: int) -> dict[str, Any]:
    """Wait until a router has a link to another process than the worker `before`; return the node's status then.

    That a router sees the node as usable does not tell it: it may not have noticed yet that the process before is gone.
    """
    return await until_status(
        node, lambda said: said["worker_pids"] not in ([before], [None]) and said["links"] > 0
    )


def row(*values: float) -> Any:
    """Return float32 [1, N]."""
    return np.array([values], np.float32)


def logged(process: Process, event: str) -> list[dict[str, Any]]:
    """Return what a process has logged of one kind, its children's included."""
    lines = process.log_file.read_text(encoding="utf-8").splitlines()
    entries = (json.loads(line) for line in lines if line.startswith("{"))
    return [entry for entry in entries if entry.get("event") == event]
