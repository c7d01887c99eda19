"""Whom `capamesh network revoke` shuts out, by what an owner is shown of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capamesh.cli import revocation
from capamesh.cli.__main__ import run
from capamesh.cli.revocation import invites_meant
from capamesh.client import Client, HeldList
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import NetworkOwner, RevocationList

ROUTER = ("--router", "http://10.0.0.5:8000")
PEERS = tuple(Identity.from_private_bytes(bytes([number]) * 32).peer_id for number in range(3))


class Owner:
    """An owner's folder with one invite in its book, a router that is reached, and what was asked of that."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.names: dict[str, str] = dict(zip(PEERS, ("gpu-1", "gpu-2", "gpu-2"), strict=True))
        """The names of the router's nodes by their peer ids."""
        assert run(["network", "create", "home", "--dir", str(folder)]) == 0
        self._capsys.readouterr()
        assert run(["network", "token", "--json", "--role", "node", "--dir", str(folder)]) == 0
        self.invite: str = json.loads(self._capsys.readouterr().out)["invite"]

    def nodes(self, *_: object) -> list[dict[str, Any]]:
        """Return the fleet as a router tells it."""
        return [{"peer_id": peer, "name": name} for peer, name in self.names.items()]

    def revoke(self, *words: str) -> str:
        """Run `capamesh network revoke` and return its error, "" for none."""
        status = run(["network", "revoke", "--dir", str(self.folder), *words])
        said = self._capsys.readouterr().err
        return said if status else ""

    @property
    def revoked(self) -> tuple[set[str], set[str]]:
        """The peers and the invites in the saved list."""
        shown = RevocationList.load(self.folder, NetworkOwner.load(self.folder).ca_der)
        return set(shown.peers), set(shown.invites)


@pytest.fixture
def owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Owner:
    owner = Owner(tmp_path / "owner", capsys)
    monkeypatch.setattr(Client, "nodes", owner.nodes)
    monkeypatch.setattr(revocation, "hand_over", lambda *_: HeldList(1, is_kept=True))
    return owner


@pytest.mark.parametrize("given", ["gpu-1", PEERS[0][:20], f"…{PEERS[0][-8:]}"])
def test_node_is_revoked_as_a_router_shows_it(owner: Owner, given: str) -> None:
    assert owner.revoke(given, *ROUTER) == ""
    assert owner.revoked == ({PEERS[0]}, set())


def test_name_of_two_nodes_revokes_neither(owner: Owner) -> None:
    assert "'gpu-2' may mean 2 nodes: " in owner.revoke("gpu-1", "gpu-2", *ROUTER)
    assert owner.revoked == (set(), set())


def test_node_that_calls_itself_as_an_invite_begins_is_not_taken_for_it(owner: Owner) -> None:
    owner.names[PEERS[0]] = owner.invite[:8]
    said = owner.revoke(owner.invite[:8], *ROUTER)
    assert f"may mean each of {owner.invite}, {PEERS[0]}; give the whole of one" in said
    assert owner.revoked == (set(), set())
    assert owner.revoke(owner.invite, *ROUTER) == ""
    assert owner.revoked == (set(), {owner.invite})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("12345678", ["12345678" + "a" * 32, "12345678" + "b" * 32]),
        ("1234567", []),
        ("12345678A", []),
        ("12345678" + "a" * 33, []),
    ],
)
def test_invite_is_meant_by_eight_digits_at_least(given: str, meant: list[str]) -> None:
    known = ["12345678" + "b" * 32, "12345678" + "a" * 32, "12345678" + "a" * 32]
    assert invites_meant(given, known) == meant


def test_name_of_nobody_revokes_nobody(owner: Owner) -> None:
    for given in ("foo", "ab" * 19, "AB" * 20, "gpu-1"):
        said = owner.revoke(given)
        assert f"{given!r} is neither a whole peer id, nor an invite as `capamesh network" in said
    said = owner.revoke("gpu-9", *ROUTER)
    assert "no node is named 'gpu-9'" in said
    assert "no invite in the book begins so" in said
    assert owner.revoked == (set(), set())
    assert owner.revoke(owner.invite[:8]) == ""
    assert owner.revoked == (set(), {owner.invite})
