"""A router with several workers: what clients see of one that dies, of a replacement, of keys, logs and the operator's word."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from clusters import Cluster, is_alive, until_all_know
from http_load import DIGITS, Load, Request, digits_body, failures
from patience import until

from capamesh.cli.__main__ import run
from capamesh.router.http.server import LEAVE_S
from capamesh.router.process.workers.worker import GATHER_S

INFER = "/v2/models/digits/infer"
CLIENTS = 8
CONNECTIONS = 32
"""So many fresh connections come to both workers."""
LIMIT_S = 120.0
Made = Callable[..., Cluster]


@pytest.fixture
def make_cluster(built_models: Path, tmp_path: Path) -> Made:
    """Return a maker of clusters of a router with two workers and a node."""
    return lambda *options: Cluster(
        tmp_path / "cluster", built_models, 1, router_options=("--workers", "2", *options)
    )


@asynccontextmanager
async def load(url: str) -> AsyncIterator[Load]:
    """Let clients ask meanwhile."""
    is_over = asyncio.Event()

    def asked() -> Iterator[Request]:
        while not is_over.is_set():
            yield DIGITS

    clients = Load(url, is_explained=False)
    running = asyncio.create_task(clients.run(asked(), concurrency=CLIENTS))
    await until(lambda: len(clients.shots) > 5 * CLIENTS)
    try:
        yield clients
    finally:
        is_over.set()
        await running


async def ask(
    url: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    """Return status and body of an answer on a connection of its own, which any worker may take; (0, b""): it was lost."""
    try:
        async with (
            aiohttp.ClientSession(
                headers={name.replace("_", "-"): value for name, value in headers.items()}
            ) as session,
            session.request(method, url + path, data=body) as reply,
        ):
            return reply.status, await reply.read()
    except aiohttp.ClientConnectionError:
        return 0, b""


async def infer(url: str, **headers: str) -> tuple[int, bytes]:
    return await ask(url, INFER, "POST", digits_body(), **headers)


async def page(url: str, path: str) -> Any:
    """Return the JSON of a page."""
    status, body = await ask(url, path)
    assert status == 200, body
    return json.loads(body)


async def counted(url: str, metric: str, **labels: str) -> float:
    """Return what all workers of the router have counted."""
    while True:
        began_s = time.monotonic()
        _, text = await ask(url, "/metrics")
        if time.monotonic() - began_s < GATHER_S:
            break  # else the worker may have had no answer of the main process, and shown its own counts alone
    shown = ",".join(f'{name}="{value}"' for name, value in labels.items())
    line = f"capamesh_{metric}{{{shown}}} "
    lines = text.decode().splitlines()
    return sum(float(each.removeprefix(line)) for each in lines if each.startswith(line))


def pids(cluster: Cluster) -> list[int]:
    """Return the process ids of the workers that serve."""
    workers = cluster.router.status()["workers"]
    return [worker["pid"] for worker in workers if worker["state"] == "ready"]


@pytest.mark.smoke
async def test_killed_worker_loses_its_own_requests_only_and_no_count_goes_back(
    make_cluster: Made,
) -> None:
    async with make_cluster() as cluster:
        await until_all_know(cluster, "digits")
        url, (first, second) = cluster.http_url, pids(cluster)
        async with load(url) as clients:
            before = await counted(url, "requests_total", code="ok", model="digits")
            os.kill(first, signal.SIGKILL)
            await until(lambda: first not in pids(cluster))
            after = await counted(url, "requests_total", code="ok", model="digits")
            await until(lambda: len(pids(cluster)) == 2 and second in pids(cluster))
        assert 0 < before <= after
        # each client had one request under way, and those at the other worker lost none
        lost = [shot for shot in clients.shots if not shot.is_answered]
        assert len(lost) <= CLIENTS
        assert all(shot.error.startswith("the connection ended") for shot in lost), failures(lost)
        (row,) = [row for row in cluster.router.status()["workers"] if row["starts"] == 2]
        assert row["last_down"] == "killed by signal 9 (Killed)"


async def test_replacing_the_workers_under_load_loses_no_request_and_no_count(
    make_cluster: Made,
) -> None:
    async with make_cluster() as cluster:
        await until_all_know(cluster, "digits")
        url, old = cluster.http_url, set(pids(cluster))
        async with load(url) as clients:
            cluster.router.signal(signal.SIGUSR2)
            await until(lambda: len(set(pids(cluster)) - old) == 2)
            await until(lambda: not old & set(pids(cluster)))
        gaps_s = (b.sent_s - a.sent_s for a, b in itertools.pairwise(clients.shots))
        # a worker that leaves may hang up where nothing was asked for so long: then this process stood still
        assert failures(clients.shots) == [] or max(gaps_s) > LEAVE_S
        total = sum(shot.is_answered for shot in clients.shots)

        async def are_counted() -> bool:
            # the connections of `until_all_know` asked nothing of a model
            return await counted(url, "requests_total", code="ok", model="digits") == total

        await until(are_counted)  # who leaves tells what it has counted as it goes
        workers = pids(cluster)
        cluster.router.signal(signal.SIGKILL)
        await cluster.router.wait()
        await until(lambda: not any(map(is_alive, workers)))


async def test_what_one_worker_is_told_holds_in_all_and_in_later_ones(
    make_cluster: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    access, slow = tmp_path / "access.log", tmp_path / "slow.log"
    logs = ("--access-log", str(access), "--access-log-sample", "1", "--slow-log", str(slow))
    own = ("--slow-log-time", "0.0001", "--metrics-listen", "127.0.0.1:0")

    def lines_in(path: Path) -> list[dict[str, Any]]:
        """Return the lines of inferences that have their end; none while the file is not there."""
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1:] == "\n"]
        return [line for line in lines if line.get("model") == "digits"]

    async with make_cluster(*logs, *own) as cluster:
        await until_all_know(cluster, "digits")
        url, operators = cluster.http_url, cluster.router.status()["metrics_address"]
        assert url != operators

        # logs are written whole while their files are moved away
        for number in range(2):
            answers = await asyncio.gather(*(infer(url) for _ in range(CONNECTIONS)))
            assert {status for status, _ in answers} == {200}
            await until(lambda: len(lines_in(access)) == CONNECTIONS)
            lines = lines_in(access)
            assert {(line["code"], line["client"]) for line in lines} == {("ok", "127.0.0.1")}
            access.rename(tmp_path / f"access.log.{number}")
        await until(lambda: lines_in(slow))
        (line, *_) = lines_in(slow)
        assert line["explanation"]["chosen"] == [line["node"]]
        os.kill(cluster.router.pid, signal.SIGHUP)  # as logrotate may: nothing ends

        # operators have an address of their own, and clients theirs
        for _ in range(CONNECTIONS):
            assert (await ask(operators, "/metrics"))[1].startswith(b"# HELP ")
            assert (await ask(url, "/metrics"))[0] == (await infer(operators))[0] == 403

        # a circuit that is opened
        async def are_counted() -> bool:
            (node,) = (await page(operators, "/v1/nodes"))["nodes"]
            return sum(link["answered"] for link in node["links"]) == 2 * CONNECTIONS

        await until(are_counted)  # a worker that is busy may be late with its part of a page
        (node,) = (await page(operators, "/v1/nodes"))["nodes"]
        path = f"/v1/nodes/{node['peer_id']}/circuit"
        opened = b'{"state": "forced_open"}'
        assert (await ask(operators, path, "PUT", opened, **cluster.headers))[0] == 200

        async def chosen() -> set[str]:
            pages = (page(operators, "/v1/models/digits/routing") for _ in range(CONNECTIONS))
            return {str(each["chosen"]) for each in await asyncio.gather(*pages)}

        async def is_open_in_all() -> bool:
            return await chosen() == {"[]"}

        await until(is_open_in_all)
        old = set(pids(cluster))
        cluster.router.signal(signal.SIGUSR2)
        await until(lambda: len(pids(cluster)) == 2 and not old & set(pids(cluster)))
        assert await chosen() == {"[]"}
        closed = b'{"state": "automatic"}'
        assert (await ask(operators, path, "PUT", closed, **cluster.headers))[0] == 200

        # keys that are made and revoked
        folder = str(cluster.router.data_folder)

        def keys(*words: str) -> str:
            capsys.readouterr()
            assert run(["keys", *words, "--data", folder]) == 0
            return capsys.readouterr().out

        async def until_all_say(status: int, **headers: str) -> None:
            async def is_so() -> bool:
                return {(await infer(url, **headers))[0] for _ in range(CONNECTIONS)} == {status}

            await until(is_so)

        await until_all_say(200)
        made = json.loads(keys("create", "lab", "--model", "digits", "--json"))
        own_key = {"Authorization": f"Bearer {made['key']}"}
        await until_all_say(401)
        await until_all_say(200, **own_key)
        keys("revoke", made["id"])
        await until_all_say(401, **own_key)
        assert made["key"][12:] not in cluster.router.log_file.read_text()


async def test_request_with_a_key_is_run_once_whichever_worker_it_comes_to(
    make_cluster: Made,
) -> None:
    async with make_cluster() as cluster:
        await until_all_know(cluster, "digits")
        url, names = cluster.http_url, [f"k{at}" for at in range(20)]
        found = await asyncio.gather(*(infer(url, Idempotency_Key=name) for name in names * 6))
        assert {status for status, _ in found} == {200}
        assert len(set(found)) == 1

        async def runs() -> float:
            return await counted(url, "idempotency_keys_total", result="first")

        async def have_run_once() -> bool:
            return await runs() == len(names)

        await until(have_run_once)  # a worker that is busy may be late with its part of a page
        for name in names:
            assert (await infer(url, Idempotency_Key=name))[0] == 200
        await until(have_run_once)

        # what a worker had that is killed may have run: it is refused, and not run again
        os.kill(pids(cluster)[0], signal.SIGKILL)
        for name in names * 2:
            status, body = await infer(url, Idempotency_Key=name)
            assert status in {0, 200, 409}
            assert status != 409 or b"may have run" in body
            assert status != 200 or body == found[0][1]
        assert await runs() <= len(names)
