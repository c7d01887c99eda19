"""Clusters to be hurt: a router, and nodes that each test adds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import engine_models
import pytest
from chaos_cluster import MODEL, ChaosCluster, turning

CHAOS = Path(__file__).parent
TURNS = 250
"""1 ms of work."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    engine_models.save(turning(TURNS), folder, MODEL)
    return folder


@pytest.fixture
def make_chaos(tmp_path: Path, models: Path) -> Callable[[], ChaosCluster]:
    """Return a maker of clusters without nodes, to be entered with `async with`."""
    return lambda: ChaosCluster(tmp_path / "cluster", models)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all that is in this folder, before marks decide what is run."""
    for item in items:
        if CHAOS in item.path.parents:
            item.add_marker(pytest.mark.chaos)
