"""`capamesh join`: which tokens it takes, what it says of others, and as what it goes on."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import socket
from pathlib import Path

import pytest

from capamesh.cli import routers_reached
from capamesh.cli.__main__ import run
from capamesh.cli.checkup.network import Reach
from capamesh.cli.home import SETTINGS_FILE, recall
from capamesh.protocol.data_dir import LOCK_FILE, DataDir
from capamesh.protocol.network import NetworkOwner, Role

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
OWNER, OTHER = NetworkOwner.create("one", NOW), NetworkOwner.create("two", NOW)
PEER = "12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"
ADDRESS = f"/ip4/10.0.0.5/tcp/4001/p2p/{PEER}"


class BecameAnotherError(Exception):
    """The process went on as another program."""


class Machine:
    """A machine on which somebody gives the command; no process is started and nobody is dialled."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.answers = {"10.0.0.5": ""}
        """Why no connection to a host comes about; empty: one does."""
        self.dialled: list[str] = []
        self._capsys = capsys

    def reach(self, host: str, port: int) -> Reach:
        self.dialled.append(f"{host}:{port}")
        return Reach(f"{host}:{port}", self.answers.get(host, "Name or service not known"))

    def joins(self, token: str, *more: str) -> list[str]:
        """Return the arguments of the node that it becomes."""
        with pytest.raises(BecameAnotherError) as became:
            run(["join", token, "--home", str(self.home), *more])
        return list(became.value.args[0])

    def refused(self, token: str, *more: str) -> str:
        """Return what it says instead of joining."""
        self._capsys.readouterr()
        assert run(["join", token, "--home", str(self.home), *more]) == 1
        (line,) = self._capsys.readouterr().err.splitlines()
        return line

    def said(self) -> str:
        return self._capsys.readouterr().err

    def folder(self, owner: NetworkOwner = OWNER) -> Path:
        return self.home / owner.network_id


@pytest.fixture
def machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Machine:
    found = Machine(tmp_path / "home", capsys)

    def become(_: str, arguments: tuple[str, ...]) -> None:
        raise BecameAnotherError(arguments[arguments.index("node") :])

    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setattr(routers_reached, "reach", found.reach)
    return found


def token(
    owner: NetworkOwner = OWNER,
    *addresses: str,
    ends: dt.datetime = NOW + DAY,
    made: dt.datetime = NOW,
) -> str:
    bootstrap = addresses or (ADDRESS,)
    return owner.invite(Role.NODE, expires_at=ends, bootstrap=bootstrap, now=made).encode()


def value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def test_expired_token_is_refused_with_its_end_and_whom_to_ask(machine: Machine) -> None:
    line = machine.refused(token(ends=NOW - DAY, made=NOW - 2 * DAY))
    assert f"the join token expired at {NOW - DAY:%Y-%m-%dT%H:%M:%SZ}" in line
    assert "ask the network's owner for a new one" in line
    assert not machine.home.exists()


def test_token_of_which_a_part_is_missing_is_refused_as_such(machine: Machine) -> None:
    whole = token()
    line = machine.refused(whole[:-3])
    assert "the join token is cut short or mistyped" in line
    assert "copy the whole of it again" in line
    assert whole[20:60] not in line
    assert not machine.home.exists()


def test_router_that_does_not_answer_is_told_with_its_address_the_time_and_what_to_check(
    machine: Machine,
) -> None:
    machine.answers = {"10.0.0.5": "timed out", "10.0.0.6": "Connection refused"}
    line = machine.refused(token(OWNER, ADDRESS, ADDRESS.replace("0.5", "0.6")))
    assert (
        f"no router of {OWNER.network_id} answers within 3 s: 10.0.0.5:4001 (timed out), 10.0.0.6:4001 (Connection refused). "
        "Check that `capamesh up` runs there"
    ) in line
    assert "firewall" in line
    assert "prints a new line" in line
    assert not machine.home.exists()
    line = machine.refused(token(OWNER, f"/ip4/10.0.0.5/udp/4001/quic-v1/p2p/{PEER}"))
    assert "this token names no router's address" in line


def test_one_router_that_answers_is_enough_and_a_node_that_only_dials_needs_no_port(
    machine: Machine,
) -> None:
    other = ADDRESS.replace("/ip4/10.0.0.5", "/dns4/gone.example")
    assert machine.joins(token(OWNER, other, ADDRESS))[:2] == ["node", "run"]
    assert sorted(machine.dialled) == ["10.0.0.5:4001", "gone.example:4001"]
    arguments = machine.joins(token(OTHER), "--dial-only")
    assert ("--dial-only" in arguments, "--port" in arguments) == (True, False)
    assert recall(machine.folder(OTHER)).ports == {}


def test_joining_again_with_the_same_token_resumes_the_same_node(machine: Machine) -> None:
    first = machine.joins(token := _kept(machine), "--name", "gpu-1")
    assert value(first, "--data") == str(machine.folder() / "node")
    assert value(first, "--name") == "gpu-1"
    assert (machine.folder() / "node.token").read_text() == f"{token}\n"
    machine.answers = {}  # the router's machine is off: the node waits for it
    (machine.folder() / "node").mkdir()
    machine.said()
    assert machine.joins(token) == first
    said = machine.said()
    assert "no router of" in said
    assert "The node goes on dialling until one answers." in said


def _kept(machine: Machine) -> str:
    """Return a token, on a machine whose usual ports may be in use."""
    found = token()
    machine.joins(found, "--port", "0")
    return found


def test_port_that_was_kept_and_is_taken_is_told_before_anything_is_written(
    machine: Machine,
) -> None:
    kept = _kept(machine)
    port = recall(machine.folder()).ports["node_links"]
    before = (machine.folder() / SETTINGS_FILE).read_bytes()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1)
        line = machine.refused(kept)
        assert f"the port {port} cannot be listened on" in line
        assert "--port" in line
        assert (machine.folder() / SETTINGS_FILE).read_bytes() == before
        assert value(machine.joins(kept, "--port", "0"), "--port") != str(port)


def test_node_that_runs_takes_the_token_whatever_its_ports_and_routers(machine: Machine) -> None:
    newer = token(ends=NOW + 2 * DAY)
    home = DataDir(machine.folder() / "node")
    home.folder.mkdir(parents=True)
    home.write_status({"role": "node"})
    machine.answers = {}
    with (home.folder / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as ended:
            run(["join", newer, "--home", str(machine.home)])
    assert ended.value.code == 0
    assert "takes this token over within seconds" in machine.said()
    assert (machine.folder() / "node.token").read_text() == f"{newer}\n"
    assert machine.dialled == []
