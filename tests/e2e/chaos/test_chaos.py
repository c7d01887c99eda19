"""No request fails, whatever befalls a node, its wire, its mesh or its clock, and the fleet is whole again afterwards."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

import pytest
from chaos import (
    Proxy,
    WallClock,
    crowded,
    frozen,
    own_pids,
    send_signal,
    sidecar_pid,
    slowed,
    why_no_clock,
)
from clusters import (
    MODEL,
    Cluster,
    metrics_at,
    peer_of,
    requests,
    still_in_flight,
    until_in_rotation,
    until_linked,
    until_out,
)
from evil_nodes import gray_node
from http_load import Load, Request, failures, share_asked
from polling import until

from capamesh.cli.member import Member

TURNS = 250
RATE = 100.0
BEFORE = 100
"""Requests before it happens."""
AFTER = 400
"""The requests after it is over, enough that each node has some though one measures a little slower for a while."""
FAIR = 1 / 3
JUMPS_S = (300.0, -300.0, 0.0)
"""Less than the ten minutes by which members' clocks may differ."""
MakeChaos = Callable[..., Cluster]
Fault = Callable[[Cluster], Awaitable[None]]


async def no_request_fails(
    cluster: Cluster, hurt: Callable[[], Awaitable[None]], *urls: str
) -> None:
    """Ask while it happens and afterwards: none may fail, all nodes there at the end have requests then, and nothing is left."""
    url = cluster.http_url
    await until_in_rotation(url, *map(peer_of, cluster.nodes))
    is_over = asyncio.Event()

    async def befall() -> None:
        await hurt()
        is_over.set()

    def stream() -> Iterator[Request]:
        numbered = requests(10_000, TURNS)
        while not is_over.is_set():
            yield next(numbered)
        yield from requests(AFTER, TURNS)

    load = Load([url, *urls], MODEL)
    shots = await load.run(stream(), rate=RATE, at={BEFORE: befall})
    assert failures(shots) == []
    peers = [peer_of(node) for node in cluster.nodes if node.is_running]
    assert {shot.node for shot in shots[-AFTER:]} == set(peers)
    await until_in_rotation(url, *peers)
    for each in (url, *urls):
        assert await still_in_flight(each) == {}


# processes


async def frozen_node(cluster: Cluster) -> None:
    peer = peer_of(cluster.nodes[0])
    with frozen(own_pids(cluster.nodes[0])):
        await until_out(cluster.http_url, peer)
        await until_linked(cluster.http_url, peer, is_up=False)
    await until_in_rotation(cluster.http_url, peer)


async def frozen_worker(cluster: Cluster) -> None:
    with frozen(own_pids(cluster.nodes[0])[1:]):
        await asyncio.sleep(2)


async def frozen_router(cluster: Cluster) -> None:
    with frozen([cluster.router.pid]):
        await asyncio.sleep(3)


async def killed_node(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    peer = peer_of(node)
    node.signal(signal.SIGKILL)
    await node.wait()
    await asyncio.sleep(2)
    await cluster.start_again(node)
    await until_in_rotation(cluster.http_url, peer)


async def all_nodes_anew(cluster: Cluster) -> None:
    for node in list(cluster.nodes):
        peer = peer_of(node)
        node.signal(signal.SIGTERM)
        assert await asyncio.wait_for(node.wait(), 30) == 0
        await cluster.start_again(node)
        await until_in_rotation(cluster.http_url, peer)


async def frozen_and_killed_sidecars(cluster: Cluster) -> None:
    members = cluster.members
    with frozen([sidecar_pid(member) for member in members]):
        await asyncio.sleep(1)
    for member in members:
        before = sidecar_pid(member)
        send_signal([before], signal.SIGKILL)
        await until(lambda: member.status()["sidecar_pid"] not in {before, None})  # noqa: B023 - waited for here
    # a node that joins now is heard through the new processes
    await until_in_rotation(cluster.http_url, peer_of(await cluster.add()))


@pytest.mark.parametrize(
    ("fault", "nodes"),
    [
        (frozen_node, 3),
        (frozen_worker, 2),
        (frozen_router, 2),
        (killed_node, 3),
        (all_nodes_anew, 3),
        (frozen_and_killed_sidecars, 2),
    ],
)
async def test_no_request_fails_whichever_process_is_hurt(
    make_chaos: MakeChaos, fault: Fault, nodes: int
) -> None:
    async with make_chaos() as cluster:
        for _ in range(nodes):
            await cluster.add()
        await no_request_fails(cluster, lambda: fault(cluster))


# routers


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_one_of_two_routers_may_be_started_anew_or_killed_where_the_other_is_asked_in_its_place(
    make_chaos: MakeChaos, end: signal.Signals
) -> None:
    async with make_chaos() as cluster:
        for _ in range(2):
            await cluster.add()
        router = await cluster.add_router()
        url = str(router.status()["http_address"])
        await until_in_rotation(url, *map(peer_of, cluster.nodes))

        async def start_anew() -> None:
            router.signal(end)
            assert await asyncio.wait_for(router.wait(), 30) in {0, -signal.SIGKILL}
            await cluster.add_router(url.removeprefix("http://"))
            await until_in_rotation(url, *map(peer_of, cluster.nodes))

        await no_request_fails(cluster, start_anew, url)


# the wire


async def reset_in_the_midst_of_an_answer(cluster: Cluster, _: Member, proxy: Proxy) -> None:
    for _ in range(3):
        proxy.reset_after_bytes = 700  # within the second or third answer
        await until(lambda: proxy.reset_after_bytes is None)
        await until_in_rotation(cluster.http_url, peer_of(cluster.nodes[0]))
    assert proxy.resets == 3


async def refused(cluster: Cluster, _: Member, proxy: Proxy) -> None:
    proxy.is_cut = True
    await asyncio.sleep(2)
    proxy.is_cut = False


async def accepted_in_silence(cluster: Cluster, node: Member, proxy: Proxy) -> None:
    before, peer = proxy.accepted, peer_of(node)
    proxy.is_held = True
    await until_out(cluster.http_url, peer)
    await until_linked(cluster.http_url, peer, is_up=False)
    await until(lambda: proxy.accepted > before)  # it is dialled again, and accepts
    proxy.is_held = False
    await until_in_rotation(cluster.http_url, peer)


async def stopped_most_of_the_time(cluster: Cluster, node: Member, _: Proxy) -> None:
    with slowed(dict.fromkeys(own_pids(node), 0.3)):
        await asyncio.sleep(3)


async def on_a_crowded_core(cluster: Cluster, node: Member, _: Proxy) -> None:
    with crowded(own_pids(node), core=0, hogs=2):
        await asyncio.sleep(3)


async def far_away_and_on_a_thin_wire(cluster: Cluster, _: Member, proxy: Proxy) -> None:
    proxy.delay_s = 0.03
    await asyncio.sleep(3)
    proxy.delay_s, proxy.bytes_per_s = 0.0, 20_000.0
    await asyncio.sleep(3)
    proxy.bytes_per_s = 0.0


@pytest.mark.parametrize(
    "fault",
    [
        reset_in_the_midst_of_an_answer,
        refused,
        accepted_in_silence,
        stopped_most_of_the_time,
        on_a_crowded_core,
        far_away_and_on_a_thin_wire,
    ],
)
async def test_no_request_fails_whatever_befalls_a_node_or_its_wire(
    make_chaos: MakeChaos, fault: Callable[[Cluster, Member, Proxy], Awaitable[None]]
) -> None:
    async with make_chaos() as cluster, cluster.proxied(1) as (node, proxy):
        await cluster.add()
        await no_request_fails(cluster, lambda: fault(cluster, node, proxy))


# runs that fail


@pytest.mark.parametrize(
    ("known", "most"),
    [
        pytest.param(9, 0.75 * FAIR, id="one run in ten fails"),
        pytest.param(1, 0.25 * FAIR, id="nine runs in ten fail, in no time"),
    ],
)
async def test_node_whose_runs_fail_loses_its_share_and_no_request_fails(
    make_chaos: MakeChaos, known: int, most: float
) -> None:
    async with make_chaos() as cluster:
        for _ in range(2):
            await cluster.add()
        url = cluster.http_url
        await until_in_rotation(url, *map(peer_of, cluster.nodes))
        async with gray_node(cluster, TURNS, lambda index: index % 10 >= known) as gray:
            await until_in_rotation(url, gray)
            shots = await Load(url, MODEL).run(requests(1200, TURNS), rate=RATE)
        assert failures(shots) == []
        assert 0 < share_asked(shots[300:], gray) < most
        failed = f'capamesh_attempts_failed_total{{code="run_failed",model="{MODEL}"}}'
        assert (await metrics_at(url))[failed] > 0
        assert await still_in_flight(url) == {}


async def test_nodes_that_are_all_overloaded_are_not_ejected(make_chaos: MakeChaos) -> None:
    async with make_chaos() as cluster:
        for _ in range(2):
            await cluster.add()
        url, peers = cluster.http_url, [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(url, *peers)
        asked = requests(2000, TURNS, timeout_s=0.2)
        shots = await Load(url, MODEL).run(asked, rate=2000.0)
        assert {200} < {shot.status for shot in shots} <= {200, 503, 504}
        await until_in_rotation(url, *peers)
        assert '"node_ejected"' not in cluster.router.log_file.read_text()
        assert await still_in_flight(url) == {}


# clocks


@pytest.mark.skipif(bool(why_no_clock()), reason=why_no_clock())
@pytest.mark.parametrize("whose", ["the node's", "the router's"])
async def test_no_request_fails_when_a_wall_clock_jumps_and_adverts_are_heard_all_the_while(
    make_chaos: MakeChaos, tmp_path: Path, whose: str
) -> None:
    clock = WallClock(tmp_path, "hurt")
    cluster = make_chaos()
    try:
        with clock.applied() if whose == "the router's" else nullcontext():
            await cluster.start()
        with clock.applied() if whose == "the node's" else nullcontext():
            await cluster.add()
        await cluster.add()

        async def jump() -> None:
            for offset_s in JUMPS_S:
                clock.jump_to(offset_s)
                await asyncio.sleep(1)
            # who joins afterwards is heard by the one whose clock was set
            await until_in_rotation(cluster.http_url, peer_of(await cluster.add()))

        await no_request_fails(cluster, jump)
    finally:
        await cluster.stop()


# namespaces

COMMAND_LIMIT_S = 20
CLONE_NEWNET = 0x40000000
"""Linux' sched.h."""
IP = shutil.which("ip") or ""
TC = shutil.which("tc") or ""


class Namespace:
    """A network namespace with one wire, a veth pair, to this one."""

    def __init__(self, number: int) -> None:
        self.name = f"chaos{os.getpid() % 100000}n{number}"
        self._near = f"ch{os.getpid() % 100000}n{number}"
        self.near_address = f"10.213.{number}.1"
        self.address = f"10.213.{number}.2"

    @staticmethod
    def why_not() -> str:
        """Return why there are none here, empty when there are."""
        if not IP:
            return "there is no iproute2"
        if os.geteuid() != 0:
            return "only root makes network namespaces"
        probe = f"chaos{os.getpid() % 100000}probe"
        made = _run(IP, "netns", "add", probe)
        if made.returncode:
            return f"no network namespaces here: {made.stderr.decode().strip()}"
        _run(IP, "netns", "del", probe)
        return ""

    @contextmanager
    def made(self) -> Iterator[Namespace]:
        """Make it, remove it in the end."""
        inner = f"{self._near}i"
        try:
            _ip("netns", "add", self.name)
            _ip("link", "add", self._near, "type", "veth", "peer", "name", inner)
            _ip("link", "set", inner, "netns", self.name)
            _ip("address", "add", f"{self.near_address}/24", "dev", self._near)
            _ip("link", "set", self._near, "up")
            for words in (
                ("address", "add", f"{self.address}/24", "dev", inner),
                ("link", "set", inner, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", self.name, *words)
            yield self
        finally:
            for words in (("link", "del", self._near), ("netns", "del", self.name)):
                _run(IP, *words)

    def partition(self) -> None:
        """Lose every packet from now on, without a word to either side."""
        _ip("-n", self.name, "route", "add", "blackhole", f"{self.near_address}/32")
        _ip("route", "add", "blackhole", f"{self.address}/32")

    def heal(self) -> None:
        """Let packets through again."""
        for words in (
            ("-n", self.name, "route", "del", "blackhole", f"{self.near_address}/32"),
            ("route", "del", "blackhole", f"{self.address}/32"),
        ):
            _run(IP, *words)

    def shape(self, *netem: str) -> str:
        """Apply `tc netem` to what comes in from the namespace; return why that cannot be, empty when it is."""
        if not TC:
            return "there is no tc"
        done = _run(TC, "qdisc", "replace", "dev", self._near, "root", "netem", *netem)
        return done.stderr.decode().strip() if done.returncode else ""

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have the processes that are started meanwhile live in it; this thread does too, its open sockets do not."""
        back = os.open("/proc/self/ns/net", os.O_RDONLY)
        inside = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _enter(inside)
            yield
        finally:
            _enter(back)
            os.close(back)
            os.close(inside)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # `os.setns` came with Python 3.12
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns failed")


def _ip(*words: str) -> None:
    done = _run(IP, *words)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.decode().strip()}")


def _run(*command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=False, timeout=COMMAND_LIMIT_S)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    reason = Namespace.why_not()
    if reason:
        pytest.skip(reason)
    with Namespace(1).made() as made:
        yield made


@asynccontextmanager
async def far_cluster(make_chaos: MakeChaos, namespace: Namespace) -> AsyncIterator[Cluster]:
    """A cluster whose first node is in the namespace, from where the router's mesh can be reached."""
    near = ("--mesh", f"{namespace.near_address}:0")
    async with make_chaos(router_options=near) as cluster:
        with namespace.entered():
            await cluster.add("--host", namespace.address)
        await cluster.add("--host", namespace.near_address)
        yield cluster


async def test_no_request_fails_while_a_node_is_partitioned_off_and_it_is_back_when_the_net_heals(
    make_chaos: MakeChaos, namespace: Namespace
) -> None:
    async with far_cluster(make_chaos, namespace) as cluster:
        peer = peer_of(cluster.nodes[0])

        async def partition() -> None:
            namespace.partition()
            await until_out(cluster.http_url, peer)
            await until_linked(cluster.http_url, peer, is_up=False)
            namespace.heal()
            await until_in_rotation(cluster.http_url, peer)

        await no_request_fails(cluster, partition)


async def test_no_request_fails_over_a_wire_that_delays_and_loses_packets(
    make_chaos: MakeChaos, namespace: Namespace
) -> None:
    reason = namespace.shape("delay", "20ms", "5ms", "loss", "3%")
    if reason:
        pytest.skip(f"no netem here: {reason}")
    async with far_cluster(make_chaos, namespace) as cluster:
        await no_request_fails(cluster, lambda: asyncio.sleep(0))
