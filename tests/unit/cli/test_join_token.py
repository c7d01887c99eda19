"""The token that `capamesh up` prints for other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from capamesh.cli.__main__ import run
from capamesh.cli.cluster_session import joining_lines
from capamesh.cli.local_cluster import JOINING, JOINING_LABEL, OWNER_FOLDER, LocalCluster
from capamesh.protocol.advertised_address import dialled_multiaddr
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network.book import Invited, read_book

ADDRESS = "/ip4/10.0.0.5/tcp/4001/p2p/12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    monkeypatch.setattr(LocalCluster, "_mesh_addresses", lambda _: (ADDRESS,))
    return LocalCluster(tmp_path, tmp_path / "models")


def invites(cluster: LocalCluster) -> tuple[Invited, ...]:
    return read_book(cluster.folder / OWNER_FOLDER).invites


def owner_does(cluster: LocalCluster, *words: str) -> None:
    assert run(["network", words[0], "--dir", str(cluster.folder / OWNER_FOLDER), *words[1:]]) == 0


def test_token_is_that_of_before_and_once_in_the_owner_s_book(cluster: LocalCluster) -> None:
    token = cluster.join_token()
    assert cluster.join_token() == token
    (entry,) = invites(cluster)
    assert (entry.label, entry.members, entry.addresses) == (JOINING_LABEL, JOINING, (ADDRESS,))
    assert (entry.role, entry.expires_at) == ("node", token.expires_at)


def test_token_whose_invite_was_revoked_is_not_given_out_again(cluster: LocalCluster) -> None:
    token = cluster.join_token()
    owner_does(cluster, "revoke", invites(cluster)[0].invite)
    other = cluster.join_token()
    assert other != token
    assert cluster.join_token() == other
    assert len(invites(cluster)) == 2


def test_token_of_a_key_that_was_retired_is_not_given_out_again(cluster: LocalCluster) -> None:
    token = cluster.join_token()
    owner_does(cluster, "rotate-key")
    assert cluster.join_token() == token
    owner_does(cluster, "rotate-key", "--retire")
    other = cluster.join_token()
    assert other != token
    assert [entry.key for entry in invites(cluster)] == [0, 1]


def test_tokens_of_this_machines_members_are_in_the_owner_s_book(cluster: LocalCluster) -> None:
    token = cluster._node_token()
    file = cluster._token_file("node-1", token)
    assert file.read_text() == f"{token.encode()}\n"
    (entry,) = invites(cluster)
    assert (entry.label, entry.role, entry.expires_at) == (
        "node-1 of this machine",
        "node",
        token.expires_at,
    )


@pytest.mark.parametrize(
    ("host", "is_warned"),
    [("10.0.0.5", False), ("gpu.example.org", False), ("127.0.0.1", True), ("::1", True)],
)
def test_line_for_other_machines_warns_of_an_address_that_none_of_them_reaches(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, host: str, is_warned: bool
) -> None:
    peer = ADDRESS.rpartition("/")[2]
    monkeypatch.setattr(
        LocalCluster, "_mesh_addresses", lambda _: (dialled_multiaddr(host, 4001, PeerId(peer)),)
    )
    token = cluster.join_token()
    line, *warning = joining_lines(token)
    assert line == f"  capamesh join {token.encode()}"
    assert len(warning) == is_warned
    if warning:
        assert f"reaches this one at {host}, " in warning[0]
        assert "--advertise ADDRESS" in warning[0]
