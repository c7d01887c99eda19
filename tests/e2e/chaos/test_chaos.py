"""No request fails, whatever befalls a node, its wire, its mesh or its clock, and the fleet is whole again afterwards."""

from __future__ import annotations

import asyncio
import ctypes
import os
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
    is_in_rotation,
    metrics_at,
    peer_of,
    requests,
    still_in_flight,
    until_in_rotation,
    until_linked,
    until_node,
)
from evil_nodes import gray_node
from http_load import Load, Request, failures, share_asked
from patience import until

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
        await until_node(cluster.http_url, peer, lambda node: not is_in_rotation(node))
        await until_linked(cluster.http_url, peer, is_up=False)
    await until_in_rotation(cluster.http_url, peer)


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
    proxy.cut()
    await asyncio.sleep(2)
    proxy.cut(is_cut=False)


async def accepted_in_silence(cluster: Cluster, node: Member, proxy: Proxy) -> None:
    before, peer = proxy.accepted, peer_of(node)
    proxy.hold()
    await until_node(cluster.http_url, peer, lambda node: not is_in_rotation(node))
    await until_linked(cluster.http_url, peer, is_up=False)
    await until(lambda: proxy.accepted > before)  # it is dialled again, and accepts
    proxy.hold(is_held=False)
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

CLONE_NEWNET = 0x40000000
"""Linux' sched.h."""
NETWORK = f"chaos{os.getpid() % 100000}"
"""A network namespace, and the near end of its one wire, a veth pair, to this one."""
NEAR, FAR = "10.213.1.1", "10.213.1.2"
INSIDE = f"ip -n {NETWORK}"


def shell(*commands: str) -> str:
    """Run commands until one fails; return what that said."""
    script = " && ".join(commands)
    done = subprocess.run(script, shell=True, capture_output=True, check=False, timeout=20)  # noqa: S602 - our own commands
    return done.stderr.decode().strip() if done.returncode else ""


@pytest.fixture
def namespace() -> Iterator[None]:
    """Make the namespace, where that can be; remove it in the end."""
    if reason := shell(f"ip netns add {NETWORK}"):
        pytest.skip(f"no network namespaces here: {reason}")
    try:
        failed = shell(
            f"ip link add {NETWORK} type veth peer name {NETWORK}i",
            f"ip link set {NETWORK}i netns {NETWORK}",
            f"ip address add {NEAR}/24 dev {NETWORK}",
            f"ip link set {NETWORK} up",
            f"{INSIDE} address add {FAR}/24 dev {NETWORK}i",
            f"{INSIDE} link set {NETWORK}i up",
            f"{INSIDE} link set lo up",
        )
        assert not failed
        yield
    finally:
        shell(f"ip link del {NETWORK}")
        shell(f"ip netns del {NETWORK}")


@contextmanager
def entered() -> Iterator[None]:
    """Have the processes that are started meanwhile live in it; this thread does too, its open sockets do not."""
    libc = ctypes.CDLL(None, use_errno=True)  # `os.setns` came with Python 3.12
    with Path("/proc/self/ns/net").open() as back, Path("/run/netns", NETWORK).open() as inside:
        assert libc.setns(inside.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()
        try:
            yield
        finally:
            assert libc.setns(back.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()


@asynccontextmanager
async def far_cluster(make_chaos: MakeChaos) -> AsyncIterator[Cluster]:
    """A cluster whose first node is in the namespace, from where the router's mesh can be reached."""
    async with make_chaos(router_options=("--mesh", f"{NEAR}:0")) as cluster:
        with entered():
            await cluster.add("--host", FAR)
        await cluster.add("--host", NEAR)
        yield cluster


@pytest.mark.usefixtures("namespace")
async def test_no_request_fails_while_a_node_is_partitioned_off_and_it_is_back_when_the_net_heals(
    make_chaos: MakeChaos,
) -> None:
    async with far_cluster(make_chaos) as cluster:
        peer = peer_of(cluster.nodes[0])

        async def partition() -> None:
            # every packet is lost, without a word to either side
            there, here = f"{INSIDE} route {{}} blackhole {NEAR}", f"ip route {{}} blackhole {FAR}"
            assert not shell(there.format("add"), here.format("add"))
            await until_node(cluster.http_url, peer, lambda node: not is_in_rotation(node))
            await until_linked(cluster.http_url, peer, is_up=False)
            assert not shell(there.format("del"), here.format("del"))
            await until_in_rotation(cluster.http_url, peer)

        await no_request_fails(cluster, partition)


@pytest.mark.usefixtures("namespace")
async def test_no_request_fails_over_a_wire_that_delays_and_loses_packets(
    make_chaos: MakeChaos,
) -> None:
    netem = "netem delay 20ms 5ms loss 3%"
    if reason := shell(f"tc qdisc replace dev {NETWORK} root {netem}"):
        pytest.skip(f"no netem here: {reason}")
    async with far_cluster(make_chaos) as cluster:
        await no_request_fails(cluster, lambda: asyncio.sleep(0))
