"""`capamesh network`: what owners are shown, what they sign, and whom they shut out."""

from __future__ import annotations

import datetime as dt
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from capamesh.cli import revocation
from capamesh.cli.owner_book import standing_of
from capamesh.cli.revocation import invites_meant
from capamesh.client import HeldList
from capamesh.protocol.errors import NotMember
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import (
    IDENTITY_FILE,
    JoinToken,
    Membership,
    NetworkOwner,
    RevocationList,
    Role,
)
from capamesh.protocol.network.book import BOOK_FILE, read_book
from capamesh.protocol.network.seen import MOST_OF_INVITE, SEEN_FILE, note_seen, read_seen

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Owner, Router

ADDRESS = "/ip4/10.0.0.5/tcp/4001/p2p/12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"
ROUTER = ("--router", "http://10.0.0.5:8000")
NOW = dt.datetime.now(dt.UTC)
DAY, MINUTE = dt.timedelta(days=1), dt.timedelta(minutes=1)


# the book


def test_book_shows_each_invite_with_for_whom_it_is_and_what_became_of_it(owner: Owner) -> None:
    node = owner.token("--role", "node", "--for", "Anna's lab", "--bootstrap", ADDRESS)
    router = owner.token("--role", "router", "--members", 2, "--expires", "8w")
    file = owner.folder.with_name("node.token")
    file.write_text(node["token"])
    owner.run("token", "--renew", file)
    owner.run("revoke", node["invite"])
    shown = owner.show()
    first, second, renewed = shown.pop("invites")
    told = [shown[key] for key in ("name", "router", "members", "unreadable_lines")]
    assert told == ["home", None, None, 0]
    assert (shown["revocations_version"], shown["revoked_invites"]) == (1, [node["invite"]])
    assert (renewed["for"], renewed["replaces"]) == ("Anna's lab", first["invite"])
    assert abs(dt.datetime.fromisoformat(first.pop("made_at")) - NOW) < dt.timedelta(hours=1)
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
    told = [second[key] for key in ("invite", "role", "state")]
    assert told == [router["invite"], "router", "good"]
    table = owner.run("show").out
    assert all(text in table for text in ("Anna's lab", node["invite"], "up to 2"))


def test_book_holds_no_key_and_what_cannot_be_read_of_it_is_told(owner: Owner) -> None:
    token = owner.token("--role", "node")["token"]
    book = owner.folder / BOOK_FILE
    assert JoinToken.parse(token).invite_key.hex() not in book.read_text()
    assert token[-40:] not in book.read_text()
    with book.open("a") as file:
        file.write("{")
    assert "1 lines of " in owner.run("show").err
    book.unlink()
    assert "those that were made before there was a book are not in it" in owner.run("show").err
    book.mkdir()  # an invite that cannot be written down is not given
    said = owner.run("token", "--role", "node", status=1)
    assert (said.out, "capamesh1" in said.err) == ("", False)


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


def test_router_tells_who_is_here_by_which_invite(owner: Owner, router: Router) -> None:
    invite = owner.token("--role", "node", "--for", "Anna", "--members", 3)["invite"]
    owner.token("--role", "router")
    until = "2027-03-01T12:00:00+00:00"
    nodes = [
        {"peer_id": "12D3KooWaaaaaaaa", "name": "gpu", "invite": invite, "member_until": until},
        {"peer_id": "12D3KooWbbbbbbbb", "name": "", "invite": "", "member_until": None},
    ]
    router.body = {"nodes": nodes}
    shown = owner.show(*ROUTER)
    assert (shown["router"], shown["members"]) == (ROUTER[1], nodes)
    assert [one["members_here"] for one in shown["invites"]] == [1, None]
    lines = owner.run("show", *ROUTER).lines
    assert any("1 of 3" in line for line in lines)
    assert f"gpu here {invite[:8]} Anna 2027-03-01 12:00" in lines
    wide = owner.run("show", *ROUTER, "--wide").lines
    (row,) = [line for line in wide if line.startswith("gpu ")]
    assert row.endswith(f"12D3KooWaaaaaaaa {invite}")


# tokens


def test_token_names_a_router_that_does_not_run_yet_and_makes_its_key(
    owner: Owner, tmp_path: Path
) -> None:
    key = tmp_path / "router" / IDENTITY_FILE
    other = Identity.generate().peer_id
    for place, given, address in [
        ("10.0.0.5:4001", key.parent, "/ip4/10.0.0.5/tcp/4001"),
        ("[2001:db8::1]:4001", key.parent, "/ip6/2001:db8::1/tcp/4001"),
        ("router.example.org:4001", key.parent, "/dns/router.example.org/tcp/4001"),
        ("10.0.0.5:4001", other, "/ip4/10.0.0.5/tcp/4001"),
    ]:
        told = owner.token("--role", "node", "--router-address", place, "--router-key", given)
        peer = given if given == other else Identity.load(key).peer_id
        assert told["bootstrap"] == [f"{address}/p2p/{peer}"]
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--router-address 10.0.0.5:4001", 2),
        ("--router-address 10.0.0.5 --router-key router", 2),
        ("--router-address 0.0.0.0:4001 --router-key router", 2),
        ("--router-address [::]:4001 --router-key router", 2),
        ("--expires 9999999d", 2),
        ("--bootstrap garbage", 1),
        ("--bootstrap /ip4/192.0.2.1/tcp/4001", 1),
        *[(f"--for {words}", 2) for words in ("x" * 65, "\x1b[2J", "'a\nb'")],
    ],
)
def test_token_that_leads_nowhere_never_ends_or_drives_a_terminal_is_refused(
    owner: Owner, words: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = owner.run("token", "--role", "node", *shlex.split(words), status=status)
    assert (said.out, (tmp_path / "router").exists()) == ("", False)
    assert not (owner.folder / BOOK_FILE).exists()


def test_renewed_token_has_the_role_the_addresses_and_the_life_of_the_one_in_its_file(
    owner: Owner, tmp_path: Path
) -> None:
    long_ago = NOW - 50 * DAY
    old = NetworkOwner.load(owner.folder).invite(
        Role.NODE, expires_at=long_ago + 8 * DAY, bootstrap=(ADDRESS,), now=long_ago
    )
    file = tmp_path / "node.token"
    file.write_text(old.encode() + "\n")
    reported = owner.token("--renew", file)
    assert ("token" in reported, reported["bootstrap"]) == (False, [ADDRESS])
    new = JoinToken.decode(file.read_text(), NOW)
    assert (new.role, new.bootstrap) == (Role.NODE, (ADDRESS,))
    assert abs(new.expires_at - NOW - 8 * DAY) < 10 * MINUTE
    assert file.stat().st_mode & 0o777 == 0o600
    shown = owner.run("token", "--renew", file, "--expires", "2d")
    assert (shown.out, file.read_text().strip() in shown.err) == ("", False)
    again = JoinToken.decode(file.read_text(), NOW)
    assert abs(again.expires_at - NOW - 2 * DAY) < 10 * MINUTE


def test_token_that_is_broken_or_of_another_network_or_role_is_not_renewed(
    owner: Owner, tmp_path: Path
) -> None:
    other = NetworkOwner.create("home", NOW)
    kept = other.invite(Role.NODE, expires_at=NOW + DAY, bootstrap=(), now=NOW).encode()
    file = tmp_path / "token"
    for text, words, said in (
        (kept, (), "admits to the network cm-"),
        (kept, ("--role", "router"), "admits a node, not a router: leave --role out"),
        ("junk", (), "this is no join token"),
    ):
        file.write_text(text)
        assert said in owner.run("token", "--renew", file, *words, status=1).err
        assert file.read_text() == text


# the owner's key


def test_changed_key_admits_beside_the_old_one_until_that_is_retired(owner: Owner) -> None:
    def admitted() -> Membership:
        token = JoinToken.decode(owner.run("token", "--role", "node").out, dt.datetime.now(dt.UTC))
        return Membership.join(Identity.generate(), token, NOW)

    network = NetworkOwner.load(owner.folder).network_id
    old = admitted()
    assert (
        "has its first key: make the next one" in owner.run("rotate-key", "--retire", status=1).err
    )
    reported = owner.run("rotate-key", "--json").json
    told = [reported[key] for key in ("network_id", "key", "oldest_key", "version", "old_key_file")]
    assert told == [network, 2, 1, 1, str(owner.folder / "owner.key.1")]
    new = admitted()
    trust = old.trust()
    assert trust.verify(new.chain, NOW).role is Role.NODE
    assert new.trust().verify(old.chain, NOW).role is Role.NODE
    owner.run("rotate-key", "--retire")
    trust.update(RevocationList.load(owner.folder, old.ca_der))
    assert trust.verify(new.chain, NOW).role is Role.NODE
    with pytest.raises(NotMember, match=r"^retired owner key"):
        trust.verify(old.chain, NOW)
    # and revoking goes on by the new key
    owner.run("revoke", new.identity.peer_id)
    assert trust.update(RevocationList.load(owner.folder, old.ca_der))
    with pytest.raises(NotMember, match=r"^revoked peer"):
        trust.verify(new.chain, NOW)


# revoking

PEERS = tuple(Identity.from_private_bytes(bytes([number]) * 32).peer_id for number in range(3))


def revoked(owner: Owner) -> tuple[set[str], set[str]]:
    """Return the peers and the invites in the saved list."""
    shown = RevocationList.load(owner.folder, NetworkOwner.load(owner.folder).ca_der)
    return set(shown.peers), set(shown.invites)


@pytest.fixture
def names(router: Router, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the nodes of a router that is reached, which takes every list."""
    nodes = [
        {"peer_id": peer, "name": name}
        for peer, name in zip(PEERS, ("gpu-1", "gpu-2", "gpu-2"), strict=True)
    ]
    router.body = {"nodes": nodes}
    monkeypatch.setattr(revocation, "hand_over", lambda *_: HeldList(1, is_kept=True))
    return nodes


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("given", ["gpu-1", PEERS[0][:20], f"…{PEERS[0][-8:]}"])
def test_node_is_revoked_as_a_router_shows_it(owner: Owner, given: str) -> None:
    owner.run("revoke", given, *ROUTER)
    assert revoked(owner) == ({PEERS[0]}, set())


def test_name_of_several_or_of_nobody_revokes_nobody(
    owner: Owner, names: list[dict[str, Any]]
) -> None:
    invite = owner.token("--role", "node")["invite"]
    names[0]["name"] = invite[:8]
    both = f"may mean each of {invite}, {PEERS[0]}; give the whole of one"
    for word, where, said in (
        ("gpu-2", ROUTER, "'gpu-2' may mean 2 nodes: "),
        (invite[:8], ROUTER, both),
        ("gpu-9", ROUTER, "no node is named 'gpu-9'"),
        ("gpu-9", ROUTER, "no invite in the book begins so"),
        *[
            (each, (), f"{each!r} is neither a peer id, nor an invite, nor the name of a")
            for each in ("foo", "ab" * 19, "AB" * 20, "gpu-9")
        ],
    ):
        assert said in owner.run("revoke", word, *where, status=1).err
        assert revoked(owner) == (set(), set())
    owner.run("revoke", invite, *ROUTER)
    assert revoked(owner) == (set(), {invite})


def test_invite_is_revoked_by_its_first_eight_digits_at_least(owner: Owner) -> None:
    invite = owner.token("--role", "node")["invite"]
    owner.run("revoke", invite[:8])
    assert revoked(owner) == (set(), {invite})
    first, second = "12345678" + "a" * 32, "12345678" + "b" * 32
    assert invites_meant("12345678", [second, first, first]) == [first, second]
    for given in ("1234567", "12345678A", "12345678" + "a" * 33):
        assert invites_meant(given, [second, first]) == []


def test_revocation_that_cannot_be_handed_over_is_saved_all_the_same(owner: Owner) -> None:
    said = owner.run("revoke", "ab" * 20, "--router", "http://127.0.0.1:1", status=1).err
    assert f"version 1 is saved in {owner.folder}, but not handed over: cannot reach" in said
    assert f"try again: capamesh network revoke --dir {owner.folder} --router" in said
    assert revoked(owner) == (set(), {"ab" * 20})


# members that are off


def test_member_that_is_off_is_known_by_the_book_and_revoked_by_its_name(
    owner: Owner, router: Router
) -> None:
    invite = owner.token("--role", "node", "--for", "Anna")["invite"]
    laptop, desk = (Identity.generate().peer_id for _ in range(2))
    lost_at = "2026-03-01T12:00:00+00:00"
    row = {"peer_id": laptop, "name": "laptop", "invite": invite}
    router.body = {
        "nodes": [{"peer_id": desk, "name": "desk", "invite": invite, "member_until": None}],
        "lost": [{**row, "lost_at": lost_at, "models": []}],
    }
    owner.run("show", *ROUTER)
    router.body = {"nodes": [], "lost": []}  # the router has forgotten both
    away = owner.show(*ROUTER)["members_away"]
    assert [(one["name"], one["peer_id"]) for one in away] == [("desk", desk), ("laptop", laptop)]
    assert away[1]["last_seen"] == lost_at
    assert f"laptop 2026-03-01 12:00 {invite[:8]} Anna -" in owner.run("show").lines
    said = owner.run("revoke", "laptop")
    assert "its data folder is to be removed" in said.err
    assert owner.show()["revoked_peers"] == [laptop]


def test_name_that_another_member_has_taken_revokes_nobody(owner: Owner, router: Router) -> None:
    invite = owner.token("--role", "node")["invite"]
    peers = [Identity.generate().peer_id for _ in range(2)]
    rows = [{"peer_id": peer, "name": "laptop", "invite": invite} for peer in peers]
    router.body = {"nodes": [], "lost": [{**row, "lost_at": NOW.isoformat()} for row in rows]}
    owner.run("show", *ROUTER)
    said = owner.run("revoke", "laptop", status=1)
    assert all(peer in said.err for peer in peers)
    owner.run("revoke", peers[0])
    owner.run("revoke", "laptop")
    assert owner.show()["revoked_peers"] == sorted(peers)


def test_members_that_come_and_go_take_no_place_of_those_seen_for_longer(tmp_path: Path) -> None:
    def row(peer: str) -> dict[str, str]:
        return {"peer_id": peer, "name": "\x1b[2J" if peer == "evil" else peer, "invite": "a" * 40}

    note_seen(tmp_path, [row("honest"), row("evil"), {"peer_id": "x" * 999}], NOW)
    note_seen(tmp_path, [row("honest")], NOW + DAY)
    seen = note_seen(tmp_path, [row(str(at)) for at in range(3 * MOST_OF_INVITE)], NOW + 2 * DAY)
    assert len(seen) == MOST_OF_INVITE
    assert seen[PeerId("honest")].last_seen - seen[PeerId("honest")].first_seen == DAY
    assert read_seen(tmp_path) == seen
    assert (tmp_path / SEEN_FILE).stat().st_mode & 0o077 == 0
    (tmp_path / SEEN_FILE).write_text("[{]")
    assert read_seen(tmp_path) == {}
