"""What a network's owner does over the years: renew tokens, change keys, retire them."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from capamesh.cli.__main__ import run
from capamesh.protocol.errors import NotMember
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import (
    JoinToken,
    Membership,
    NetworkOwner,
    RevocationList,
    Role,
)

ADDRESS = "/ip4/10.0.0.5/tcp/4001/p2p/12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["network", "create", "home", "--dir", str(tmp_path / "owner")]) == 0
    capsys.readouterr()
    return tmp_path / "owner"


def test_renewed_token_has_the_role_the_addresses_and_the_life_of_the_one_in_its_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = dt.datetime.now(dt.UTC)
    owner = NetworkOwner.load(folder)
    long_ago = now - dt.timedelta(days=50)
    old = owner.invite(
        Role.NODE,
        expires_at=long_ago + dt.timedelta(days=8),
        bootstrap=(ADDRESS,),
        now=long_ago,
    )
    file = tmp_path / "node.token"
    file.write_text(old.encode() + "\n")
    line = ["network", "token", "--dir", str(folder), "--renew", str(file)]
    assert run([*line, "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert "token" not in reported
    assert reported["bootstrap"] == [ADDRESS]
    new = JoinToken.decode(file.read_text(), now)
    assert (new.role, new.bootstrap) == (Role.NODE, (ADDRESS,))
    assert abs(new.expires_at - now - dt.timedelta(days=8)) < dt.timedelta(minutes=1)
    assert file.stat().st_mode & 0o777 == 0o600
    assert run([*line, "--expires", "2d"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert file.read_text().strip() not in shown.err
    again = JoinToken.decode(file.read_text(), now)
    assert abs(again.expires_at - now - dt.timedelta(days=2)) < dt.timedelta(minutes=1)


def test_token_that_is_broken_or_of_another_network_or_role_is_not_renewed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    run(["network", "create", "home", "--dir", str(other)])
    capsys.readouterr()
    run(["network", "token", "--role", "node", "--dir", str(other)])
    file = tmp_path / "token"
    file.write_text(capsys.readouterr().out)
    kept = file.read_bytes()
    line = ["network", "token", "--dir", str(folder), "--renew", str(file)]
    assert run(line) == 1
    assert "admits to the network cm-" in capsys.readouterr().err
    assert run([*line, "--role", "router"]) == 1
    assert "admits a node, not a router: leave --role out" in capsys.readouterr().err
    assert file.read_bytes() == kept
    file.write_text("junk")
    assert run(line) == 1
    assert "this is no join token" in capsys.readouterr().err


def test_changed_key_admits_beside_the_old_one_until_that_is_retired(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = dt.datetime.now(dt.UTC)

    def admitted() -> Membership:
        assert run(["network", "token", "--role", "node", "--dir", str(folder)]) == 0
        token = JoinToken.decode(capsys.readouterr().out, now)
        return Membership.join(Identity.generate(), token, now)

    first_id = NetworkOwner.load(folder).network_id
    old = admitted()
    assert run(["network", "rotate-key", "--retire", "--dir", str(folder)]) == 1
    assert "has its first key: make the next one" in capsys.readouterr().err
    assert run(["network", "rotate-key", "--dir", str(folder), "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert (
        reported["network_id"],
        reported["key"],
        reported["oldest_key"],
        reported["version"],
    ) == (
        first_id,
        2,
        1,
        1,
    )
    assert reported["old_key_file"] == str(folder / "owner.key.1")
    new = admitted()
    trust = old.trust()
    assert trust.verify(new.chain, now).role is Role.NODE
    assert new.trust().verify(old.chain, now).role is Role.NODE
    assert run(["network", "rotate-key", "--retire", "--dir", str(folder)]) == 0
    trust.update(RevocationList.load(folder, old.ca_der))
    assert trust.verify(new.chain, now).role is Role.NODE
    with pytest.raises(NotMember, match=r"^retired owner key"):
        trust.verify(old.chain, now)
    # and revoking goes on by the new key
    assert run(["network", "revoke", new.identity.peer_id, "--dir", str(folder)]) == 0
    assert trust.update(RevocationList.load(folder, old.ca_der))
    with pytest.raises(NotMember, match=r"^revoked peer"):
        trust.verify(new.chain, now)
