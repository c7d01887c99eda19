"""`capamesh network show`, and what `network token` writes down for it."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from capamesh.cli.__main__ import run
from capamesh.cli.owner_book import standing_of
from capamesh.client import Client
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import IDENTITY_FILE, JoinToken, NetworkOwner, RevocationList
from capamesh.protocol.network.book import BOOK_FILE, read_book

ADDRESS = "/ip4/10.0.0.5/tcp/4001/p2p/12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"


class Owner:
    """An owner's folder, and commands on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.run("create", "home")

    def run(self, *words: str, status: int = 0) -> str:
        """Run `capamesh network` and return its standard output."""
        assert run(["network", words[0], "--dir", str(self.folder), *words[1:]]) == status
        shown = self._capsys.readouterr()
        self.said = shown.err
        return shown.out

    def token(self, *words: str) -> dict[str, Any]:
        reported: dict[str, Any] = json.loads(self.run("token", "--json", *words))
        return reported

    def show(self, *words: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.run("show", "--json", *words))
        return shown


@pytest.fixture
def owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Owner:
    return Owner(tmp_path / "owner", capsys)


def test_book_shows_each_invite_with_for_whom_it_is_and_what_became_of_it(owner: Owner) -> None:
    node = owner.token("--role", "node", "--for", "Anna's lab", "--bootstrap", ADDRESS)
    router = owner.token("--role", "router", "--members", "2", "--expires", "8w")
    file = owner.folder.with_name("node.token")
    file.write_text(node["token"])
    owner.run("token", "--renew", str(file))
    owner.run("revoke", node["invite"])
    shown = owner.show()
    assert shown["name"] == "home"
    assert (shown["revocations_version"], shown["revoked_invites"]) == (1, [node["invite"]])
    assert (shown["router"], shown["members"], shown["unreadable_lines"]) == (None, None, 0)
    first, second, renewed = shown["invites"]
    assert (renewed["for"], renewed["replaces"]) == ("Anna's lab", first["invite"])
    made_at = first.pop("made_at")
    assert abs(dt.datetime.fromisoformat(made_at) - dt.datetime.now(dt.UTC)).total_seconds() < 60
    assert first == {
        "invite": node["invite"],
        "role": "node",
        "for": "Anna's lab",
        "state": "revoked",
        "expires_at": node["expires_at"],
        "members": 64,
        "key": 1,
        "addresses": [ADDRESS],
        "replaces": None,
        "members_here": None,
    }
    assert (second["invite"], second["role"], second["state"]) == (
        router["invite"],
        "router",
        "good",
    )
    table = owner.run("show")
    assert "Anna's lab" in table
    assert node["invite"] in table
    assert "up to 2" in table
    key = JoinToken.parse(node["token"])
    book = owner.folder / BOOK_FILE
    assert key.invite_key.hex() not in book.read_text()
    assert node["token"][-40:] not in book.read_text()
    with book.open("a") as file:
        file.write("{")
    owner.run("show")
    assert "1 lines of " in owner.said
    book.unlink()
    owner.run("show")
    assert "those that were made before there was a book are not in it" in owner.said
    book.mkdir()  # an invite that cannot be written down is not given
    assert owner.run("token", "--role", "node", status=1) == ""
    assert "capamesh1" not in owner.said


def test_invite_that_is_over_is_expired_and_one_of_a_retired_key_admits_nobody(
    owner: Owner,
) -> None:
    owner.token("--role", "node", "--expires", "1h")
    (entry,) = read_book(owner.folder).invites
    empty = RevocationList.empty(NetworkOwner.load(owner.folder).network_id)
    assert standing_of(entry, empty, entry.expires_at) == "good"
    assert standing_of(entry, empty, entry.expires_at + dt.timedelta(seconds=1)) == "expired"
    owner.run("rotate-key")
    owner.token("--role", "node")
    owner.run("rotate-key", "--retire")
    states = [(one["key"], one["state"]) for one in owner.show()["invites"]]
    assert states == [(1, "retired"), (2, "good")]


def test_router_tells_who_is_here_by_which_invite(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite = owner.token("--role", "node", "--for", "Anna", "--members", "3")["invite"]
    owner.token("--role", "router")
    until = "2027-03-01T12:00:00+00:00"
    nodes = [
        {"peer_id": "12D3KooWaaaaaaaa", "name": "gpu", "invite": invite, "member_until": until},
        {"peer_id": "12D3KooWbbbbbbbb", "name": "", "invite": "", "member_until": None},
    ]
    monkeypatch.setattr(Client, "_exchange", lambda *_: nodes)
    shown = owner.show("--router", "http://10.0.0.5:8000")
    assert shown["router"] == "http://10.0.0.5:8000"
    assert shown["members"] == [
        {"name": "gpu", "peer_id": "12D3KooWaaaaaaaa", "invite": invite, "member_until": until},
        {"name": "", "peer_id": "12D3KooWbbbbbbbb", "invite": "", "member_until": None},
    ]
    assert [one["members_here"] for one in shown["invites"]] == [1, None]
    table = owner.run("show", "--router", "http://10.0.0.5:8000")
    assert "1 of 3" in table
    row = next(line for line in table.splitlines() if line.startswith("gpu "))
    assert " ".join(row.split()) == f"gpu {invite[:8]} Anna 2027-03-01 12:00"
    wide = owner.run("show", "--router", "http://10.0.0.5:8000", "--wide")
    row = next(line for line in wide.splitlines() if line.startswith("gpu "))
    assert row.split()[-2:] == ["12D3KooWaaaaaaaa", invite]


@pytest.mark.parametrize("words", ["x" * 65, "\x1b[2J", "a\nb"])
def test_words_that_are_too_long_or_drive_a_terminal_are_refused(owner: Owner, words: str) -> None:
    assert owner.run("token", "--role", "node", "--for", words, status=2) == ""
    assert not (owner.folder / BOOK_FILE).exists()


def test_token_names_a_router_that_does_not_run_yet_and_makes_its_key(
    owner: Owner, tmp_path: Path
) -> None:
    router = tmp_path / "router"
    for place, address in [
        ("10.0.0.5:4001", "/ip4/10.0.0.5/tcp/4001"),
        ("[2001:db8::1]:4001", "/ip6/2001:db8::1/tcp/4001"),
        ("router.example.org:4001", "/dns/router.example.org/tcp/4001"),
    ]:
        reported = owner.token(
            "--role", "node", "--router-address", place, "--router-key", str(router)
        )
        peer = Identity.load(router / IDENTITY_FILE).peer_id
        assert reported["bootstrap"] == [f"{address}/p2p/{peer}"]
    assert (router / IDENTITY_FILE).stat().st_mode & 0o777 == 0o600
    other = Identity.generate().peer_id
    reported = owner.token(
        "--role", "node", "--router-address", "10.0.0.5:4001", "--router-key", other
    )
    assert reported["bootstrap"] == [f"/ip4/10.0.0.5/tcp/4001/p2p/{other}"]


@pytest.mark.parametrize(
    "words",
    [
        ("--router-address", "10.0.0.5:4001"),
        ("--router-address", "10.0.0.5", "--router-key", "router"),
        ("--router-address", "0.0.0.0:4001", "--router-key", "router"),
        ("--router-address", "[::]:4001", "--router-key", "router"),
    ],
)
def test_address_that_leads_nowhere_is_refused(
    owner: Owner, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert owner.run("token", "--role", "node", *words, status=2) == ""
    assert not (tmp_path / "router").exists()
