"""A real cluster whose every node can be hurt on its own: behind a proxy, with its own models. IO: processes, files, HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import engine_models
import numpy as np
import onnx
from chaos import Proxy
from evil_node import EvilNode, present
from free_ports import free_port
from onnx import numpy_helper
from open_load import OpenLoad

from capamesh.cli.local_cluster import ANY_PORTS, LocalCluster
from capamesh.cli.member import Member
from capamesh.protocol.adverts import ModelOffer, ModelState
from capamesh.protocol.errors import CapameshError, RunFailed
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall, LoadReport
from capamesh.protocol.member_status import SERVING
from capamesh.protocol.network import Role
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec
from capamesh.router.policies import DEFAULT_POLICY, POLICIES

MODEL = "turning"
INDEX = TensorSpec("index", Datatype.INT64, (1,))
DONE = TensorSpec("done", Datatype.INT64, (1,))
TURN_S = 4e-6
INDICES = 1000
"""What a request may ask for: 0 to this, exclusively."""
ROTATION_LIMIT_S = 30.0
POLL_S = 0.05
CAPACITY_IN_FLIGHT = 16
CAPACITY_S = 4.0
POLICY = DEFAULT_POLICY if DEFAULT_POLICY in POLICIES else "p2c"


def turning(turns: int) -> onnx.ModelProto:
    """Return a model that turns `turns` times, at 4 µs each: int64 [1], an index that changes nothing, to int64 [1]."""
    model = engine_models.looping()
    graph = model.graph
    del graph.input[:]
    graph.input.append(engine_models._value("index", onnx.TensorProto.INT64, [1]))
    graph.initializer.append(numpy_helper.from_array(np.array([turns], np.int64), "given"))
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "nothing"))
    first = (
        onnx.helper.make_node("Mul", ["index", "nothing"], ["no_more"]),
        onnx.helper.make_node("Add", ["given", "no_more"], ["turns"]),
    )
    for at, node in enumerate(first):
        graph.node.insert(at, node)
    onnx.checker.check_model(model)
    return model


def request(index: int, turns: int, *, timeout_s: float = 0.0) -> tuple[bytes, bytes]:
    """Return a request's body for `turning`, and what its answer holds."""
    parameters = f'"parameters":{{"timeout":{int(timeout_s * 1e6)}}},' if timeout_s else ""
    body = f'{{{parameters}"inputs":[{{"name":"index","datatype":"INT64","shape":[1],"data":[{index}]}}]}}'
    return body.encode(), f"[{turns}]".encode()


def requests(count: int, turns: int, *, timeout_s: float = 0.0) -> Iterator[tuple[bytes, bytes]]:
    """Yield as many requests, each with the next index."""
    for number in range(count):
        yield request(number % INDICES, turns, timeout_s=timeout_s)


class ChaosCluster(LocalCluster):
    """Starts with a router alone; each node is added with what is special about it."""

    def __init__(self, folder: Path, models: Path, *, router_options: tuple[str, ...] = ()) -> None:
        super().__init__(
            folder, models, nodes=0, router_options=("--policy", POLICY, *router_options)
        )
        self._arguments: dict[str, tuple[tuple[str, ...], Path]] = {}
        self.more_routers: list[Member] = []

    async def __aexit__(self, *error: Any) -> None:
        try:
            await asyncio.gather(*(router.stop(20) for router in self.more_routers))
        finally:
            await super().__aexit__(*error)

    async def add(self, *options: str, models: Path | None = None) -> Member:
        """Start a node with more of `capamesh node run`; `models` instead of the cluster's."""
        before = self._node_options, self.models
        self._node_options = ("--threads", "1", "--poll", "0", *options)
        self.models = models or self.models
        try:
            node = await self.add_node()
            self._arguments[node.name] = self._node_options, self.models
        finally:
            self._node_options, self.models = before
        return node

    @asynccontextmanager
    async def proxied(self, number: int) -> AsyncIterator[tuple[Member, Proxy]]:
        """Start a node whose links, not its mesh, go through a proxy in this process."""
        inner, outer = f"127.0.{number}.1", f"127.0.{number}.2"
        port = free_port(inner)
        async with Proxy((outer, port), (inner, port)).running() as proxy:
            node = await self.add(
                *("--host", inner, "--port", str(port), "--advertise", outer),
            )
            yield node, proxy

    async def start_again(self, node: Member) -> Member:
        """Start a node that has ended anew, in its folder and with its options."""
        self._node_options, self.models, before = (
            *self._arguments[node.name],
            (self._node_options, self.models),
        )
        try:
            again = await Member.start(
                node.name,
                node.data_folder,
                ("node", "run", "--models", str(self.models), *self._node_options),
                self._token_file(node.name, self._node_token()),
            )
        finally:
            self._node_options, self.models = before
        self.nodes[self.nodes.index(node)] = again
        await self._until_joined(again)
        return again

    async def add_router(self, http: str = "127.0.0.1:0", name: str = "router-2") -> Member:
        """Start one more router, or one that has ended again, and wait until it is ready."""
        router = await Member.start(
            name,
            self.folder / name,
            ("router", "run", "--http", http, "--policy", POLICY, *ANY_PORTS),
            self._token_file(
                name,
                self._token(self._owner(), Role.ROUTER, self.router.status()["mesh_addresses"]),
            ),
        )
        self.more_routers = [each for each in self.more_routers if each.is_running] + [router]
        await self._until(router, lambda status: status.get("state") in SERVING)
        return router


def peer_of(member: Member) -> str:
    """Return a member's peer id."""
    return str(member.status()["peer_id"])


class GrayNode(EvilNode):
    """Serves `turning` as the others do, but that its runs fail for the indices of which `fails` is true."""

    def __init__(self, folder: Path, token: str, digest: str, turns: int) -> None:
        offer = ModelOffer(
            ModelName(MODEL), ModelVersion("1"), digest, ModelState.READY, "", (INDEX,), (DONE,)
        )
        super().__init__(folder, token, offer)
        run_us = int(turns * TURN_S * 1e6)
        self._turns = turns
        self.delay_s = turns * TURN_S
        self.load_reported = LoadReport(0, 0, CAPACITY_IN_FLIGHT, 0, run_us, 1 << 30, run_us, 0)
        self.fails: Callable[[int], bool] = lambda _: False
        self.answers = self._answer

    def _answer(self, call: InferCall) -> Sequence[Tensor] | CapameshError:
        index = int(call.inputs[0].to_numpy()[0])
        if self.fails(index):
            return RunFailed("the run failed")
        return [Tensor.from_numpy(DONE.name, np.array([self._turns], np.int64))]


@asynccontextmanager
async def gray_node(
    cluster: ChaosCluster, turns: int, fails: Callable[[int], bool]
) -> AsyncIterator[str]:
    """Add a node that fails in some of its runs, and yield its peer id.

    Its files are the others', else it would serve another model; so it is none of our node agents.
    """
    (digest,) = [one["digest"] for one in await models_at(cluster.http_url) if one["name"] == MODEL]
    bootstrap = cluster.router.status()["mesh_addresses"]
    token = cluster._token(cluster._owner(), Role.NODE, bootstrap).encode()
    gray = GrayNode(cluster.folder / "gray", token, digest, turns)
    gray.fails = fails
    async with present(gray):
        yield gray.membership.identity.peer_id


# what a router says


async def models_at(url: str) -> list[dict[str, Any]]:
    """Return the models of `/v1/models`."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/models") as reply:
        return list((await reply.json())["models"])


async def nodes_at(url: str) -> dict[str, dict[str, Any]]:
    """Return `/v1/nodes` by peer."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/nodes") as reply:
        return {node["peer_id"]: node for node in (await reply.json())["nodes"]}


async def metrics_at(url: str) -> dict[str, float]:
    """Return `/metrics`, each sample by its name and labels."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as reply:
        text = await reply.text()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def is_in_rotation(node: Mapping[str, Any]) -> bool:
    """Whether a node of `/v1/nodes` has all its share of requests."""
    return any(
        link["is_usable"]
        and link["state"] == "closed"
        and all(model["share"] == 1 for model in link["models"] if model["name"] == MODEL)
        and any(model["name"] == MODEL for model in link["models"])
        for link in node["links"]
    )


def states(node: Mapping[str, Any]) -> str:
    """Return how a node is seen, for messages."""
    return "; ".join(
        f"up {link['is_up']}, usable {link['is_usable']}, {link['state']} ({link['reason']}), "
        + ", ".join(
            f"{m['name']} {m['state']} {m['share']} ({m['reason']})" for m in link["models"]
        )
        for link in node["links"]
    )


async def until_node(
    url: str, peer: str, is_so: Callable[[Mapping[str, Any]], bool], what: str
) -> float:
    """Wait until a node is seen so; return how many seconds that took."""
    began_s, seen = time.monotonic(), "unknown to the router"
    while time.monotonic() < began_s + ROTATION_LIMIT_S:
        node = (await nodes_at(url)).get(peer)
        if node is not None:
            if is_so(node):
                return time.monotonic() - began_s
            seen = states(node)
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"not {what} within {ROTATION_LIMIT_S:g} s: {seen}")


async def until_in_rotation(url: str, *peers: str) -> float:
    """Wait until all of the nodes have all their share of requests; return how many seconds that took."""
    return max([await until_node(url, peer, is_in_rotation, "in rotation") for peer in peers])


async def until_out(url: str, peer: str) -> float:
    """Wait until a node has not all its share of requests; return how many seconds that took."""
    return await until_node(url, peer, lambda node: not is_in_rotation(node), "out of rotation")


async def until_linked(url: str, peer: str) -> float:
    """Wait until the router has a link to a node; return how many seconds that took."""
    return await until_node(
        url, peer, lambda node: any(link["is_up"] for link in node["links"]), "linked"
    )


async def until_unlinked(url: str, peer: str) -> float:
    """Wait until the router has given up its links to a node; return how many seconds that took."""
    return await until_node(
        url, peer, lambda node: not any(link["is_up"] for link in node["links"]), "without links"
    )


async def still_in_flight(url: str) -> dict[str, float]:
    """Return the counters of what is under way that are not 0, after a moment for withdrawals to be done."""
    found: dict[str, float] = {}
    for _ in range(40):
        metrics = await metrics_at(url)
        found = {"requests_in_flight": metrics["capamesh_requests_in_flight"]}
        found["open_requests"] = metrics["capamesh_open_requests"] - 1  # the one that asks this
        for peer, node in (await nodes_at(url)).items():
            for link in node["links"]:
                found[f"link {peer}"] = link["requests_in_flight"]
                for model in link["models"]:
                    found[f"{model['name']} at {peer}"] = model["requests_in_flight"]
        found = {name: value for name, value in found.items() if value}
        if not found:
            break
        await asyncio.sleep(POLL_S)
    return found


async def capacity(cluster: ChaosCluster, turns: int) -> float:
    """Return how many requests of so many turns a second it answers, always 16 under way, after a second to warm up."""
    load, one = OpenLoad(cluster.http_url, MODEL), request(0, turns)
    await load.closed_rate(one, concurrency=CAPACITY_IN_FLIGHT, seconds=1.0)
    return await load.closed_rate(one, concurrency=CAPACITY_IN_FLIGHT, seconds=CAPACITY_S)
