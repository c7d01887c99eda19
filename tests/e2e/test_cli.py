"""The command line against real processes: a whole cluster, a network built by hand, and one by one command and joined by one line."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import is_alive
from commands import environment, run, run_json, words_of
from prometheus_client.parser import text_string_to_metric_families
from triton_models import ZERO_START, write_implicit

import capamesh.cli
from capamesh.client import Client
from capamesh.protocol.member_status import NOT_READY
from capamesh.protocol.mesh.dial_failures import SOMEBODY_ELSE

MODELS = Path(capamesh.cli.__path__[0]) / "samples" / "models"
LIMIT_S = 120


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words_of(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=LIMIT_S)
    return process.returncode, stdout, stderr


def document(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the JSON document that it prints once it is up."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            return json.loads(text)
    raise AssertionError(ended(process))


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = started(*arguments)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        ended(process)


@pytest.fixture
def dev_up(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    data = ("--data", str(tmp_path / "dev"))
    with running("dev", "up", "--nodes", "1", "--http", "127.0.0.1:0", *data, "--json") as process:
        yield process


def test_dev_up_can_be_used_from_the_command_line_and_ends_at_ctrl_c(
    dev_up: subprocess.Popen[str], tmp_path: Path
) -> None:
    process, report = dev_up, document(dev_up)
    url = report["http_url"]
    router = ("--router", url)
    samples = sorted(folder.name for folder in MODELS.iterdir())
    assert (report["models"][0], sorted(report["models"])) == ("digits", samples)
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
    code, _, said = ended(process)
    assert code == 0, said
    assert "died" not in said
    folder = report["nodes"][0]["data_folder"]
    stopped = run("node", "status", "--data", folder)
    assert stopped.returncode == 1
    assert "no process holds its folder" in stopped.stdout
    assert not is_alive(report["router"]["pid"])


def test_cluster_whose_owner_is_killed_ends_by_itself(dev_up: subprocess.Popen[str]) -> None:
    process, report = dev_up, document(dev_up)
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


def nodes_of(url: str, count: int) -> dict[str, dict[str, Any]]:
    """Return the usable nodes that a router knows, by peer, once they are so many with the samples ready."""
    found: dict[str, dict[str, Any]] = {}

    def are_there() -> bool:
        found.clear()
        for node in client.nodes():
            is_usable = any(link["is_usable"] for link in node["links"])
            if is_usable and all(model["state"] == "ready" for model in node["models"]):
                found[node["peer_id"]] = node
        return len(found) == count

    with Client(url) as client:
        until(are_there)
    return found


def requests_of(url: str) -> dict[tuple[str, str], float]:
    """Return the requests that a router has counted, by model and by what came of them."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=LIMIT_S) as reply:  # noqa: S310 - http:// it is
        text = reply.read().decode()
    return {
        (sample.labels["model"], sample.labels["code"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "capamesh_requests_total"
    }


@pytest.mark.smoke
def test_network_is_made_joined_stopped_and_resumed_by_one_command_each(tmp_path: Path) -> None:
    own, other, models = tmp_path / "own machine", tmp_path / "other machine", tmp_path / "models"
    for name in ("digits", "silero_vad"):
        shutil.copytree(MODELS / name, models / name)
    write_implicit(models, "remembers", ZERO_START)
    options = ("--home", str(own), "--http", "127.0.0.1:0", "--advertise", "127.0.0.1", "--json")
    with running("up", "--models", str(models), *options) as up:
        first = document(up)
        token = first["join_token"]
        assert not list(nodes_of(first["http_url"], 1))[1:]
        # each model was tried once, those that keep states by a whole sequence, and none has failed
        tried = {sample.name for sample in models.iterdir()}
        assert requests_of(first["http_url"]) == {(name, "ok"): 1.0 for name in tried}
        joining = ("join", token, "--home", str(other), "--advertise", "127.0.0.1")
        with running(*joining) as node:
            (joined,) = set(nodes_of(first["http_url"], 2)) - {first["nodes"][0]["peer_id"]}
            # no list of processes shows the token, which a newer one replaces as the node runs
            assert token not in Path(f"/proc/{node.pid}/cmdline").read_text()
            code, _, said = ended(started("join", token, "--home", str(other)))
            assert (code, "takes this token over" in said) == (0, True)
    with running("up", *options) as up:
        again = document(up)
        assert {m["peer_id"] for m in again["nodes"]} == {m["peer_id"] for m in first["nodes"]}
        assert again["router"]["peer_id"] == first["router"]["peer_id"]
        assert again["join_token"] == token  # addresses are those of before
        with running(*joining):
            assert joined in nodes_of(again["http_url"], 2)
    for home in (own, other):
        for file in home.rglob("*.token"):
            assert file.stat().st_mode & 0o077 == 0


def test_models_that_are_refused_are_told_of_and_where_none_is_left_up_ends(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "model.onnx").write_text("junk")
    options = ("--home", str(tmp_path / "home"), "--http", "127.0.0.1:0", "--local", "--port", "0")
    for _ in range(2):  # the second time its log has the words of the first
        code, _, said = ended(started("up", "--models", str(models), *options))
        assert (code, said.count("broken/1: the ONNX file")) == (1, said.count("Refused: ") + 1)
        assert f"no model of {models} can be served: broken/1: the ONNX file" in said
    shutil.copytree(MODELS / "digits", models / "digits")
    kept = tmp_path / "home" / "own" / "settings.json"
    assert not kept.exists()  # a start that failed is not gone on with
    with running("up", "--models", str(models), *options, "--json") as up:
        assert document(up)["models"] == ["digits"]
        assert json.loads(kept.read_text())["models"] == str(models)
        assert up.stderr is not None
        lines = iter(up.stderr)
        assert any(line.startswith("Refused: broken/1: the ONNX file") for line in lines)


def ports_of(session: dict[str, Any]) -> set[int]:
    """Return the ports on which the members of a network listen for other members."""
    members = [session["router"], *session["nodes"]]
    addresses = [address for member in members for address in member["addresses"]]
    found = [re.search(r"(?:/tcp/|^127[.]0[.]0[.]1:)([0-9]+)", address) for address in addresses]
    return {int(match[1]) for match in found if match}


def test_networks_that_start_at_the_same_moment_have_ports_of_their_own(tmp_path: Path) -> None:
    def options(name: str) -> tuple[str, ...]:
        return ("--home", str(tmp_path / name), "--http", "127.0.0.1:0", "--local", "--json")

    with running("up", *options("a")) as one, running("up", *options("b")) as two:
        first, second = document(one), document(two)
        code, _, said = ended(started("up", *options("a")))
        assert (code, f"the network in {tmp_path}/a/own runs already" in said) == (1, True)
        # an old line, where another network's router has the address by now
        (mesh,) = (each for each in second["router"]["addresses"] if "/tcp/" in each)
        old = f"{mesh.partition('/p2p/')[0]}/p2p/{first['router']['peer_id']}"
        owner = str(tmp_path / "a" / "own" / "network")
        of = ("--dir", owner, "--role", "node", "--bootstrap", old)
        _, token, _ = ended(started("network", "token", *of))
        joining = ("join", token.strip(), "--home", str(tmp_path / "c"), "--port", "0")
        with running(*joining) as node:
            assert node.stderr is not None
            # a router that takes long to answer is told of in other words, before
            lines = (line for line in node.stderr if "dial_failed" in line)
            assert any(SOMEBODY_ELSE in line for line in lines)
    assert (len(ports_of(first)), len(ports_of(second))) == (3, 3)
    assert not ports_of(first) & ports_of(second)
    kept = json.loads((tmp_path / "a" / "own" / "settings.json").read_text())["ports"]
    assert ports_of(first) < set(kept.values())
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", kept["router_mesh"]))
        other.listen(1)
        code, _, said = ended(started("up", *options("a")))
        assert (code, said.count("\n")) == (1, 1)
        assert f"the port {kept['router_mesh']} cannot be listened on" in said
        assert "--port PORT" in said
        with running("up", "--port", "0", *options("a")) as up:
            assert kept["router_mesh"] not in ports_of(document(up))


def test_join_that_is_refused_says_why_in_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    owner, home = str(tmp_path / "owner"), tmp_path / "home"
    assert ended(started("network", "create", "home", "--dir", owner))[0] == 0
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nothing listens there
        port = bound.getsockname()[1]
        peer = "12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"
        address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"
        for words, reason in (
            (("--role", "router"), "this token admits a router"),
            (("--role", "node", "--bootstrap", address), f"answers within 3 s: 127.0.0.1:{port}"),
        ):
            code, token, said = ended(started("network", "token", "--dir", owner, *words))
            assert code == 0, said
            code, _, said = ended(started("join", token.strip(), "--home", str(home)))
            assert (code, said.count("\n"), reason in said) == (1, 1, True)
    assert not home.exists()
