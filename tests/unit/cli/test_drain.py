"""`capamesh node drain` and `enable`: what they sign, from which order, and what they do when somebody else signs too."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capamesh.cli.__main__ import run
from capamesh.cli.operator_client import OperatorClient
from capamesh.client import HeldList
from capamesh.protocol.errors import InvalidRequest, LinkLost
from capamesh.protocol.identity import peer_id_of
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import DRAINS_FILE, DrainOrder, NetworkOwner, NetworkTrust

NOW = dt.datetime.now(dt.UTC)
HOUR = dt.timedelta(hours=1)
ONE, OTHER = peer_id_of(b"\x01" * 32), peer_id_of(b"\x02" * 32)


class Router:
    """A router as the command sees it: it takes orders as routers do."""

    def __init__(self, owner: NetworkOwner) -> None:
        self.owner = owner
        self.trust = NetworkTrust(owner.ca_der)
        self.nodes = [self._node(ONE, "gpu-1", "a", "b"), self._node(OTHER, "gpu-2", "b")]
        self.is_kept = True
        self.before_taking: Callable[[], None] = lambda: None
        """What happens between the command's look and its order."""

    @staticmethod
    def _node(peer: PeerId, name: str, *models: str) -> dict[str, Any]:
        ready = [{"name": model, "version": "1", "state": "ready"} for model in models]
        return {"peer_id": peer, "name": name, "models": ready, "is_draining": False}

    def take(self, encoded: bytes) -> HeldList:
        self.before_taking()
        order = self.trust.newer_drains(encoded)
        if order is not None and order.rank == self.trust.drains.rank:
            raise InvalidRequest("another drain order came: sign again, from the newest")
        if order is not None:
            self.trust.adopt_drains(order)
        return HeldList(self.trust.drains.version, self.is_kept)

    def other_operator_drains(self, *peers: PeerId) -> None:
        """Let somebody with another copy of the owner's folder sign the next order."""
        now = dt.datetime.now(dt.UTC)
        order = self.owner.drain(self.trust.drains, dict.fromkeys(peers, now + HOUR), now=now)
        self.trust.adopt_drains(order)

    @property
    def drained(self) -> set[PeerId]:
        return set(self.trust.drains.peers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    NetworkOwner.create("home", NOW).save(tmp_path / "owner")
    return tmp_path / "owner"


@pytest.fixture
def router(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Router:
    found = Router(NetworkOwner.load(folder))
    monkeypatch.setattr(OperatorClient, "nodes", lambda _: found.nodes)
    monkeypatch.setattr(OperatorClient, "drain_order", lambda _: found.trust.encoded_drains)
    monkeypatch.setattr(OperatorClient, "drain", lambda _, encoded: found.take(encoded))
    return found


@pytest.fixture
def command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def given(*words: str) -> tuple[int, str, str]:
        status = run(["node", *words, "--dir", str(folder)])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return given


Command = Callable[..., tuple[int, str, str]]


def test_each_order_keeps_the_drains_of_other_nodes_with_their_ends(
    router: Router, command: Command
) -> None:
    assert command("drain", "gpu-1", "--for", "2h")[0] == 0
    first = router.trust.drains.peers[ONE]
    assert command("drain", OTHER[-8:], "--for", "10m")[0] == 0
    assert router.drained == {ONE, OTHER}
    assert router.trust.drains.peers[ONE] == first
    status, out, _ = command("enable", "gpu-1", "--json")
    assert (status, router.drained) == (0, {OTHER})
    reported = json.loads(out)
    assert (reported["version"], reported["until"], list(reported["drained"])) == (3, None, [OTHER])
    status, out, _ = command("enable", "gpu-1")
    assert (status, "is not drained; nothing was changed" in out) == (0, True)
    assert router.trust.drains.version == 3


@pytest.mark.parametrize("words", [("drain", "gpu-1"), ("enable", "gpu-2")])
def test_order_that_was_signed_meanwhile_is_not_undone(
    router: Router, command: Command, words: tuple[str, str]
) -> None:
    router.other_operator_drains(OTHER)
    router.before_taking = lambda: router.other_operator_drains(OTHER, peer_id_of(b"\x03" * 32))
    status, _, said = command(*words)
    assert (status, "give the same command again" in said) == (1, True)
    assert router.drained == {OTHER, peer_id_of(b"\x03" * 32)}
    router.before_taking = lambda: None
    assert command(*words)[0] == 0  # from the other's order, not from the one that was refused
    kept = {peer_id_of(b"\x03" * 32)}
    assert router.drained == (kept | {ONE, OTHER} if words[0] == "drain" else kept)


def test_order_that_could_not_be_handed_over_is_in_the_next_one(
    router: Router, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise LinkLost("the router hung up")

    router.before_taking = lost
    status, _, said = command("drain", "gpu-1")
    assert status == 1
    assert "version 1, is saved in" in said
    assert "the router hung up; give the same command again" in said
    router.before_taking = lambda: None
    assert command("drain", "gpu-2")[0] == 0
    assert router.drained == {ONE, OTHER}


def test_folder_of_another_network_is_told_as_such(
    router: Router, command: Command, folder: Path
) -> None:
    router.other_operator_drains(ONE)
    other = NetworkOwner.create("other", NOW)
    router.trust = NetworkTrust(other.ca_der)
    router.trust.adopt_drains(
        other.drain(DrainOrder.empty(other.network_id), {ONE: NOW + HOUR}, now=NOW)
    )
    status, _, said = command("drain", "gpu-1")
    assert status == 1
    assert "is not of the owner in" in said
    assert "give that network's --dir" in said
    assert not (folder / DRAINS_FILE).exists()


def test_damaged_order_in_the_folder_is_told_with_what_to_do(
    router: Router, command: Command, folder: Path
) -> None:
    (folder / DRAINS_FILE).write_bytes(b"damaged")
    status, _, said = command("drain", "gpu-1")
    assert status == 1
    assert "remove it: the router has the newest order" in said
    assert router.drained == set()


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("drain", "gpu-1", "--for", "31d"), 2, "a drain lasts 30 days at most"),
        (("drain", "gpu"), 1, "no node is named 'gpu'"),
        (("enable", "\x1b[2Jevil"), 1, "no node is named"),
    ],
)
def test_drain_that_cannot_be_signed_is_refused(
    router: Router, command: Command, words: tuple[str, ...], status: int, text: str
) -> None:
    found, _, said = command(*words)
    assert (found, text in said) == (status, True)
    assert "\x1b[2J" not in said
    assert router.trust.drains.version == 0


def test_models_that_no_other_node_has_and_a_disk_that_refuses_are_told(
    router: Router, command: Command
) -> None:
    router.is_kept = False
    status, _, said = command("drain", "gpu-1")
    assert (status, "could not write it to its disk" in said) == (0, True)
    assert "requests for them fail until one has: a/1\n" in said
    _, _, said = command("drain", "gpu-2")
    assert "until one has: b/1\n" in said  # gpu-1 is drained already


def test_drains_that_are_over_are_left_out_of_the_next_order(
    router: Router, command: Command
) -> None:
    long_ago = NOW - dt.timedelta(days=2)
    over = router.owner.drain(
        DrainOrder.empty(router.owner.network_id), {OTHER: long_ago + HOUR}, now=long_ago
    )
    router.trust.adopt_drains(over)
    assert command("drain", "gpu-1")[0] == 0
    assert (router.drained, router.trust.drains.version) == ({ONE}, 2)
