"""A router with two workers that is told to ask for keys as it runs, by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from polling import until
from router_workers import until_all_know

from capamesh.cli.__main__ import run
from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient
from capamesh.protocol.errors import Unauthenticated

PATIENCE_S = 120.0
"""Far more than the two seconds that are promised, for machines with much else to do."""
CONNECTIONS = 16
"""So many fresh connections come to both workers."""
IMAGE = [[0.0] * 64]


async def infer(url: str, key: str | None) -> str:
    """Return what an inference on a connection of its own comes to."""
    async with AsyncClient(url, key=key) as client:
        try:
            await client.infer("digits", {"X": IMAGE})
        except Unauthenticated:
            return "refused"
        return "answered"


async def wait_until(expected: str, url: str, key: str | None) -> None:
    """Return once all workers do the same."""

    async def is_so() -> bool:
        return {await infer(url, key) for _ in range(CONNECTIONS)} == {expected}

    await until(is_so, limit_s=PATIENCE_S)


async def test_keys_are_made_and_revoked_as_the_router_runs(
    built_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def keys(*words: str) -> Any:
        capsys.readouterr()
        assert run(["keys", *words, "--data", str(folder)]) == 0
        return capsys.readouterr().out

    cluster = LocalCluster(tmp_path / "cluster", built_models, 1, router_options=("--workers", "2"))
    async with cluster:
        folder, url = cluster.router.data_folder, cluster.http_url
        await until_all_know(cluster, "digits")
        assert await infer(url, None) == "answered"

        made = json.loads(keys("create", "lab", "--model", "digits", "--json"))
        await wait_until("refused", url, None)
        await wait_until("answered", url, made["key"])
        await cluster.wait_routable(1, {"digits"})  # who started it has the operator's key

        keys("revoke", made["id"])
        await wait_until("refused", url, made["key"])
        log = cluster.router.log_file.read_text()
        assert made["key"] not in log
        assert made["key"][12:] not in log
