"""A node that its network's owner drains and enables again, with real processes and the command."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster_load import digits_stream
from polling import until

from capamesh.cli.local_cluster import LocalCluster


async def command(*words: str) -> tuple[int, str, str]:
    """Run `capamesh` with these words; return its exit status, and what it prints and says beside that."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "capamesh.cli",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_drained_node_loses_no_request_and_enable_brings_it_back(
    make_cluster: Callable[[int], LocalCluster], built_models: Path
) -> None:
    async with make_cluster(2) as cluster:
        await cluster.wait_routable(2)
        drained, other = (node.status()["peer_id"] for node in cluster.nodes)
        where = ("--dir", str(cluster.folder / "network"), "--router", cluster.http_url)
        cases = built_models.parent / "cases" / "digits.npz"
        answers: list[dict[str, Any]] = []
        is_drained = asyncio.Event()

        async def order(word: str) -> None:
            status, out, err = await command("node", word, drained[-8:], *where, "--json")
            assert status == 0, err
            answers.append(json.loads(out))
            if word == "drain":
                is_drained.set()

        async def enable() -> None:
            await is_drained.wait()  # requests may be answered faster than a command starts
            await order("enable")

        seen = await digits_stream(
            cluster.http_url,
            cases,
            count=600,
            concurrency=8,
            at={200: lambda: order("drain"), 400: enable},
        )
        assert (seen.answered, seen.failures, seen.wrong) == (600, [], [])
        assert [(answer["version"], list(answer["drained"])) for answer in answers] == [
            (1, [drained]),
            (2, []),
        ]
        assert all(answer["is_kept_by_router"] for answer in answers)

        await order("drain")
        seen = await digits_stream(cluster.http_url, cases, count=100, concurrency=8)
        assert (seen.answered, seen.failures, set(seen.nodes)) == (100, [], {other})
        # the node hears of it by gossip, keeps it, and says so
        await until(lambda: cluster.nodes[0].status()["state"] == "draining")
        assert (cluster.nodes[0].data_folder / "drains.bin").exists()
        status, out, _ = await command(
            "node", "status", "--data", str(cluster.nodes[0].data_folder)
        )
        assert (status, "by the network's owner, until 20" in out) == (4, True)
        _, out, _ = await command("nodes", "--router", cluster.http_url)
        assert "drained until 20" in out

        status, out, err = await command("node", "drain", "nobody", *where)
        assert status == 1
        assert "no node is named 'nobody'" in err
        await order("enable")
        status, out, _ = await command("node", "enable", drained, *where)
        assert (status, "is not drained; nothing was changed" in out) == (0, True)
        nodes = Counter[str]()

        async def is_back() -> bool:
            seen = await digits_stream(cluster.http_url, cases, count=50, concurrency=8)
            assert seen.failures == []
            nodes.update(seen.nodes)
            return drained in nodes

        await until(is_back)  # it says that it drains until it has heard of this, too
        assert set(nodes) == {drained, other}
