"""Real clusters for the tests of this folder: one that tests only use, and a maker of those that they hurt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from clusters import Cluster, built_models, cluster

__all__ = ["built_models", "cluster", "make_cluster"]


@pytest.fixture
def make_cluster(built_models: Path, tmp_path: Path) -> Callable[..., Cluster]:
    """Return a maker of clusters of one's own, to be entered with `async with`."""
    return lambda nodes, **options: Cluster(tmp_path / "cluster", built_models, nodes, **options)
