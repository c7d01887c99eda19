"""Fixtures of a real cluster that tests only use; a folder's conftest.py imports them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from capamesh.cli.local_cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def built_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with digits, breast_cancer and magika; `cases` lies beside it."""
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
