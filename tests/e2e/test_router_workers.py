"""A router with several workers: what clients see of one that dies, of a replacement, and of the operator's word."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from polling import until
from router_workers import until_all_know

from capamesh.cli.local_cluster import LocalCluster
from capamesh.router.access.operator_key import authorization_from
from capamesh.router.http.server import LEAVE_S
from capamesh.router.process.workers.worker import GATHER_S

TENSOR = {"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
BODY = json.dumps({"inputs": [TENSOR]}).encode()
INFER = (
    f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n"
).encode() + BODY
CLIENTS = 8
CONNECTIONS = 32
"""So many fresh connections come to both workers."""
LIMIT_S = 120.0


@pytest.fixture
def make_cluster(built_models: Path, tmp_path: Path) -> Callable[..., LocalCluster]:
    """Return a maker of clusters whose router has two workers."""
    return lambda nodes, *options: LocalCluster(
        tmp_path / "cluster", built_models, nodes, router_options=("--workers", "2", *options)
    )


class Client:
    """One client that keeps a connection, and makes another when it loses that."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._place = (host, int(port))
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.answered = 0
        self.refused: list[bytes] = []
        self.lost = 0
        self.lost_idle = 0
        """Those of the lost ones on which nothing had been asked for so long that a worker that leaves may hang up."""
        self.unreachable = 0

    async def ask(self, message: bytes) -> tuple[bytes, bytes]:
        """Return the status line and the body of an answer; raise `OSError` or `EOFError` when the connection ends."""
        if self._connection is None:
            try:
                self._connection = await asyncio.open_connection(*self._place)
            except OSError:
                self.unreachable += 1
                raise
        reader, writer = self._connection
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        (length,) = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        body = await reader.readexactly(length)
        if b"connection: close" in lines:
            self.close()
        return head.split(b"\r\n")[0], body

    async def infer_until(self, is_over: asyncio.Event) -> None:
        """Ask again and again, and once more whatever was lost."""
        now_s = time.monotonic()
        while not is_over.is_set():
            before_s, now_s = now_s, time.monotonic()
            try:
                status, _ = await self.ask(INFER)
            except (OSError, EOFError):
                self.lost += 1
                self.lost_idle += now_s - before_s > LEAVE_S  # this process stood still meanwhile
                self.close()
                continue
            if status.endswith(b"200 OK"):
                self.answered += 1
            else:
                self.refused.append(status)

    def close(self) -> None:
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None


@asynccontextmanager
async def load(url: str) -> AsyncIterator[list[Client]]:
    """Let clients ask while this is entered."""
    clients = [Client(url) for _ in range(CLIENTS)]
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(client.infer_until(is_over))
        try:
            yield clients
        finally:
            is_over.set()
    for client in clients:
        client.close()


async def once(url: str, message: bytes) -> bytes:
    """Return the body of a good answer on a connection of its own."""
    client = Client(url)
    status, found = await client.ask(message)
    client.close()
    assert status.endswith(b"200 OK"), (status, found)
    return found


async def page(url: str, path: str, method: str = "GET", key: str = "", body: bytes = b"") -> bytes:
    """Return what a page has, asked for on a connection of its own."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    return await once(url, head.encode() + body)


async def answered(url: str) -> float:
    """Return how many requests all workers of the router have counted as answered well."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            began_s = time.monotonic()
            text = (await page(url, "/metrics")).decode()
            if time.monotonic() - began_s < GATHER_S:
                break  # else the worker may have had no answer of the main process, and shown its own counts alone
    line = 'capamesh_requests_total{code="ok",model="digits"} '
    return sum(
        float(each.removeprefix(line)) for each in text.splitlines() if each.startswith(line)
    )


def pids(cluster: LocalCluster) -> list[int]:
    """Return the process ids of the workers that serve."""
    workers = cluster.router.status()["workers"]
    return [worker["pid"] for worker in workers if worker["state"] == "ready"]


@pytest.mark.smoke
async def test_killed_worker_loses_its_own_requests_only_and_no_count_goes_back(
    make_cluster: Callable[..., LocalCluster],
) -> None:
    async with make_cluster(1) as cluster:
        await until_all_know(cluster, "digits")
        first, second = pids(cluster)
        async with load(cluster.http_url) as clients:
            await until(lambda: all(client.answered > 5 for client in clients))
            before = await answered(cluster.http_url)
            os.kill(first, signal.SIGKILL)
            await until(lambda: first not in pids(cluster))
            after = await answered(cluster.http_url)
            await until(lambda: len(pids(cluster)) == 2 and second in pids(cluster))
        assert before > 0
        assert after >= before
        assert [client.refused for client in clients] == [[]] * CLIENTS
        assert [client.unreachable for client in clients] == [0] * CLIENTS
        # each had one request under way, and those at the other worker lost none
        assert all(client.lost <= 1 for client in clients)
        (row,) = [row for row in cluster.router.status()["workers"] if row["starts"] == 2]
        assert row["last_down"] == "killed by signal 9 (Killed)"


async def test_each_worker_serves_operators_at_their_own_address_alone(
    make_cluster: Callable[..., LocalCluster],
) -> None:
    async with make_cluster(1, "--metrics-listen", "127.0.0.1:0") as cluster:
        await until_all_know(cluster, "digits")
        status = cluster.router.status()
        clients, operators = status["http_address"], status["metrics_address"]
        assert clients != operators
        for _ in range(CONNECTIONS):
            assert (await page(operators, "/metrics")).startswith(b"# HELP ")
            assert await refused(clients, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await refused(operators, INFER)
        await once(clients, INFER)


async def refused(url: str, message: bytes) -> bool:
    """Return whether a request is forbidden, on a connection of its own."""
    client = Client(url)
    status, _ = await client.ask(message)
    client.close()
    return status.endswith(b"403 Forbidden")


async def test_replacing_the_workers_under_load_loses_no_request_and_no_count(
    make_cluster: Callable[..., LocalCluster],
) -> None:
    async with make_cluster(1) as cluster:
        await until_all_know(cluster, "digits")
        old = set(pids(cluster))
        async with load(cluster.http_url) as clients:
            cluster.router.signal(signal.SIGUSR2)
            await until(lambda: len(set(pids(cluster)) - old) == 2)
            await until(lambda: not old & set(pids(cluster)))
        seen = [(client.lost - client.lost_idle, client.refused) for client in clients]
        assert seen == [(0, [])] * CLIENTS
        total = sum(client.answered for client in clients)

        async def are_counted() -> bool:
            return await answered(cluster.http_url) == total

        await until(are_counted)  # who leaves tells what it has counted as it goes
        cluster.router.signal(signal.SIGTERM)
        assert await asyncio.wait_for(cluster.router.wait(), LIMIT_S) == 0


async def test_circuit_that_is_opened_through_one_worker_is_open_in_all_and_in_later_ones(
    make_cluster: Callable[..., LocalCluster],
) -> None:
    async with make_cluster(1) as cluster:
        await until_all_know(cluster, "digits")
        url = cluster.http_url
        await asyncio.gather(*(once(url, INFER) for _ in range(CLIENTS)))

        async def shown() -> int:
            """Return how many requests the page shows as answered."""
            (row,) = json.loads(await page(url, "/v1/page/snapshot"))["nodes"].values()
            return sum(counts[2] for counts in row["counts"])

        async def is_shown_by_all() -> bool:
            return {await shown() for _ in range(CONNECTIONS)} == {CLIENTS}

        await until(is_shown_by_all)

        async def node_shown() -> dict[str, Any]:
            (node,) = json.loads(await page(url, "/v1/nodes"))["nodes"]
            return dict(node)

        async def are_counted() -> bool:
            return sum(link["answered"] for link in (await node_shown())["links"]) == CLIENTS

        await until(are_counted)  # a worker that is busy may be late with its part of a page
        peer = (await node_shown())["peer_id"]
        key = authorization_from(cluster.folder / "router")
        await page(url, f"/v1/nodes/{peer}/circuit", "PUT", key, b'{"state": "forced_open"}')

        async def states() -> set[str]:
            found: list[Any] = await asyncio.gather(
                *(page(url, "/v1/models/digits/routing") for _ in range(CONNECTIONS))
            )
            return {str(json.loads(each)["chosen"]) for each in found}

        async def is_open_in_all() -> bool:
            return await states() == {"[]"}

        await until(is_open_in_all)
        old = set(pids(cluster))
        cluster.router.signal(signal.SIGUSR2)
        await until(lambda: len(pids(cluster)) == 2 and not old & set(pids(cluster)))
        assert await states() == {"[]"}


async def test_workers_end_when_the_main_process_is_killed(
    make_cluster: Callable[..., LocalCluster],
) -> None:
    async with make_cluster(1) as cluster:
        await until_all_know(cluster, "digits")
        workers = pids(cluster)
        cluster.router.signal(signal.SIGKILL)
        await cluster.router.wait()
        await until(lambda: not any(map(is_alive, workers)))


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def keyed(key: str) -> bytes:
    """Return a request with an idempotency key."""
    return INFER.replace(
        b"Host: localhost\r\n", b"Host: localhost\r\nIdempotency-Key: " + key.encode() + b"\r\n"
    )


async def status_once(url: str, message: bytes) -> tuple[bytes, bytes]:
    """Return the status line and the body of an answer on a connection of its own, which any worker may take."""
    client = Client(url)
    found = await client.ask(message)
    client.close()
    return found


async def runs(url: str) -> float:
    """Return how many requests with a new idempotency key the router's workers have begun to run."""
    text = (await page(url, "/metrics")).decode()
    line = 'capamesh_idempotency_keys_total{result="first"} '
    return sum(
        float(each.removeprefix(line)) for each in text.splitlines() if each.startswith(line)
    )


async def test_request_with_a_key_is_run_once_whichever_worker_it_comes_to(
    make_cluster: Callable[..., LocalCluster],
) -> None:
    async with make_cluster(1) as cluster:
        await until_all_know(cluster, "digits")
        url = cluster.http_url
        keys = [f"k{at}" for at in range(20)]
        asked = [once(url, keyed(key)) for key in keys * 6]
        found = await asyncio.gather(*asked)
        assert len(set(found)) == 1

        async def have_run_once() -> bool:
            return await runs(url) == len(keys)

        await until(have_run_once)  # a worker that is busy may be late with its part of a page
        for key in keys:
            await once(url, keyed(key))
        await until(have_run_once)

        # what a worker had that is killed may have run: it is refused, and not run again
        (first, *_) = cluster.router.status()["workers"]
        os.kill(first["pid"], signal.SIGKILL)
        for key in keys * 2:
            with suppress(OSError, EOFError):
                status, body = await status_once(url, keyed(key))
                if status == b"HTTP/1.1 409 Conflict":
                    assert b"may have run" in body
                else:
                    assert (status, body) == (b"HTTP/1.1 200 OK", found[0])
        assert await runs(url) <= len(keys)
