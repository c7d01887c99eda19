"""Clusters to be hurt under load: a router, and nodes that each test adds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import engine_models
import pytest
from clusters import MODEL, Cluster

CHAOS = Path(__file__).parent
TURNS = 250
"""1 ms of work."""


@pytest.fixture
def make_chaos(tmp_path: Path) -> Callable[..., Cluster]:
    """Return a maker of clusters without nodes, to be entered with `async with`."""
    engine_models.save(engine_models.turning(TURNS), tmp_path / "models", MODEL)
    return lambda **options: Cluster(tmp_path / "cluster", tmp_path / "models", **options)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all that is in this folder, before marks decide what is run."""
    for item in items:
        if CHAOS in item.path.parents:
            item.add_marker(pytest.mark.chaos)
