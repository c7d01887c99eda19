"""`capamesh node drain` and `enable`: what they sign, from which order, and what they do when somebody else signs too."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from capamesh.cli.operator_client import OperatorClient
from capamesh.client import HeldList
from capamesh.protocol.errors import InvalidRequest, LinkLost
from capamesh.protocol.identity import peer_id_of
from capamesh.protocol.network import DRAINS_FILE, DrainOrder, NetworkOwner, NetworkTrust

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId

    from .conftest import Cli, Owner, Said

NOW = dt.datetime.now(dt.UTC)
HOUR = dt.timedelta(hours=1)
ONE, OTHER, THIRD = (peer_id_of(bytes([number]) * 32) for number in (1, 2, 3))


class Fleet:
    """A router as the command sees it: it takes orders as routers do."""

    def __init__(self, owner: Owner, cli: Cli) -> None:
        self._cli = cli
        self.folder = owner.folder
        self.owner = NetworkOwner.load(owner.folder)
        self.trust = NetworkTrust(self.owner.ca_der)
        self.nodes = [
            {
                "peer_id": peer,
                "name": name,
                "models": [{"name": model, "version": "1", "state": "ready"} for model in models],
                "is_draining": False,
            }
            for peer, name, models in ((ONE, "gpu-1", "ab"), (OTHER, "gpu-2", "b"))
        ]
        self.is_kept = True
        self.before_taking: Callable[[], object] = lambda: None
        """What happens between the command's look and its order."""

    def command(self, line: str, *words: str, status: int = 0) -> Said:
        return self._cli(f"node {line}", *words, "--dir", self.folder, status=status)

    def take(self, encoded: bytes) -> HeldList:
        self.before_taking()
        order = self.trust.newer_drains(encoded)
        if order is not None and order.rank == self.trust.drains.rank:
            raise InvalidRequest("another drain order came: sign again, from the newest")
        if order is not None:
            self.trust.adopt_drains(order)
        return HeldList(self.trust.drains.version, self.is_kept)

    def other_operator_drains(self, *peers: PeerId, now: dt.datetime = NOW) -> None:
        """Let somebody with another copy of the owner's folder sign the next order."""
        order = self.owner.drain(self.trust.drains, dict.fromkeys(peers, now + HOUR), now=now)
        self.trust.adopt_drains(order)

    @property
    def drained(self) -> set[PeerId]:
        return set(self.trust.drains.peers)


@pytest.fixture
def fleet(owner: Owner, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    found = Fleet(owner, cli)
    monkeypatch.setattr(OperatorClient, "nodes", lambda _: found.nodes)
    monkeypatch.setattr(OperatorClient, "drain_order", lambda _: found.trust.encoded_drains)
    monkeypatch.setattr(OperatorClient, "drain", lambda _, encoded: found.take(encoded))
    return found


def test_each_order_keeps_the_drains_of_other_nodes_with_their_ends(fleet: Fleet) -> None:
    fleet.command("drain gpu-1 --for 2h")
    first = fleet.trust.drains.peers[ONE]
    fleet.command("drain", OTHER[-8:], "--for", "10m")
    assert (fleet.drained, fleet.trust.drains.peers[ONE]) == ({ONE, OTHER}, first)
    reported = fleet.command("enable gpu-1 --json").json
    assert fleet.drained == {OTHER}
    assert (reported["version"], reported["until"], list(reported["drained"])) == (3, None, [OTHER])
    assert "is not drained; nothing was changed" in fleet.command("enable gpu-1").out
    assert fleet.trust.drains.version == 3


@pytest.mark.parametrize(
    ("line", "drained"),
    [("drain gpu-1", {ONE, OTHER, THIRD}), ("enable gpu-2", {THIRD})],
)
def test_order_that_was_signed_meanwhile_is_not_undone(
    fleet: Fleet, line: str, drained: set[PeerId]
) -> None:
    fleet.other_operator_drains(OTHER)
    fleet.before_taking = lambda: fleet.other_operator_drains(OTHER, THIRD)
    assert "give the same command again" in fleet.command(line, status=1).err
    assert fleet.drained == {OTHER, THIRD}
    fleet.before_taking = lambda: None
    fleet.command(line)  # from the other's order, not from the one that was refused
    assert fleet.drained == drained


def test_order_that_could_not_be_handed_over_is_in_the_next_one(fleet: Fleet) -> None:
    def lost() -> None:
        raise LinkLost("the router hung up")

    fleet.before_taking = lost
    said = fleet.command("drain gpu-1", status=1).err
    assert "version 1, is saved in" in said
    assert "the router hung up; give the same command again" in said
    fleet.before_taking = lambda: None
    fleet.command("drain gpu-2")
    assert fleet.drained == {ONE, OTHER}


def test_order_of_another_network_or_a_damaged_one_is_told_with_what_to_do(fleet: Fleet) -> None:
    (fleet.folder / DRAINS_FILE).write_bytes(b"damaged")
    said = fleet.command("drain gpu-1", status=1).err
    assert "remove it: the router has the newest order" in said
    assert fleet.drained == set()
    (fleet.folder / DRAINS_FILE).unlink()
    other = NetworkOwner.create("other", NOW)
    order = other.drain(DrainOrder.empty(other.network_id), {ONE: NOW + HOUR}, now=NOW)
    fleet.trust = NetworkTrust(other.ca_der)
    fleet.trust.adopt_drains(order)
    said = fleet.command("drain gpu-1", status=1).err
    assert "is not of the owner in" in said
    assert "give that network's --dir" in said
    assert not (fleet.folder / DRAINS_FILE).exists()


def test_drain_that_cannot_be_signed_is_refused(fleet: Fleet) -> None:
    for line, status, text in (
        ("drain gpu-1 --for 31d", 2, "a drain lasts 30 days at most"),
        ("drain gpu", 1, "no node is named 'gpu'"),
        ("enable \x1b[2Jevil", 1, "no node is named"),
    ):
        said = fleet.command(line, status=status).err
        assert (text in said, "\x1b[2J" in said) == (True, False)
    assert fleet.trust.drains.version == 0


def test_models_that_no_other_node_has_and_a_disk_that_refuses_are_told(fleet: Fleet) -> None:
    fleet.is_kept = False
    said = fleet.command("drain gpu-1").err
    assert "could not write it to its disk" in said
    assert "requests for them fail until one has: a/1\n" in said
    said = fleet.command("drain gpu-2").err
    assert "until one has: b/1\n" in said  # gpu-1 is drained already


def test_drains_that_are_over_are_left_out_of_the_next_order(fleet: Fleet) -> None:
    fleet.other_operator_drains(OTHER, now=NOW - dt.timedelta(days=2))
    fleet.command("drain gpu-1")
    assert (fleet.drained, fleet.trust.drains.version) == ({ONE}, 2)
