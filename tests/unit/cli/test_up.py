"""`capamesh up` and its kin: where its members live, how they end, and what is told from the first model that can be asked to the last."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from capamesh.cli import cluster_session, local_cluster
from capamesh.cli.example_requests import Example
from capamesh.cli.home import SETTINGS_FILE, Settings, default_home, hold, keep, recall
from capamesh.cli.local_cluster import LocalCluster, is_routable
from capamesh.cli.member import LOG_FILE, Member
from capamesh.client import Tensor
from capamesh.node.models.registry import OUTDATED
from capamesh.protocol.errors import ConfigError, LocalError, Unauthenticated

URL = "http://127.0.0.1:8000"


def node(**states: str) -> dict[str, Any]:
    models = [{"name": name, "state": state} for name, state in states.items()]
    return {"models": models, "links": [{"is_usable": False}, {"is_usable": True}]}


EARLY, LATE = node(small="ready", large="loading"), node(small="ready", large="ready")
NEITHER = node(small="loading", large="loading")


def test_node_is_routable_with_a_usable_link_and_its_models_ready() -> None:
    for row, models, may_load, expected in (
        (EARLY, ["small"], False, True),
        (EARLY, ["small", "large"], False, False),
        (EARLY, None, False, False),
        (EARLY, None, True, True),
        (NEITHER, None, True, False),
        (LATE, None, False, True),
        (node(), None, False, False),
        ({**LATE, "links": [{"is_usable": False}]}, ["small"], False, False),
        ({**LATE, "is_draining": True}, ["small"], False, False),
    ):
        assert is_routable(row, models, may_load=may_load) is expected


class Answers:
    """A router that answers one fleet after the other, and the last one again."""

    def __init__(self, *fleets: dict[str, Any]) -> None:
        self.left = list(fleets)

    def __call__(self, url: str, *, headers: dict[str, str]) -> Answers:
        assert (url, headers) == (URL, {})
        return self

    async def __aenter__(self) -> Answers:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def nodes(self) -> list[dict[str, Any]]:
        fleet, *self.left = self.left if len(self.left) > 1 else self.left * 2
        return [fleet]


class Cluster(LocalCluster):
    """A cluster with a router at `URL` and one node, none of which are processes."""

    http_url = URL

    def __init__(self, router: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(Path("/cluster"), Path("/models"))
        self.status: dict[str, Any] = {}
        """What its node says of itself."""
        member = SimpleNamespace(
            is_running=True, data_folder=Path("/cluster/router"), status=lambda: self.status
        )
        self.nodes = [cast("Any", member)]
        self._router = cast("Any", member)
        monkeypatch.setattr(local_cluster, "AsyncClient", router)
        monkeypatch.setattr(local_cluster, "POLL_S", 0.0)
        monkeypatch.setattr(cluster_session, "AsyncOperatorClient", router)


def example(model: str, refusal: str = "") -> Example:
    return Example(model, f"--input X=@{model}.npy", Path(f"{model}.json"), (), refusal=refusal)


async def test_wait_ends_with_the_first_model_where_there_is_no_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = Answers(node(small="loading"), EARLY, EARLY, LATE)
    await Cluster(router, monkeypatch).wait_routable(1, patience_s=0.0)
    assert router.left == [EARLY, LATE]


async def test_models_that_load_are_told_of_when_they_are_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    router = Answers(EARLY, EARLY, LATE)
    cluster = Cluster(router, monkeypatch)
    asked: list[set[str]] = []

    async def write(_: LocalCluster, told: set[str]) -> list[Example]:
        asked.append(told)
        return [example("large"), example("odd", "it is odd")]

    monkeypatch.setattr(cluster_session, "_write_examples", write)
    assert await cluster_session._loading(cluster) == ["large"]
    await cluster_session._tell_of_others(cluster, {"small"})
    assert (router.left, asked) == ([LATE], [{"small"}])
    assert capsys.readouterr().out.splitlines() == [
        "",
        "Ready as well:",
        "  capamesh infer large --input X=@large.npy",
        f"  curl {URL}/v2/models/large/infer -d @large.json",
        "No example of odd: it is odd",
    ]


async def test_key_is_told_of_where_the_router_asks_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Keyed(Answers):
        is_keyed = True

        def __call__(self, url: str, *, headers: dict[str, str] | None = None) -> Answers:
            assert (url, headers) == (URL, None)
            return self

        async def models(self) -> list[Any]:
            if self.is_keyed:
                raise Unauthenticated("a key")
            return []

    router = Keyed()
    cluster = Cluster(router, monkeypatch)
    assert 'Bearer $(cat /cluster/router/operator.key)"' in await cluster_session._key_line(cluster)
    router.is_keyed = False
    assert await cluster_session._key_line(cluster) == ""


async def test_dead_node_ends_the_telling(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(Answers(EARLY), monkeypatch)
    dead = SimpleNamespace(is_running=False, exit_report=lambda: "node-1 ended")
    cluster.nodes = [cast("Any", dead)]
    monkeypatch.setattr(cluster_session, "_write_examples", pytest.fail)
    async with asyncio.timeout(60):
        await cluster_session._tell_of_others(cluster, set())
    assert capsys.readouterr().out == ""


BROKEN = {"name": "broken", "version": "1", "state": "failed", "reason": "it is cut short"}
LOOKED = {"state": "waiting", "workers": [{}], "data_addresses": ["10.0.0.1:1"]}


async def test_folder_without_a_model_that_can_be_served_ends_the_wait_with_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(Answers(node()), monkeypatch)
    cluster.models = tmp_path
    good = {**BROKEN, "state": "loading"}
    for status in (
        {},
        {**LOOKED, "state": "starting"},
        {**LOOKED, "workers": [{}, {}]},  # the second device has said nothing yet
        {**LOOKED, "models": [BROKEN, good]},
    ):
        cluster.status = status
        with pytest.raises(LocalError, match="0 of 1 nodes are routable after"):
            await cluster.wait_routable(1, timeout_s=0.01)
    cluster.status = {**LOOKED, "models": [BROKEN, BROKEN]}
    said = rf"no model of {tmp_path} can be served: broken/1: it is cut short\. Mend that, or give another folder: --models DIR"
    with pytest.raises(LocalError, match=said):
        await cluster.wait_routable(1)
    cluster.status = LOOKED
    with pytest.raises(LocalError, match=f"no model in {tmp_path}, which is empty: it takes NAME"):
        await cluster.wait_routable(1)
    for name in ("a.pt", "b.pt", "c.pt", "d.pt"):
        (tmp_path / name).touch()
    with pytest.raises(LocalError, match=r"which holds a\.pt, b\.pt, c\.pt and 1 more: it"):
        await cluster.wait_routable(1)


async def test_refused_models_are_told_of_once_each_and_a_long_start_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(Answers(EARLY), monkeypatch)
    cluster.status = {"models": [BROKEN, {**BROKEN, "name": "good", "state": "ready"}]}
    refusals = cluster_session._Refusals(cluster)
    refusals.tell()
    newer = {**BROKEN, "name": "good", "state": "ready", "reason": f"{OUTDATED}it is cut"}
    cluster.status = {"models": [BROKEN, {**BROKEN, "version": "2"}, newer]}
    refusals.tell()
    said = [f"Refused: broken/{version}: it is cut short" for version in (1, 2)]
    said.append("Refused: good/1: serves the file before, for the new one was refused: it is cut")
    assert capsys.readouterr().err.splitlines() == said
    cluster.router.name = cluster.nodes[0].name = "node-1"
    cluster.status = {"state": "starting", "reason": "large/1 loading"}
    monkeypatch.setattr(cluster_session, "QUIET_S", 0.0)
    telling = asyncio.create_task(cluster_session._tell_of_waits(cluster))
    for _ in range(2):
        await asyncio.sleep(0)
    telling.cancel()
    told = "After 0 s: node-1 starting (large/1 loading); node-1 starting (large/1 loading)"
    assert capsys.readouterr().err.splitlines() == [told]


def test_program_that_is_shown_sends_the_example() -> None:
    inputs = (Tensor.from_numpy("X", np.zeros((1, 2), np.float32)),)
    shown = Example("m", "", Path("m.json"), inputs, ('np.load("/e/m-0.npy")',), {"a": True})
    code = shown.python(URL)
    compile(code, "shown", "exec")
    assert code.startswith(
        f'import numpy as np; from capamesh.client import Client; client = Client("{URL}"); '
    )
    assert code.endswith('client.infer("m", {"X": np.load("/e/m-0.npy")}, parameters={"a": True}))')


ERROR = "capamesh: error: "


def test_process_that_said_why_it_ended_is_quoted_and_another_s_log_is_named_and_shown(
    tmp_path: Path,
) -> None:
    file = tmp_path / LOG_FILE
    before, bug = f"{ERROR}of the run before", f"{ERROR}of the run before\nTraceback: a bug"
    why = f'{{"event": "mesh_ready"}}\n{ERROR}the port is taken\n{ERROR}and another thing\n'
    for code, log, said in (
        (1, why, "exit status 1: the port is taken; and another thing"),
        (-9, before, f"signal 9; its log, {file}, ends with:\n{before}"),
        (0, before, f"exit status 0; its log, {file}, ends with:\n{before}"),
        (1, bug, f"exit status 1; its log, {file}, ends with:\n{bug}"),
    ):
        file.write_text(log)
        process: Any = SimpleNamespace(pid=7, returncode=code)
        report = Member("router", tmp_path, process, 0).exit_report()
        assert report == f"router (pid 7) ended with {said}"
    file.write_text(f"{before}\n{ERROR}the port is taken\n")
    process = SimpleNamespace(pid=7, returncode=1)
    report = Member("router", tmp_path, process, 0, len(before) + 1).exit_report()
    assert report == "router (pid 7) ended with exit status 1: the port is taken"


# where members live


def test_home_is_where_this_system_keeps_such_things(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAPAMESH_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value, folder in (  # each counts before those above it
        ("HOME", "/home/ada", "/home/ada/.local/share/capamesh"),
        ("XDG_DATA_HOME", "/x", "/x/capamesh"),
        ("CAPAMESH_HOME", "/srv/mesh", "/srv/mesh"),
    ):
        monkeypatch.setenv(name, value)
        assert default_home() == Path(folder)


def test_settings_of_the_last_start_are_recalled_and_damaged_ones_refused_by_their_file(
    tmp_path: Path,
) -> None:
    assert recall(tmp_path) == Settings()
    ports = {"router_mesh": 4001}
    node_options = {"--threads": "2"}
    settings = Settings("/m", "127.0.0.1:9000", "gpu-1", "127.0.0.1:9100", ports, node_options)
    keep(tmp_path / "own", settings)
    assert recall(tmp_path / "own") == settings
    (tmp_path / SETTINGS_FILE).write_text(json.dumps({"models": "/m", "colour": "red"}))
    assert recall(tmp_path) == Settings("/m")  # of a later version
    ports = ['{"ports": {"x": 0}}', '{"ports": {"x": 65536}}']
    for damaged in ("", "[]", *ports, '{"models": 3}'):
        (tmp_path / SETTINGS_FILE).write_text(damaged)
        with pytest.raises(ConfigError, match=f"{SETTINGS_FILE} holds no settings.*remove it"):
            recall(tmp_path)


def test_folder_of_a_network_is_one_starts_alone(tmp_path: Path) -> None:
    with hold(tmp_path / "own"):
        with pytest.raises(ConfigError, match="own runs already: stop that with Ctrl-C"):
            hold(tmp_path / "own")
        hold(tmp_path / "other").close()
    hold(tmp_path / "own").close()
