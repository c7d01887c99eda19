from __future__ import annotations

import ssl
import stat
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from capamesh.protocol.errors import ConfigError, KeyExposed
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import (
    CHAIN_FILE,
    IDENTITY_FILE,
    NETWORK_FILE,
    JoinToken,
    Membership,
    Role,
    tls_context,
)

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Network

SECOND = timedelta(seconds=1)


def pem(*certificates: bytes) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates
    )


def test_joiner_gets_the_tokens_role_network_and_end(home: Network) -> None:
    identity = Identity.generate()
    token = JoinToken.decode(home.router_token.encode(), home.now)
    membership = Membership.join(identity, token, home.now)
    leaf = x509.load_der_x509_certificate(membership.chain[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert membership.identity == identity
    assert membership.role is Role.ROUTER
    assert membership.network_id == home.owner.network_id
    assert membership.expires_at == token.expires_at == leaf.not_valid_after_utc
    assert membership.chain[1] == token.invite_der
    assert list(names) == [
        x509.UniformResourceIdentifier(f"capamesh://{home.owner.network_id}/{identity.peer_id}")
    ]
    assert membership.trust().verify(membership.chain, home.now).peer_id == identity.peer_id


def test_last_second_of_a_token_admits_and_the_next_does_not(home: Network) -> None:
    ends = home.node_token.expires_at
    assert Membership.join(Identity.generate(), home.node_token, ends).expires_at == ends
    with pytest.raises(ConfigError, match=r"the join token expired at .*capamesh network token"):
        Membership.join(Identity.generate(), home.node_token, ends + SECOND)


def test_joiner_whose_clock_is_behind_may_join_within_the_skew_alone(home: Network) -> None:
    Membership.join(Identity.generate(), home.node_token, home.now - timedelta(minutes=20))
    with pytest.raises(ConfigError, match="set this machine's clock"):
        Membership.join(Identity.generate(), home.node_token, home.now - timedelta(minutes=21))


def test_saved_membership_loads_again_and_keeps_no_invite_key(
    home: Network, tmp_path: Path
) -> None:
    folder = tmp_path / "member"
    home.node.save(folder)
    home.node.save(folder)
    assert Membership.load(folder, home.now) == home.node
    assert sorted(path.name for path in folder.iterdir()) == [
        "chain.pem",
        "identity.key",
        "network.pem",
    ]
    assert stat.S_IMODE((folder / IDENTITY_FILE).stat().st_mode) == 0o600
    assert (folder / CHAIN_FILE).read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert b"PRIVATE" not in (folder / CHAIN_FILE).read_bytes()
    assert repr(home.node.identity.private_bytes) not in repr(home.node)
    assert Membership.load(folder, home.node.expires_at) == home.node
    with pytest.raises(ConfigError, match=rf"{folder}: .* expired: .*capamesh network token"):
        Membership.load(folder, home.node.expires_at + SECOND)
    Membership.join(home.node.identity, home.router_token, home.now).save(folder)
    assert Membership.load(folder, home.now).role is Role.ROUTER
    with pytest.raises(ConfigError, match="already holds the identity"):
        home.router.save(folder)
    (folder / IDENTITY_FILE).chmod(0o640)
    with pytest.raises(KeyExposed, match="mode 0640"):
        Membership.load(folder, home.now)


@pytest.mark.parametrize("name", [IDENTITY_FILE, CHAIN_FILE, NETWORK_FILE])
def test_missing_or_garbled_file_is_named(home: Network, tmp_path: Path, name: str) -> None:
    home.node.save(tmp_path)
    (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(ConfigError, match=f"/{name} is (damaged|no unencrypted PEM key)"):
        Membership.load(tmp_path, home.now)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=f"/{name} does not exist"):
        Membership.load(tmp_path, home.now)


def test_files_that_do_not_belong_together_do_not_load(
    home: Network, stranger: Network, tmp_path: Path
) -> None:
    home.node.save(tmp_path)
    leaf, invite = home.node.chain
    for certificates, message in (
        ((leaf,), "it has 1 certificates, not 2"),
        ((leaf, invite, home.owner.ca_der), "malformed: the successor of the owner's key"),
        ((invite, leaf), "not valid: malformed"),
        ((leaf, home.router.chain[1]), "not valid: bad signature"),
        (stranger.node.chain, "not valid: wrong network"),
        (
            home.router.chain,
            f"membership is of {home.router.identity.peer_id}, the identity key of",
        ),
    ):
        (tmp_path / CHAIN_FILE).write_bytes(pem(*certificates))
        with pytest.raises(ConfigError, match=message):
            Membership.load(tmp_path, home.now)
    home.node.save(tmp_path)
    (tmp_path / NETWORK_FILE).write_bytes(pem(stranger.owner.ca_der))
    with pytest.raises(ConfigError, match="not valid: wrong network"):
        Membership.load(tmp_path, home.now)


@pytest.mark.parametrize("server_side", [True, False])
def test_tls_context_takes_members_alone_over_tls_1_3(
    home: Network, tmp_path: Path, server_side: bool
) -> None:
    context = tls_context(home.node, tmp_path, server_side=server_side)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is False
    assert context.minimum_version is context.maximum_version is ssl.TLSVersion.TLSv1_3
    assert context.get_ca_certs(binary_form=True) == [home.owner.ca_der]
    assert Membership.load(tmp_path, home.now) == home.node


def test_tls_context_refuses_a_folder_of_another_membership(home: Network, tmp_path: Path) -> None:
    home.node.save(tmp_path)
    with pytest.raises(ConfigError, match="holds another membership"):
        tls_context(home.router, tmp_path, server_side=True)
    renewed = Membership.join(home.node.identity, home.node_token, home.now)
    with pytest.raises(ConfigError, match="load it again after a change"):
        tls_context(renewed, tmp_path, server_side=False)
