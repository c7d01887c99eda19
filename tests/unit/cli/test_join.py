"""`capamesh join` and the token of `capamesh up` for it: which tokens are taken, what is said of others, and as what it goes on."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import re
import socket
from typing import TYPE_CHECKING

import pytest

from capamesh.cli import routers_reached
from capamesh.cli.checkup.network import Reach
from capamesh.cli.cluster_session import joining_lines, samples_folder
from capamesh.cli.home import SETTINGS_FILE, recall
from capamesh.cli.local_cluster import JOIN_FILE, JOINING, JOINING_LABEL, OWNER_FOLDER, LocalCluster
from capamesh.protocol.advertised_address import dialled_multiaddr
from capamesh.protocol.data_dir import LOCK_FILE, DataDir
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import NetworkOwner, Role
from capamesh.protocol.network.book import Invited, read_book
from capamesh.protocol.private_files import replace_private

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli, Said

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
OWNER, OTHER = NetworkOwner.create("one", NOW), NetworkOwner.create("two", NOW)
PEER = "12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"
ADDRESS = f"/ip4/10.0.0.5/tcp/4001/p2p/{PEER}"


class Machine:
    """A machine on which somebody gives the command; no process is started and nobody is dialled."""

    def __init__(self, home: Path, cli: Cli) -> None:
        self.home = home
        self.answers = {"10.0.0.5": ""}
        """Why no connection to a host comes about; empty: one does."""
        self.dialled: list[str] = []
        self.became: list[str] = []
        """The arguments of the node that it has become."""
        self._cli = cli

    def reach(self, host: str, port: int) -> Reach:
        self.dialled.append(f"{host}:{port}")
        return Reach(f"{host}:{port}", self.answers.get(host, "Name or service not known"))

    def become(self, _: str, arguments: tuple[str, ...]) -> None:
        self.became = list(arguments[arguments.index("node") :])
        raise KeyboardInterrupt

    def joins(self, token: str, *more: str) -> Said:
        return self._cli("join", token, "--home", self.home, *more, status=130)

    def refused(self, token: str) -> str:
        """Return what it says instead of joining."""
        (line,) = self._cli("join", token, "--home", self.home, status=1).err.splitlines()
        return line

    def option(self, name: str) -> str:
        return self.became[self.became.index(name) + 1]

    def folder(self, owner: NetworkOwner = OWNER) -> Path:
        return self.home / owner.network_id


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Machine:
    found = Machine(tmp_path / "home", cli)
    monkeypatch.setattr(os, "execv", found.become)
    monkeypatch.setattr(routers_reached, "reach", found.reach)
    return found


def token(
    *addresses: str,
    owner: NetworkOwner = OWNER,
    ends: dt.datetime = NOW + DAY,
    made: dt.datetime = NOW,
) -> str:
    bootstrap = addresses or (ADDRESS,)
    return owner.invite(Role.NODE, expires_at=ends, bootstrap=bootstrap, now=made).encode()


NO_ANSWER = (
    f"no router of {OWNER.network_id} answers within 3 s: 10.0.0.5:4001 (timed out), "
    "10.0.0.6:4001 (Connection refused). Check that `capamesh up` runs there"
)
OLD, OVER = token(ends=NOW - DAY, made=NOW - 2 * DAY), f"{NOW - DAY:%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OLD, f"the join token expired at {OVER}.*ask the network's owner for a new one"),
        (token()[:-3], "the join token is cut short or mistyped.*copy the whole of it again"),
        (
            token(ADDRESS, ADDRESS.replace("0.5", "0.6")),
            f"{re.escape(NO_ANSWER)}.*firewall.*prints a new token",
        ),
        (token(f"/ip4/10.0.0.5/udp/4001/quic-v1/p2p/{PEER}"), "token names no router's address"),
    ],
    ids=["expired", "cut", "no answer", "no address"],
)
def test_token_that_leads_nowhere_is_refused_with_what_to_do_and_not_repeated(
    machine: Machine, text: str, said: str
) -> None:
    machine.answers = {"10.0.0.5": "timed out", "10.0.0.6": "Connection refused"}
    line = machine.refused(text)
    assert re.search(said, line)
    assert text[20:60] not in line
    assert not machine.home.exists()


def test_one_router_that_answers_is_enough_and_a_node_that_only_dials_needs_no_port(
    machine: Machine,
) -> None:
    machine.joins(token(ADDRESS.replace("/ip4/10.0.0.5", "/dns4/gone.example"), ADDRESS))
    assert machine.became[:2] == ["node", "run"]
    assert sorted(machine.dialled) == ["10.0.0.5:4001", "gone.example:4001"]
    machine.joins(token(owner=OTHER), "--dial-only")
    assert ("--dial-only" in machine.became, "--port" in machine.became) == (True, False)
    assert recall(machine.folder(OTHER)).ports == {}


def test_joining_again_with_the_same_token_resumes_the_same_node(machine: Machine) -> None:
    same = token()
    machine.joins(same, "--port", "0")  # the usual ones may be in use
    machine.joins(same, "--name", "gpu-1")
    assert machine.option("--data") == str(machine.folder() / "node")
    assert machine.option("--name") == "gpu-1"
    assert (machine.folder() / "node.token").read_text() == f"{same}\n"
    machine.answers = {}  # the router's machine is off: the node waits for it
    (machine.folder() / "node").mkdir()
    first = machine.became
    said = machine.joins(same).err
    assert machine.became == first
    assert "no router of" in said
    assert "The node goes on dialling until one answers." in said


def test_port_that_was_kept_and_is_taken_is_told_before_anything_is_written(
    machine: Machine,
) -> None:
    kept = token()
    machine.joins(kept, "--port", "0")
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
        machine.joins(kept, "--port", "0")
        assert machine.option("--port") != str(port)


def test_node_that_runs_takes_the_token_whatever_its_ports_and_routers(
    machine: Machine, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = token(ends=NOW + 2 * DAY)
    home = DataDir(machine.folder() / "node")
    home.folder.mkdir(parents=True)
    home.write_status({"role": "node"})
    with (home.folder / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as ended:
            cli("join", newer, "--home", machine.home)
    assert ended.value.code == 0
    assert "takes this token over within seconds" in capsys.readouterr().err
    assert (machine.folder() / "node.token").read_text() == f"{newer}\n"
    assert machine.dialled == []


def test_limits_of_the_node_are_options_or_variables_and_are_remembered(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, more = token(), ("--port", "0")
    monkeypatch.setenv("CAPAMESH_MEMORY_LIMIT", "20MiB")
    monkeypatch.setenv("CAPAMESH_REGION", "eu")
    monkeypatch.setenv(
        "CAPAMESH_MAX_STREAMS", "7"
    )  # no option of `join`: the node's command reads it
    monkeypatch.setenv("CAPAMESH_MESH_PORT", "5000")
    monkeypatch.setenv("CAPAMESH_MEMRY_LIMIT", "1")
    said = machine.joins(same, "--threads", "1", *more).err
    named = ("--memory-limit", "--region", "--threads")
    assert [machine.option(name) for name in named] == ["20MiB", "eu", "1"]
    assert "CAPAMESH_MEMRY_LIMIT; did you mean CAPAMESH_MEMORY_LIMIT?" in said
    assert "`capamesh join` does not go by CAPAMESH_MESH_PORT:" in said
    told = ("CAPAMESH_MESH_PORT", "CAPAMESH_MEMRY_LIMIT")  # else the node would tell of them again
    assert not os.environ.keys() & set(told)
    assert os.environ["CAPAMESH_MAX_STREAMS"] == "7"
    monkeypatch.delenv("CAPAMESH_MEMORY_LIMIT")
    said = machine.joins(same, "--price", "3").err
    options = [machine.option(name) for name in (*named, "--price")]
    assert options == ["20MiB", "eu", "1", "3.0"]
    assert "remembered for the next start: --region eu --threads 1 --memory-limit 20MiB" in said
    monkeypatch.setenv("CAPAMESH_MEMORY_LIMIT", "3cows")
    refused = machine._cli("join", same, "--home", machine.home, status=2)
    assert "'3cows' is no size" in refused.err


def test_samples_are_served_again_where_that_is_asked_for(machine: Machine, tmp_path: Path) -> None:
    same = token()
    (tmp_path / "models").mkdir()
    machine.joins(same, "--port", "0", "--models", str(tmp_path / "models"))
    assert (
        "is that of the last start; --models DIR serves another, --samples"
        in machine.joins(same).err
    )
    assert machine.option("--models") == str(tmp_path / "models")
    assert "These are the samples" in machine.joins(same, "--samples").err
    assert machine.option("--models") == str(samples_folder() / "models")
    said = machine._cli("join", same, "--samples", "--models", "x", status=2).err
    assert "give one of --models and --samples" in said


# the token for other machines


def test_token_of_a_network_is_printed_and_where_there_is_none_it_says_what_writes_it(
    tmp_path: Path, cli: Cli
) -> None:
    home = ("--home", tmp_path)
    assert "start the network with `capamesh up`" in cli("token", *home, status=1).err
    (tmp_path / "own").mkdir()
    replace_private(tmp_path / "own" / JOIN_FILE, b"capamesh1abc\n")
    assert cli("token", *home).out == "capamesh1abc\n"


class Cluster(LocalCluster):
    """A cluster whose router's mesh would be reached at `address`; none of it runs."""

    address = ADDRESS

    def _mesh_addresses(self) -> tuple[str, ...]:
        return (self.address,)

    @property
    def invites(self) -> tuple[Invited, ...]:
        return read_book(self.folder / OWNER_FOLDER).invites


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, tmp_path / "models")


def test_tokens_are_those_of_before_and_once_in_the_owner_s_book(cluster: Cluster) -> None:
    joining = cluster.join_token()
    assert cluster.join_token() == joining
    own = cluster._node_token()
    assert cluster._token_file("node-1", own).read_text() == f"{own.encode()}\n"
    assert [
        (entry.label, entry.role, entry.members, entry.addresses, entry.expires_at)
        for entry in cluster.invites
    ] == [
        (JOINING_LABEL, "node", JOINING, (ADDRESS,), joining.expires_at),
        ("node-1 of this machine", "node", 64, own.bootstrap, own.expires_at),
    ]


def test_members_of_this_machine_get_the_tokens_of_before_while_they_are_good(
    cluster: Cluster, cli: Cli
) -> None:
    def start() -> None:
        cluster._token_of("router", cluster._owner(), Role.ROUTER)
        cluster._token_of("node-1", cluster._owner(), Role.NODE, (ADDRESS,))

    for _ in range(3):
        start()
    assert [entry.role for entry in cluster.invites] == ["router", "node"]
    cluster.address = dialled_multiaddr("10.9.9.9", 4001, PeerId(PEER))
    cluster._token_of("node-1", cluster._owner(), Role.NODE, (cluster.address,))
    assert len(cluster.invites) == 3  # the router is at another address
    cli("network revoke", cluster.invites[0].invite, "--dir", cluster.folder / OWNER_FOLDER)
    start()
    assert [entry.role for entry in cluster.invites] == ["router", "node", "node", "router", "node"]


def test_token_that_was_revoked_or_whose_key_was_retired_is_not_given_out_again(
    cluster: Cluster, cli: Cli
) -> None:
    first = cluster.join_token()
    owner = cluster.folder / OWNER_FOLDER
    cli("network revoke", cluster.invites[0].invite, "--dir", owner)
    second = cluster.join_token()
    assert second != first
    cli("network rotate-key --dir", owner)
    assert cluster.join_token() == second
    cli("network rotate-key --retire --dir", owner)
    assert cluster.join_token() != second
    assert [entry.key for entry in cluster.invites] == [0, 0, 1]


@pytest.mark.parametrize(
    ("host", "is_warned"),
    [("10.0.0.5", False), ("gpu.example.org", False), ("127.0.0.1", True), ("::1", True)],
)
def test_line_for_other_machines_warns_of_an_address_that_none_of_them_reaches(
    cluster: Cluster, host: str, is_warned: bool
) -> None:
    cluster.address = dialled_multiaddr(host, 4001, PeerId(PEER))
    made, folder = cluster.join_token(), cluster.folder
    line, secret, *warning = joining_lines(made, folder)
    assert line == "  capamesh join TOKEN"
    assert f"`capamesh token --home {folder.parent}` prints it" in secret
    assert (folder / JOIN_FILE).read_text().strip() == made.encode()
    assert len(warning) == is_warned
    for each in warning:
        assert f"reaches this one at {host}, " in each
        assert "--advertise ADDRESS" in each
