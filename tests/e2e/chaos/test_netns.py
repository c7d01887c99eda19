from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chaos_cluster import (
    MODEL,
    ChaosCluster,
    peer_of,
    requests,
    still_in_flight,
    until_in_rotation,
    until_out,
    until_unlinked,
)
from open_load import OpenLoad, failures

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


TURNS = 250
RATE = 100.0


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    reason = Namespace.why_not()
    if reason:
        pytest.skip(reason)
    with Namespace(1).made() as made:
        yield made


@pytest.fixture
def far_cluster(tmp_path: Path, models: Path, namespace: Namespace) -> ChaosCluster:
    """A cluster whose router's mesh can be reached from the namespace."""
    return ChaosCluster(
        tmp_path / "cluster", models, router_options=("--mesh", f"{namespace.near_address}:0")
    )


async def test_no_request_fails_while_a_node_is_partitioned_off_and_it_is_back_when_the_net_heals(
    far_cluster: ChaosCluster, namespace: Namespace
) -> None:
    async with far_cluster as cluster:
        with namespace.entered():
            await cluster.add("--host", namespace.address)
        await cluster.add("--host", namespace.near_address)
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        healed = asyncio.Event()

        async def partition() -> None:
            namespace.partition()
            await until_out(cluster.http_url, peers[0])
            await until_unlinked(cluster.http_url, peers[0])
            namespace.heal()
            await until_in_rotation(cluster.http_url, peers[0])
            healed.set()

        def stream() -> Iterator[tuple[bytes, bytes]]:
            numbered = requests(10_000, TURNS)
            while not healed.is_set():
                yield next(numbered)
            yield from requests(100, TURNS)

        load = OpenLoad(cluster.http_url, MODEL)
        shots = await load.run(stream(), rate=RATE, seed=1, at={100: partition})
        assert failures(shots) == []
        assert {shot.node for shot in shots[-100:]} == set(peers)
        assert await still_in_flight(cluster.http_url) == {}


async def test_no_request_fails_over_a_wire_that_delays_and_loses_packets(
    far_cluster: ChaosCluster, namespace: Namespace
) -> None:
    reason = namespace.shape("delay", "20ms", "5ms", "loss", "3%")
    if reason:
        pytest.skip(f"no netem here: {reason}")
    async with far_cluster as cluster:
        with namespace.entered():
            await cluster.add("--host", namespace.address)
        await cluster.add("--host", namespace.near_address)
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        shots = await OpenLoad(cluster.http_url, MODEL).run(requests(400, TURNS), rate=RATE, seed=2)
        assert failures(shots) == []
        assert await still_in_flight(cluster.http_url) == {}
