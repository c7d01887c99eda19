"""`capamesh up` from the first model that can be asked to the last: what it waits for, and what it tells when."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from capamesh.cli import cluster_session, local_cluster
from capamesh.cli.example_requests import Example
from capamesh.cli.local_cluster import LocalCluster, is_routable

URL = "http://127.0.0.1:8000"


def node(**states: str) -> dict[str, Any]:
    models = [{"name": name, "state": state} for name, state in states.items()]
    return {"models": models, "links": [{"is_usable": True}]}


EARLY, LATE = node(small="ready", large="loading"), node(small="ready", large="ready")


class Router:
    """A router that answers one fleet after the other, and the last one again."""

    def __init__(self, *fleets: dict[str, Any]) -> None:
        self.left = list(fleets)

    def __call__(self, url: str, *, headers: dict[str, str]) -> Router:
        assert (url, headers) == (URL, {})
        return self

    async def __aenter__(self) -> Router:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def nodes(self) -> list[dict[str, Any]]:
        fleet, *self.left = self.left if len(self.left) > 1 else self.left * 2
        return [fleet]


class Cluster(LocalCluster):
    """A cluster with a router at `URL` and one node, none of which are processes."""

    http_url = URL

    def __init__(self, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(Path("/cluster"), Path("/models"))
        member = SimpleNamespace(is_running=True, data_folder=Path("/cluster/router"))
        self.nodes = [cast("Any", member)]
        self._router = cast("Any", member)
        monkeypatch.setattr(local_cluster, "AsyncClient", router)
        monkeypatch.setattr(local_cluster, "POLL_S", 0.0)
        monkeypatch.setattr(cluster_session, "AsyncOperatorClient", router)


def example(model: str, refusal: str = "") -> Example:
    return Example(model, f"--input X=@{model}.npy", Path(f"{model}.json"), (), refusal=refusal)


@pytest.mark.parametrize(
    ("states", "may_load", "expected"),
    [
        ({"small": "ready", "large": "loading"}, False, False),
        ({"small": "ready", "large": "loading"}, True, True),
        ({"small": "loading", "large": "loading"}, True, False),
    ],
)
def test_node_that_may_load_is_routable_with_one_model_ready(
    states: dict[str, str], may_load: bool, expected: bool
) -> None:
    assert is_routable(node(**states), None, may_load=may_load) is expected


async def test_wait_ends_with_the_first_model_where_there_is_no_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = Router(node(small="loading"), EARLY, EARLY, LATE)
    await Cluster(router, monkeypatch).wait_routable(1, patience_s=0.0)
    assert router.left == [EARLY, LATE]


async def test_models_that_load_are_told_of_when_they_are_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    router = Router(EARLY, EARLY, LATE)
    cluster = Cluster(router, monkeypatch)
    asked: list[set[str]] = []

    async def write(_: LocalCluster, told: set[str]) -> list[Example]:
        asked.append(told)
        return [example("large"), example("odd", "it is odd")]

    monkeypatch.setattr(cluster_session, "_write_examples", write)
    assert await cluster_session._loading(cluster) == ["large"]
    await cluster_session._tell_of_others(cluster, {"small"})
    assert router.left == [LATE]
    assert asked == [{"small"}]
    assert capsys.readouterr().out.splitlines() == [
        "",
        "Ready as well:",
        "  capamesh infer large --input X=@large.npy",
        f"  curl {URL}/v2/models/large/infer -d @large.json",
        "No example of odd: it is odd",
    ]


async def test_dead_node_ends_the_telling(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(Router(EARLY), monkeypatch)
    dead = SimpleNamespace(is_running=False, exit_report=lambda: "node-1 ended")
    cluster.nodes = [cast("Any", dead)]
    monkeypatch.setattr(cluster_session, "_write_examples", pytest.fail)
    async with asyncio.timeout(60):
        await cluster_session._tell_of_others(cluster, set())
    assert capsys.readouterr().out == ""
