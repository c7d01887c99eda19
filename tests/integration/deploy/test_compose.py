"""The compose files, as compose itself reads them; `scripts/compose_test.py` runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKER = shutil.which("docker")
NODES = ("node-1", "node-2", "node-3", "more-nodes")


def composed(*files: str) -> dict[str, dict[str, Any]]:
    """Return the services that compose makes of some files."""
    named = [word for file in files for word in ("-f", file)]
    done = subprocess.run(
        [str(DOCKER), "compose", *named, "config", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    services: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return services


def has_compose() -> bool:
    if DOCKER is None:
        return False
    done = subprocess.run(
        [DOCKER, "compose", "version"], capture_output=True, check=False, timeout=60
    )
    return done.returncode == 0


pytestmark = pytest.mark.skipif(not has_compose(), reason="there is no docker with compose")


def test_members_have_only_variables_that_the_command_has(
    variables: dict[str, dict[str, object]],
) -> None:
    services = composed("docker-compose.yml", "deploy/compose/gpu.yml")
    for name in ("router", *NODES):
        given = {each for each in services[name]["environment"] if each.startswith("CAPAMESH_")}
        assert "CAPAMESH_TOKEN_FILE" in given
        assert given - variables["router" if name == "router" else "node"].keys() == set()


def test_more_nodes_are_none_at_first_and_each_has_a_volume_of_its_own() -> None:
    services = composed("docker-compose.yml")
    more, other = services["more-nodes"], services["node-2"]
    assert more["scale"] == 0
    (data,) = (volume for volume in more["volumes"] if volume["target"] == "/data")
    assert "source" not in data
    differing = {key for key in more.keys() | other.keys() if more.get(key) != other.get(key)}
    assert differing == {"scale", "volumes"}


def test_file_for_gpus_gives_them_to_the_first_node_alone() -> None:
    plain = composed("docker-compose.yml")
    services = composed("docker-compose.yml", "deploy/compose/gpu.yml")
    (device,) = services["node-1"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert services["node-1"]["image"] == "capamesh-node-cuda:latest"
    assert services["node-1"]["build"]["target"] == "node-cuda"
    assert services["node-2"]["build"] == plain["node-1"]["build"]
    assert all("deploy" not in services[name] for name in NODES[1:])


def test_file_for_postgresql_has_the_router_keep_its_keys_there(
    variables: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("docker-compose.yml", "deploy/compose/postgres.yml")
    with pytest.raises(AssertionError, match="choose a password"):
        composed(*files)
    monkeypatch.setenv("CAPAMESH_KEYS_PASSWORD", "hunter2")
    services = composed(*files)
    given, database = services["router"]["environment"], services["postgres"]
    assert given["CAPAMESH_KEYS"] == "postgresql://capamesh@postgres/keys"
    assert given["PGPASSWORD"] == database["environment"]["POSTGRES_PASSWORD"] == "hunter2"
    assert {name for name in given if name.startswith("CAPAMESH_")} <= variables["router"].keys()
    assert services["router"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert (database["read_only"], database["cap_drop"]) == (True, ["ALL"])
    assert "ports" not in database
