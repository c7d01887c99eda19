"""The words of all JSON that people and programs read: the same thing has the same name wherever it is said."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp

from capamesh.cli.local_cluster import LocalCluster

SNAPSHOT = Path(__file__).with_name("vocabulary.json")
"""The keys of every page. To change it on purpose: delete it, run this test, look at what git shows."""
OTHER_WORDS = {
    "candidates": "replicas",
    "gpu": "kind",
    "hosts": "replicas",
    "id": "peer_id",
    "in_flight": "requests_in_flight or node_in_flight",
    "latency_ms": "latency_us",
    "peer": "peer_id",
    "price": "price_per_million",
    "rif": "requests_in_flight",
    "rtt_ms": "rtt_us",
}
"""Words that were in use beside the one that stays."""


def keys_of(value: Any, path: str = "") -> set[str]:
    """Return the paths of all keys in a JSON value; the items of a list are one."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{path}.{key}".lstrip(".")
            found.add(here)
            found |= keys_of(inner, here)
    elif isinstance(value, list):
        for inner in value:
            found |= keys_of(inner, f"{path}[]")
    return found


def said(*arguments: str) -> Any:
    """Return what a command prints with `--json`."""
    done = subprocess.run(
        [sys.executable, "-m", "capamesh.cli", *arguments, "--json"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return json.loads(done.stdout)


async def pages(cluster: LocalCluster) -> dict[str, Any]:
    """Return all that a small cluster says of itself as JSON."""
    url = cluster.http_url
    found: dict[str, Any] = {}
    request = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]}
    headers = {"X-Capamesh-Explain": "1"}
    async with aiohttp.ClientSession(url) as session:
        for _ in range(3):
            async with session.post(
                "/v2/models/digits/infer", json=request, headers=headers
            ) as reply:
                found["POST /v2/models/digits/infer"] = await reply.json()
                found["X-Capamesh-Explanation"] = json.loads(
                    reply.headers["X-Capamesh-Explanation"]
                )
        for path in (
            "/v1/models",
            "/v1/models/digits/routing",
            "/v1/nodes",
            "/v2",
            "/v2/health/ready",
            "/v2/models/digits",
            "/v2/models/digits/config",
            "/v2/models/digits/ready",
        ):
            async with session.get(path) as reply:
                found[f"GET {path}"] = await reply.json()
        async with session.post("/v2/repository/index", json={}) as reply:
            found["POST /v2/repository/index"] = await reply.json()
    for command in ("explain digits", "models", "nodes"):
        found[f"capamesh {command} --json"] = said(*command.split(), "--router", url)
    found["status.json of a router"] = cluster.router.status()
    found["status.json of a node"] = await counted(cluster)
    return found


async def counted(cluster: LocalCluster) -> dict[str, Any]:
    """Return the node's status once its worker has told what it counted, which it does every few seconds."""
    async with asyncio.timeout(120):
        while "requests" not in (status := cluster.nodes[0].status())["models"][0]:
            await asyncio.sleep(0.05)
    return status


async def test_every_page_says_the_same_thing_by_the_same_word(
    tmp_path: Path, built_models: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(built_models / "digits", models / "digits")
    async with LocalCluster(tmp_path / "cluster", models, nodes=1) as cluster:
        await cluster.wait_routable(1)
        found = await pages(cluster)
    seen = {page: sorted(keys_of(value)) for page, value in sorted(found.items())}
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(json.dumps(seen, indent=1) + "\n")
    assert seen == json.loads(SNAPSHOT.read_text())
    used = {
        f"{page}: {path}, say {OTHER_WORDS[path.rpartition('.')[2]]}"
        for page, paths in seen.items()
        for path in paths
        if path.rpartition(".")[2] in OTHER_WORDS
        and not page.startswith(("GET /v2", "POST /v2"))
        and not path.startswith("data[].")  # OpenAI's words
    }
    assert used == set()
