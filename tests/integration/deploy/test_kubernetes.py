"""The manifests for Kubernetes, rendered by kustomize: they are valid by its schemas, and they say what the README tells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"
TOOLS = ROOT / "build" / "kubernetes-venv"
VALIDATOR = "kubernetes-validate==1.37.0"
OLDEST, NEWEST = "1.29", "1.37"
KUSTOMIZE = shutil.which("kustomize")
KUBECTL = shutil.which("kubectl")
LIMIT_S = 300
OVERLAYS = ("cpu", "gpu", "own-models")
MEMBERS = ("router", "node")

Manifest: TypeAlias = dict[str, Any]

pytestmark = pytest.mark.skipif(
    not (KUSTOMIZE or KUBECTL), reason="neither kustomize nor kubectl is installed"
)


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, input=given, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )


def rendered(folder: Path) -> str:
    tool = [KUSTOMIZE, "build"] if KUSTOMIZE else [str(KUBECTL), "kustomize"]
    done = run(*map(str, tool), str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="session")
def python() -> str:
    """Return a Python that has the validator, with all of the schemas and YAML; skips where it cannot be installed."""
    python = str(TOOLS / "bin" / "python")
    if run_or_none(python, "-c", "import kubernetes_validate") is None:
        run(sys.executable, "-m", "venv", "--clear", str(TOOLS))
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        done = run(python, *pip, VALIDATOR)
        if done.returncode != 0:
            pytest.skip(f"{VALIDATOR} cannot be installed: {done.stderr[-200:]}")
    return python


def run_or_none(*arguments: str) -> str | None:
    try:
        done = run(*arguments)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what each overlay renders to, and the one of the README with models of one's own."""
    own = tmp_path_factory.mktemp("kubernetes") / "my-cluster"
    shutil.copytree(FOLDER, own.parent / "kubernetes")
    own.mkdir()
    (own / "kustomization.yaml").write_text(
        "resources: [../kubernetes/overlays/cpu]\ncomponents: [../kubernetes/components/own-models]\n"
    )
    folders = {name: FOLDER / "overlays" / name for name in ("cpu", "gpu")} | {"own-models": own}
    return {name: rendered(folder) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def manifests(python: str, texts: dict[str, str]) -> dict[str, list[Manifest]]:
    """Return the manifests of each overlay."""
    program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"
    return {
        name: json.loads(run(python, "-c", program, given=text).stdout)
        for name, text in texts.items()
    }


def pick(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (
        each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def pod(manifests: list[Manifest], member: str) -> Manifest:
    spec: Manifest = pick(manifests, "StatefulSet", member)["spec"]["template"]["spec"]
    return spec


def container(manifests: list[Manifest], member: str) -> Manifest:
    (found,) = pod(manifests, member)["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_valid_by_the_schemas_of_kubernetes(
    python: str, texts: dict[str, str], tmp_path: Path, overlay: str, version: str
) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(texts[overlay])
    done = run(python, "-m", "kubernetes_validate", "--strict", "-k", version, str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text(texts[overlay].replace("readinessProbe:", "readynessProbe:"))
    assert run(python, "-m", "kubernetes_validate", "--strict", "-k", version, str(file)).returncode


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_what_restricted_pod_security_asks_for(
    manifests: dict[str, list[Manifest]], overlay: str
) -> None:
    labels = pick(manifests[overlay], "Namespace", "capamesh")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for member in MEMBERS:
        spec = pod(manifests[overlay], member)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for each in (*spec["containers"], *spec.get("initContainers", ())):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert each["resources"]["limits"].keys() >= {"cpu", "memory"}


def test_tokens_and_keys_are_for_the_members_group_and_user(
    manifests: dict[str, list[Manifest]],
) -> None:
    for member in MEMBERS:
        spec = pod(manifests["cpu"], member)
        user = spec["securityContext"]["runAsUser"]
        assert f"ARG UID={user}\n" in (ROOT / "Dockerfile").read_text()
        assert spec["securityContext"]["fsGroup"] == user
        assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        (token,) = (each["secret"] for each in spec["volumes"] if each["name"] == "token")
        assert token == {"secretName": f"{member}-token", "defaultMode": 0o400}


@pytest.mark.parametrize("member", MEMBERS)
def test_pod_sets_only_variables_that_the_command_has(
    manifests: dict[str, list[Manifest]], variables: dict[str, dict[str, object]], member: str
) -> None:
    names = {each["name"] for each in container(manifests["cpu"], member)["env"]}
    assert names >= {"CAPAMESH_DATA", "CAPAMESH_TOKEN_FILE", "CAPAMESH_ADVERTISE"}
    assert names - variables[member].keys() == set()


@pytest.mark.parametrize("member", MEMBERS)
def test_pod_has_more_time_to_stop_than_its_member_takes(
    manifests: dict[str, list[Manifest]], variables: dict[str, dict[str, object]], member: str
) -> None:
    drain_s = float(str(variables[member]["CAPAMESH_DRAIN"]))
    before = container(manifests["cpu"], member).get("lifecycle", {}).get("preStop")
    before_s = float(before["exec"]["command"][1]) if before else 0
    assert pod(manifests["cpu"], member)["terminationGracePeriodSeconds"] > drain_s + before_s


@pytest.mark.parametrize(("status", "is_left_alive"), [(0, True), (1, False), (3, True), (4, True)])
def test_node_is_killed_only_where_its_status_says_that_it_does_not_run(
    manifests: dict[str, list[Manifest]], tmp_path: Path, status: int, *, is_left_alive: bool
) -> None:
    command = tmp_path / "capamesh"
    command.write_text(f'#!/bin/sh\n[ "$*" = "node status" ] || exit 99\nexit {status}\n')
    command.chmod(0o755)
    probes = container(manifests["cpu"], "node")
    found = {
        name: subprocess.run(
            probes[name]["exec"]["command"],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            check=False,
            timeout=LIMIT_S,
        ).returncode
        for name in ("livenessProbe", "readinessProbe")
    }
    assert (found["livenessProbe"] == 0) is is_left_alive
    assert found["readinessProbe"] == status


def test_sample_models_are_copied_for_nodes_that_have_no_others(
    manifests: dict[str, list[Manifest]], tmp_path: Path
) -> None:
    (copier,) = pod(manifests["cpu"], "node")["initContainers"]
    shell, options, program = copier["command"]
    program = program.replace("/models/\n", f"{tmp_path}/\n")
    assert str(tmp_path) in program
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [shell, options, program], env={"PATH": path}, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 0
    assert (tmp_path / "digits" / "1" / "model.onnx").is_file()
    own = pod(manifests["own-models"], "node")
    assert own.get("initContainers", []) == []
    (models,) = (each for each in own["volumes"] if each["name"] == "models")
    assert models == {
        "name": "models",
        "persistentVolumeClaim": {"claimName": "models", "readOnly": True},
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_lead_to_ports_that_pods_have(
    manifests: dict[str, list[Manifest]], overlay: str
) -> None:
    services = [each for each in manifests[overlay] if each["kind"] == "Service"]
    assert {each["metadata"]["name"] for each in services} == {"router", "mesh", "node"}
    for service in services:
        member = service["spec"]["selector"]["app.kubernetes.io/name"]
        template = pick(manifests[overlay], "StatefulSet", member)["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ports = {each["name"] for each in container(manifests[overlay], member)["ports"]}
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports
    for member in MEMBERS:
        name = pick(manifests[overlay], "StatefulSet", member)["spec"]["serviceName"]
        headless = pick(manifests[overlay], "Service", name)["spec"]
        assert (headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("None", True)


def test_gpu_overlay_gives_the_node_alone_a_gpu_and_the_image_for_it(
    manifests: dict[str, list[Manifest]],
) -> None:
    node = container(manifests["gpu"], "node")
    assert node["image"].startswith("capamesh-node-cuda:")
    assert node["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "AS node-cuda\n" in (ROOT / "Dockerfile").read_text()
    others = [
        container(manifests["gpu"], "router"),
        *pod(manifests["gpu"], "node")["initContainers"],
    ]
    assert not any("nvidia.com/gpu" in each["resources"]["limits"] for each in others)
    assert container(manifests["cpu"], "node")["image"].startswith("capamesh-node:")
