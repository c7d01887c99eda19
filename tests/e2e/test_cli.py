"""The command line against real processes: a whole cluster, and a network built by hand."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import is_alive
from commands import run, run_json, words_of

import capamesh.cli
from capamesh.client import Client
from capamesh.protocol.member_status import NOT_READY

MODELS = Path(capamesh.cli.__path__[0]) / "samples" / "models"
LIMIT_S = 120


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.fixture
def dev_up(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    started = subprocess.Popen(
        words_of(
            *("dev", "up", "--nodes", "1", "--http", "127.0.0.1:0"),
            *("--data", str(tmp_path / "dev"), "--json"),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    text = ""
    while not text.endswith("\n}\n"):
        line = started.stdout.readline()
        assert line, started.communicate()
        text += line
    yield started, json.loads(text)
    if started.poll() is None:
        started.send_signal(signal.SIGINT)
    started.communicate(timeout=LIMIT_S)


def test_dev_up_can_be_used_from_the_command_line_and_ends_at_ctrl_c(
    dev_up: tuple[subprocess.Popen[str], dict[str, Any]], tmp_path: Path
) -> None:
    process, report = dev_up
    url = report["http_url"]
    router = ("--router", url)
    samples = sorted(folder.name for folder in MODELS.iterdir())
    assert report["models"] == samples
    assert {"breast_cancer", "digits"} <= set(samples)

    (node,) = run_json("nodes", *router)["nodes"]
    assert node["peer_id"] == report["nodes"][0]["peer_id"]
    assert "usable" in run("nodes", *router).stdout
    assert "breast_cancer/1" in run("nodes", "--wide", *router).stdout

    models = run_json("models", *router)
    assert [(m["name"], m["state"]) for m in models] == [(name, "READY") for name in samples]
    assert "FP32[-1,64]" in run("models", *router).stdout

    rows = np.random.default_rng(5).uniform(0, 16, (4, 64)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    with Client(url) as client:
        expected = client.infer("digits", {"X": rows})["label"].tolist()
        scored = client.infer("digits", {"X": rows}, classes={"probabilities": 2}).classes
    value = f"X=@{tmp_path}/rows.npy"
    answer = run_json("infer", "digits", "--input", value, "-o", "label", *router)
    assert answer.pop("timings")["attempts"] == 1
    assert answer == {
        "model": "digits",
        "version": "1",
        "node": node["peer_id"],
        "id": "",
        "parameters": {},
        "cache": "",
        "outputs": [{"name": "label", "dtype": "int64", "shape": [4], "data": expected}],
    }
    given = ("infer", "digits", "-i", value, "--top", "2", *router)
    best = [row[0] for row in scored["probabilities"]]
    assert [(one.index, one.label) for one in best] == [(one, str(one)) for one in expected]
    label, probabilities = run_json(*given)["outputs"]
    assert label["data"] == expected
    assert [row[0]["label"] for row in probabilities["classes"]] == [str(one) for one in expected]
    shown = run(*given)
    assert f"probabilities  0    {expected[0]}      {best[0].score:.6g}" in shown.stdout
    assert f"by {node['name']} (…{node['peer_id'][-8:]}), version 1" in shown.stderr
    wrong = run("infer", "digits", "--input", "X=[[1,2]]", *router)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == (
        "capamesh: error: tensor 'X' has shape [1, 2], the model takes [-1, 64] (-1 is any size)\n"
    )

    for member in (report["router"], report["nodes"][0]):
        role = "router" if member["name"] == "router" else "node"
        status = run_json(role, "status", "--data", member["data_folder"])
        assert (status["is_ready"], status["pid"]) == (True, member["pid"])

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert "died" not in said
    folder = report["nodes"][0]["data_folder"]
    stopped = run("node", "status", "--data", folder)
    assert stopped.returncode == 1
    assert "no process holds its folder" in stopped.stdout
    assert not is_alive(report["router"]["pid"])


def test_cluster_whose_owner_is_killed_ends_by_itself(
    dev_up: tuple[subprocess.Popen[str], dict[str, Any]],
) -> None:
    process, report = dev_up
    pids = [report["router"]["pid"], *(node["pid"] for node in report["nodes"])]
    process.kill()
    process.wait(timeout=LIMIT_S)
    until(lambda: not any(map(is_alive, pids)))


def test_network_by_hand_admits_with_a_piped_token_and_shuts_out_at_once(
    tmp_path: Path,
) -> None:
    network = str(tmp_path / "network")
    owner = ("--dir", network)
    assert run("network", "create", "home", *owner).returncode == 0
    again = run("network", "create", "home", *owner)
    assert again.returncode == 1
    assert "already holds another network's owner" in again.stderr

    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, token: str) -> None:
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                words_of(*arguments, "--token-file", "-"),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        assert process.stdin is not None
        process.stdin.write(token.encode())
        process.stdin.close()
        processes.append(process)

    def status(role: str, folder: Path) -> dict[str, Any]:
        done = run(role, "status", "--data", str(folder), "--json")
        return json.loads(done.stdout) if done.returncode in {0, NOT_READY} else {}

    try:
        token = run("network", "token", *owner, "--role", "router")
        assert token.stdout.startswith("capamesh1")
        assert token.stdout.count("\n") == 1
        assert "A secret" in token.stderr
        router, node = tmp_path / "router", tmp_path / "node"
        start(
            *("router", "run", "--data", str(router), "--http", "127.0.0.1:0"),
            *("--mesh", "127.0.0.1:0", "--links", "127.0.0.1:0"),
            token=token.stdout,
        )
        until(lambda: status("router", router).get("state") == "waiting")
        found = status("router", router)
        url = found["http_address"]
        invite = run_json(
            *("network", "token", *owner, "--role", "node", "--expires", "1h"),
            *("--bootstrap", found["mesh_addresses"][0]),
        )
        start(*("node", "run", "--data", str(node), "--models", str(MODELS)), token=invite["token"])
        with Client(url) as client:
            until(lambda: client.is_ready("digits"))
            peer = status("node", node)["peer_id"]

            revoked = run_json("network", "revoke", *owner, peer, "--router", url)
            assert (revoked["version"], revoked["peers"]) == (1, [peer])
            assert revoked["router_version"] == 1
            until(lambda: client.nodes() == [])
        by_invite = run_json("network", "revoke", *owner, invite["invite"])
        assert (by_invite["version"], by_invite["router_version"]) == (2, None)
        assert run_json("network", "revoke", *owner, "--router", url)["router_version"] == 2
        junk = run("network", "revoke", *owner, "somebody")
        assert junk.returncode == 1
        assert "somebody" in junk.stderr
        for text in (token.stdout.strip(), invite["token"]):
            assert text not in (tmp_path / "log").read_text()
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(LIMIT_S) for process in processes]
    assert codes == [0, 0]
