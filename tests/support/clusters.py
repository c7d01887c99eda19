"""Networks of real processes: their members can be hurt, started again, renewed and shut out, and are asked how they are. IO: processes, files, HTTP."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from chaos import Proxy
from free_ports import free_port
from http_load import Load, Request
from patience import until
from typing_extensions import override

from capamesh.cli.local_cluster import ANY_PORTS, LocalCluster
from capamesh.cli.member import Member
from capamesh.protocol.member_status import SERVING, verdict
from capamesh.protocol.network import JoinToken, NetworkOwner, RevocationList, Role

ROOT = Path(__file__).resolve().parents[2]
MODEL = "turning"
INDICES = 1000
"""What a request for `turning` may ask for: 0 to this, exclusively."""
ROTATION_LIMIT_S = 30.0
POLL_S = 0.05
CAPACITY_IN_FLIGHT = 16
CAPACITY_S = 4.0
CONNECTIONS = 64
"""Each fresh connection comes to one of two workers, three of four to the same one and twenty in a row (seen): so many come to both."""


@pytest.fixture(scope="session")
def built_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with digits, breast_cancer, magika and more; nothing may be added to it. `cases` lies beside it."""
    built = ROOT / "build" / "models"
    if (built / "magika").is_dir() and (built.parent / "cases").is_dir():
        return built
    folder = tmp_path_factory.mktemp("build") / "models"
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build_models.py"), "--into", str(folder)],
        check=True,
        timeout=120,
    )
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(
    built_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalCluster]:
    """A router and two nodes that no test may hurt."""
    folder = tmp_path_factory.mktemp("cluster")
    async with LocalCluster(folder, built_models, nodes=2) as running:
        await running.wait_routable(2)
        yield running


class Cluster(LocalCluster):
    """A router, and nodes that may each have options of their own; one that has ended can be started again as it was."""

    def __init__(self, folder: Path, models: Path, nodes: int = 0, **options: Any) -> None:
        super().__init__(folder, models, nodes, **{"node_options": ("--threads", "1"), **options})
        self.more_routers: list[Member] = []
        self.owner: NetworkOwner | None = None
        self._words: dict[str, tuple[str, ...]] = {}

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.http_url.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    @override
    async def stop(self) -> None:
        for member in (*self.members, *self.more_routers):
            member.signal(signal.SIGCONT)  # a frozen one would not end
        await asyncio.gather(*(router.stop(20) for router in self.more_routers))
        await super().stop()

    @override
    async def _start_node(self) -> Member:
        node = await super()._start_node()
        words = ("node", "run", "--models", str(self.models), "--name", node.name)
        self._words[node.name] = (*words, *self._node_options)
        return node

    async def add(self, *options: str, models: Path | None = None) -> Member:
        """Start a node with more of `capamesh node run`; `models` instead of the cluster's."""
        before = self._node_options, self.models
        self._node_options = (*self._node_options, "--poll", "0", *options)
        self.models = models or self.models
        try:
            return await self.add_node()
        finally:
            self._node_options, self.models = before

    @asynccontextmanager
    async def proxied(self, number: int) -> AsyncIterator[tuple[Member, Proxy]]:
        """Start a node whose links, not its mesh, go through a proxy in this process."""
        inner, outer = f"127.0.{number}.1", f"127.0.{number}.2"
        port = free_port(inner)
        async with Proxy((outer, port), (inner, port)).running() as proxy:
            node = await self.add("--host", inner, "--port", str(port), "--advertise", outer)
            yield node, proxy

    async def start_again(self, node: Member) -> Member:
        """Start a node that has ended anew, in its folder and with its options."""
        again = await self._started(node.name, node.data_folder, self._words[node.name], Role.NODE)
        self.nodes[self.nodes.index(node)] = again
        await self._until_joined(again)
        return again

    async def start_router_again(self, *options: str) -> Member:
        """Start the router anew, once it has ended, in its folder and at its addresses, which must be `kept_ports`."""
        words = ("router", "run", "--http", self._http, *ANY_PORTS, *self._router_options, *options)
        folder = self.router.data_folder
        self._router = await self._started("router", folder, words, Role.ROUTER)
        return self._router

    async def add_router(
        self,
        http: str = "127.0.0.1:0",
        name: str = "router-2",
        folder: Path | None = None,
        *,
        is_waited_for: bool = True,
    ) -> Member:
        """Start one more router, or one that has ended again, and wait until it is ready."""
        words = ("router", "run", "--http", http, *ANY_PORTS, *self._router_options)
        router = await self._started(name, folder or self.folder / name, words, Role.ROUTER)
        self.more_routers = [each for each in self.more_routers if each.is_running] + [router]
        if is_waited_for:
            await self._until(router, lambda status: status.get("state") in SERVING)
        return router

    async def _started(self, name: str, folder: Path, words: tuple[str, ...], role: Role) -> Member:
        token = self.folder / f"{name}.token"
        if not token.exists():
            self._token_file(name, self.token(role))
        return await Member.start(name, folder, words, token)

    # the network's owner

    @override
    def _owner(self) -> NetworkOwner:
        self.owner = self.owner or super()._owner()
        return self.owner

    def token(self, role: Role = Role.NODE, lasts_s: float = 86_400.0) -> JoinToken:
        """Return a token of this life for one more member."""
        now = dt.datetime.now(dt.UTC)
        return self._owner().invite(
            role,
            expires_at=now + dt.timedelta(seconds=lasts_s),
            bootstrap=self._mesh_addresses(),
            now=now,
        )

    def renew(self, lasts_s: float, *members: Member) -> None:
        """Have members, or else all, take new tokens of this life."""
        for member in members or self.members:
            role = Role.NODE if member in self.nodes else Role.ROUTER
            self._token_file(member.name, self.token(role, lasts_s))
            member.signal(signal.SIGHUP)

    async def tell(self, revocations: RevocationList) -> dict[str, Any]:
        """Hand a list to the router; return its answer."""
        async with (
            aiohttp.ClientSession(headers=self.headers) as session,
            session.post(f"{self.http_url}/v1/revocations", data=revocations.encode()) as reply,
        ):
            assert reply.status == 200, await reply.text()
            return dict(await reply.json())

    # clients

    @asynccontextmanager
    async def honest(
        self, *, connections: int = 4, is_new: bool = False, pause_s: float = 0.01
    ) -> AsyncIterator[SimpleNamespace]:
        """Let well-behaved clients ask `digits` meanwhile, each on one connection or (`is_new`) on a new one each time.

        Once they have ended, what is yielded has what `http_load` prints.
        """
        seen = SimpleNamespace()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).with_name("http_load.py")), self.http_url),
            *(str(connections), "new" if is_new else "kept", str(pause_s)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert await process.stdout.readline() == b"asking\n"
            yield seen
            process.stdin.close()
            async with asyncio.timeout(90):
                vars(seen).update(json.loads(await process.stdout.readline()))
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def kept_ports() -> dict[str, Any]:
    """Return the options of a cluster whose router is started again at its addresses: no other is given its ports while it is away."""
    return {
        "http": f"127.0.0.1:{free_port()}",
        "router_options": ("--mesh", f"127.0.0.1:{free_port()}"),
    }


# what members say


def peer_of(member: Member) -> str:
    return str(member.status()["peer_id"])


async def until_status(member: Member, is_so: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Wait until a member's status is so, while it runs; return that."""

    def seen() -> bool:
        assert member.is_running, member.exit_report()
        status = member.status()
        return bool(status) and bool(is_so(status))

    await until(seen)
    return member.status()


async def until_state(member: Member, state: str) -> None:
    """Wait until `capamesh ... status` would say so of it."""
    await until_status(member, lambda said: verdict(said, dt.datetime.now(dt.UTC)).state == state)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# what a router says


async def get(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return await reply.json()


async def models_at(url: str) -> list[dict[str, Any]]:
    return list((await get(f"{url}/v1/models"))["models"])


async def nodes_at(url: str) -> dict[str, dict[str, Any]]:
    """Return `/v1/nodes` by peer."""
    return {node["peer_id"]: node for node in (await get(f"{url}/v1/nodes"))["nodes"]}


async def metrics_text(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return await reply.text()


async def metrics_at(url: str) -> dict[str, float]:
    """Return `/metrics`, each sample by its name and labels."""
    text = await metrics_text(f"{url}/metrics")
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


async def until_node(url: str, peer: str, is_so: Callable[[Mapping[str, Any]], bool]) -> float:
    """Wait until a node is seen so, where one that the router has forgotten has no links; return how many seconds that took."""
    began_s = time.monotonic()
    while True:
        node = (await nodes_at(url)).get(peer, {"links": []})
        took_s = time.monotonic() - began_s
        if is_so(node):
            return took_s
        assert took_s < ROTATION_LIMIT_S, f"not so within {took_s:g} s: {node['links']}"
        await asyncio.sleep(POLL_S)


async def until_in_rotation(url: str, *peers: str) -> float:
    """Wait until all of the nodes have all their share of requests; return how many seconds that took."""
    return max([await until_node(url, peer, is_in_rotation) for peer in peers])


async def until_linked(url: str, peer: str, *, is_up: bool = True) -> float:
    """Wait until the router has a link to a node, or has given up all; return how many seconds that took."""
    return await until_node(
        url, peer, lambda node: any(link["is_up"] for link in node["links"]) is is_up
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


async def until_all_know(cluster: LocalCluster, model: str) -> None:
    """Wait until both workers of a router serve, and each has heard that a node has the model ready.

    `LocalCluster.wait_routable` asks the router, and one worker answers.
    """

    def are_up() -> bool:
        workers = cluster.router.status()["workers"]
        return [worker["state"] for worker in workers] == ["ready", "ready"]

    async def is_ready() -> bool:
        async with (
            aiohttp.ClientSession(cluster.http_url) as session,
            session.get(f"/v2/models/{model}/ready", ssl=False) as reply,
        ):
            return reply.status == 200

    async def is_ready_at_all() -> bool:
        return all([await is_ready() for _ in range(CONNECTIONS)])

    await until(are_up)
    await until(is_ready_at_all)


# requests for `turning`


def request(index: int, turns: int, *, timeout_s: float = 0.0) -> Request:
    """Return a request's body for `turning`, and what its answer holds."""
    parameters = f'"parameters":{{"timeout":{int(timeout_s * 1e6)}}},' if timeout_s else ""
    body = f'{{{parameters}"inputs":[{{"name":"index","datatype":"INT64","shape":[1],"data":[{index}]}}]}}'
    return body.encode(), f"[{turns}]".encode()


def requests(count: int, turns: int, *, timeout_s: float = 0.0) -> Iterator[Request]:
    """Yield as many requests, each with the next index."""
    for number in range(count):
        yield request(number % INDICES, turns, timeout_s=timeout_s)


async def capacity(cluster: LocalCluster, turns: int) -> float:
    """Return how many requests of so many turns a second it answers, always 16 under way, after a second to warm up."""
    load, one = Load(cluster.http_url, MODEL), request(0, turns)
    await load.closed_rate(one, concurrency=CAPACITY_IN_FLIGHT, seconds=1.0)
    return await load.closed_rate(one, concurrency=CAPACITY_IN_FLIGHT, seconds=CAPACITY_S)
