"""One real cluster for all clients, which none of them may hurt."""

from __future__ import annotations

import pytest
from clusters import built_models, cluster

from capamesh.cli.local_cluster import LocalCluster

__all__ = ["address", "built_models", "cluster"]


@pytest.fixture
def address(cluster: LocalCluster) -> str:
    """Return the router's host and port, where all wires are."""
    return cluster.http_url.removeprefix("http://")
