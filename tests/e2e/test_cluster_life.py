"""What befalls the members of a network in its life: processes that die, nodes that come, are shut out and drained, and the end."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from chaos import send_signal, sidecar_pid, worker_pids
from clusters import Cluster, is_alive, metrics_at, nodes_at, peer_of, until_state, until_status
from commands import command
from direct_answers import digits_requests
from engine_link import replaced
from http_load import DIGITS, Load, Request, digits_body, failures
from patience import until

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient
from capamesh.protocol.errors import LocalError
from capamesh.protocol.network import RevocationList

LIMIT_S = 120.0


def all_pids(status: dict[str, Any]) -> list[int]:
    return [status["pid"], status["sidecar_pid"], *status.get("worker_pids", [])]


@pytest.mark.smoke
async def test_network_loses_processes_and_nodes_gains_one_and_ends_without_a_failed_request(
    make_cluster: Callable[..., Cluster], built_models: Path
) -> None:
    async with make_cluster(2) as cluster:
        await cluster.wait_routable(2)
        first, second = cluster.nodes
        pids = [pid for member in cluster.members for pid in all_pids(member.status())]
        assert len(pids) == 2 + 2 * 3

        # sidecars are not needed for requests, and each is replaced
        before = [sidecar_pid(member) for member in cluster.members]
        load = Load(cluster.http_url)

        def killing(pid: int) -> Callable[[], Any]:
            return lambda: asyncio.to_thread(send_signal, [pid], signal.SIGKILL)

        asked = digits_requests(built_models, 600)
        hurt = {100 * at: killing(pid) for at, pid in enumerate(before, 1)}
        assert failures(await load.run(asked, concurrency=8, at=hurt)) == []
        for member, pid in zip(cluster.members, before, strict=True):
            await until_status(
                member,
                lambda it, pid=pid: it["sidecar_pid"] not in {pid, None} and it["mesh_addresses"],
            )

        # a worker is replaced, too
        (worker,) = worker_pids(first)
        os.kill(worker, signal.SIGKILL)
        await replaced(first, worker)
        await cluster.wait_routable(2)

        # a node that is killed is missed by nobody; its children end when they notice
        children = all_pids(first.status())[1:]
        first.signal(signal.SIGKILL)
        assert await first.wait() == -signal.SIGKILL
        assert failures(await load.run(repeat(DIGITS, 50), concurrency=4)) == []
        with pytest.raises(LocalError, match=r"node-1 \(pid \d+\) ended with signal 9"):
            await cluster.wait_routable(2)
        await until(lambda: not any(map(is_alive, children)))

        # one that joins now is heard through the new sidecars
        added = await cluster.add_node()
        assert added.name == "node-3"
        await cluster.wait_routable(2)
        pids += all_pids(added.status())

        # one that is revoked is shut out at once and stays out; the others hear of it by gossip and keep it
        owner = cluster._owner()
        revocations = owner.revoke(
            RevocationList.empty(owner.network_id),
            peers=[peer_of(second)],
            now=dt.datetime.now(dt.UTC),
        )
        assert await cluster.tell(revocations) == {"version": 1, "is_kept": True}
        url = f"{cluster.http_url}/v1/revocations"
        async with aiohttp.ClientSession() as session:
            reply = await session.post(url, data=revocations.encode()[:-1])
            assert reply.status == 400
        shots = await load.run(digits_requests(built_models, 200), concurrency=8)
        assert (failures(shots), {shot.node for shot in shots}) == ([], {peer_of(added)})
        await until((added.data_folder / "revocations.bin").exists)
        await second.stop(40)
        assert peer_of(second) not in await nodes_at(cluster.http_url)

        # a request that is still being sent when the router stops is answered
        reader, writer = await asyncio.open_connection(*cluster.address)
        body = digits_body()
        head = f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:100])
        await writer.drain()

        async def is_open() -> bool:
            return (await metrics_at(cluster.http_url))["capamesh_open_requests"] == 2

        await until(is_open)
        cluster.router.signal(signal.SIGTERM)
        await until(lambda: cluster.router.status()["state"] == "draining")
        writer.write(body[100:])
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answer
        writer.close()
        assert await asyncio.wait_for(cluster.router.wait(), LIMIT_S) == 0
    assert [node.is_running for node in cluster.nodes] == [False, False, False]
    assert await added.wait() == 0
    assert added.status()["state"] == "stopped"
    await until(lambda: not any(map(is_alive, pids)))


async def test_owner_drains_a_node_that_nobody_can_dial_and_enables_it_again(
    make_cluster: Callable[..., Cluster], built_models: Path
) -> None:
    async with make_cluster(1) as cluster:
        node = await cluster.add("--dial-only")
        await cluster.wait_routable(2)
        drained, other = peer_of(node), peer_of(cluster.nodes[0])
        assert node.status()["data_addresses"] == []

        async def has_one_link() -> bool:
            links = (await nodes_at(cluster.http_url))[drained]["links"]
            return [link["address"].partition("in-")[0] for link in links] == ["dialled-"]

        # it may have dialled twice, and the router notices later which has ended
        await until(has_one_link)
        where = ("--dir", str(cluster.folder / "network"), "--router", cluster.http_url)
        answers: list[dict[str, Any]] = []
        are_given = asyncio.Event()

        async def order(word: str) -> None:
            status, out, err = await command("node", word, drained[-8:], *where, "--json")
            assert status == 0, err
            answers.append(json.loads(out))

        async def drain_and_enable() -> None:
            await order("drain")
            await order("enable")
            are_given.set()

        def asked() -> Iterator[Request]:
            while not are_given.is_set():
                yield from digits_requests(built_models, 50)

        load = Load(cluster.http_url)
        shots = await load.run(asked(), concurrency=8, at={50: drain_and_enable})
        assert failures(shots) == []
        assert [(each["version"], list(each["drained"])) for each in answers] == [
            (1, [drained]),
            (2, []),
        ]
        assert all(answer["is_kept_by_router"] for answer in answers)

        await order("drain")
        shots = await load.run(repeat(DIGITS, 100), concurrency=8)
        assert (failures(shots), {shot.node for shot in shots}) == ([], {other})
        # the node hears of it by gossip, keeps it, and says so
        await until_state(node, "draining")
        assert (node.data_folder / "drains.bin").exists()
        status, out, _ = await command("node", "status", "--data", str(node.data_folder))
        assert (status, "by the network's owner, until 20" in out) == (4, True)
        _, out, _ = await command("nodes", "--router", cluster.http_url)
        assert "drained until 20" in out
        status, _, err = await command("node", "drain", "nobody", *where)
        assert (status, "no node is named 'nobody'" in err) == (1, True)
        await order("enable")
        status, out, _ = await command("node", "enable", drained, *where)
        assert (status, "is not drained; nothing was changed" in out) == (0, True)

        async def is_back() -> bool:
            shots = await load.run(repeat(DIGITS, 50), concurrency=8)
            assert failures(shots) == []
            return {shot.node for shot in shots} == {drained, other}

        await until(is_back)  # it says that it drains until it has heard of this, too

        # a model whose nodes were all killed is not shown as ready, though their adverts last for 30 s more
        for each in cluster.nodes:
            each.signal(signal.SIGKILL)
            await each.wait()

        async with AsyncClient(cluster.http_url) as client:

            async def are_unavailable() -> bool:
                return {entry.state for entry in await client.models()} == {"UNAVAILABLE"}

            await until(are_unavailable)
            assert not await client.is_ready("digits")


async def test_cluster_that_cannot_start_says_why_and_leaves_nothing_behind(
    built_models: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = LocalCluster(tmp_path, built_models, nodes=1, http=f"127.0.0.1:{port}")
        with pytest.raises(LocalError, match=f"cannot listen for HTTP on 127.0.0.1:{port}"):
            await cluster.start()
    assert [member.is_running for member in cluster.members] == [False]
