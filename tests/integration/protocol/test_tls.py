"""Real TLS handshakes in memory, where each side's exact verdict can be read; `tests/integration/links` has them on sockets."""

from __future__ import annotations

import dataclasses
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import (
    ALPN,
    CHAIN_FILE,
    IDENTITY_FILE,
    Membership,
    NetworkOwner,
    Role,
    certificates,
    tls_context,
)
from capamesh.protocol.network.tls import show_membership

# OpenSSL compares with the system's clock, so that the times of these tests are relative to it.
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Saved:
    membership: Membership
    folder: Path

    def context(self, *, server_side: bool) -> ssl.SSLContext:
        return tls_context(self.membership, self.folder, server_side=server_side)

    def careless(self, *, server_side: bool) -> ssl.SSLContext:
        """The same certificate, in the hands of one who does not check the other side."""
        context = self.context(server_side=server_side)
        context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True)
class World:
    owner: NetworkOwner
    node: Saved
    router: Saved
    expired: Saved
    stranger: Saved


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    owner, other = NetworkOwner.create("home", NOW - 9 * DAY), NetworkOwner.create("home", NOW)

    def member(network: NetworkOwner, role: Role, now: datetime, lifetime: timedelta) -> Saved:
        token = network.invite(role, expires_at=now + lifetime, bootstrap=(), now=now)
        membership = Membership.join(Identity.generate(), token, now)
        folder = tmp_path_factory.mktemp("member")
        membership.save(folder)
        return Saved(membership, folder)

    return World(
        owner=owner,
        node=member(owner, Role.NODE, NOW, DAY),
        router=member(owner, Role.ROUTER, NOW, DAY),
        expired=member(owner, Role.NODE, NOW - 2 * DAY, DAY),
        stranger=member(other, Role.ROUTER, NOW, DAY),
    )


@dataclass
class Side:
    tls: ssl.SSLObject
    error: ssl.SSLError | None = None
    is_done: bool = False

    def step(self) -> None:
        if self.is_done or self.error is not None:
            return
        try:
            self.tls.do_handshake()
            self.is_done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            self.error = exc


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[Side, Side]:
    """Run both sides of one handshake in memory until nothing moves any more."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_end = Side(server.wrap_bio(to_server, to_client, server_side=True))
    client_end = Side(client.wrap_bio(to_client, to_server, server_side=False))
    for _ in range(6):
        client_end.step()
        server_end.step()
    return server_end, client_end


def test_two_members_accept_each_other_and_see_each_others_leaf(world: World) -> None:
    server, client = handshake(
        world.node.context(server_side=True), world.router.context(server_side=False)
    )
    assert (server.error, client.error) == (None, None)
    assert server.is_done
    assert client.is_done
    for side, other in ((server, world.router), (client, world.node)):
        assert side.tls.version() == "TLSv1.3"
        assert side.tls.selected_alpn_protocol() == ALPN == "capamesh/1"
        leaf = side.tls.getpeercert(binary_form=True)
        assert leaf == other.membership.chain[0]
        member = world.node.membership.trust().verify(other.membership.chain, NOW)
        assert member.peer_id == other.membership.identity.peer_id
    # and the server gives no ticket to resume with
    server.tls.write(b"x")
    assert client.tls.read(1) == b"x"
    assert client.tls.session is not None
    assert not client.tls.session.has_ticket


@pytest.mark.parametrize(
    ("outsider", "message"),
    [
        ("stranger", "unable to get local issuer certificate"),
        ("expired", "certificate has expired"),
    ],
)
def test_outsider_is_refused_by_either_side_for_the_true_reason(
    world: World, outsider: str, message: str
) -> None:
    """The stranger's authority has the same name as ours: its key is what gives it away."""
    guest: Saved = getattr(world, outsider)
    server, _client = handshake(
        world.node.context(server_side=True), guest.careless(server_side=False)
    )
    assert isinstance(server.error, ssl.SSLCertVerificationError)
    assert server.error.verify_message == message
    _server, client = handshake(
        guest.careless(server_side=True), world.node.context(server_side=False)
    )
    assert isinstance(client.error, ssl.SSLCertVerificationError)
    assert client.error.verify_message == message


def test_openssl_too_refuses_a_leaf_that_a_leaf_signed(world: World, tmp_path: Path) -> None:
    forged = Identity.generate()
    leaf = certificates.issue_leaf(
        world.node.membership.identity.private_key,
        x509.load_der_x509_certificate(world.node.membership.chain[0]),
        forged.private_key.public_key(),
        network_id=world.owner.network_id,
        peer_id=forged.peer_id,
    )
    forged.save(tmp_path / IDENTITY_FILE)
    (tmp_path / CHAIN_FILE).write_bytes(
        b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
            for der in (leaf, *world.node.membership.chain)
        )
    )
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.load_cert_chain(tmp_path / CHAIN_FILE, tmp_path / IDENTITY_FILE)
    server, _client = handshake(world.node.context(server_side=True), client)
    assert isinstance(server.error, ssl.SSLCertVerificationError)
    assert server.error.verify_message in {
        "invalid CA certificate",
        "path length constraint exceeded",
    }


@pytest.fixture(scope="module")
def by_new_key(world: World, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A router that the network's second owner's key admitted."""
    owner = world.owner.rotated(NOW)
    token = owner.invite(Role.ROUTER, expires_at=NOW + DAY, bootstrap=(), now=NOW)
    saved = Saved(
        Membership.join(Identity.generate(), token, NOW), tmp_path_factory.mktemp("member")
    )
    saved.membership.save(saved.folder)
    return saved


@pytest.mark.parametrize("is_new_serving", [True, False])
def test_members_of_an_old_and_a_new_owners_key_accept_each_other(
    world: World, by_new_key: Saved, is_new_serving: bool
) -> None:
    sides = (by_new_key, world.node) if is_new_serving else (world.node, by_new_key)
    server, client = handshake(
        sides[0].context(server_side=True), sides[1].context(server_side=False)
    )
    assert (server.error, client.error) == (None, None)
    assert server.tls.getpeercert(binary_form=True) == sides[1].membership.chain[0]
    assert client.tls.getpeercert(binary_form=True) == sides[0].membership.chain[0]
    for other in (world.stranger, world.expired):
        server, _ = handshake(
            by_new_key.context(server_side=True), other.careless(server_side=False)
        )
        assert isinstance(server.error, ssl.SSLCertVerificationError)


def test_renewed_membership_is_shown_to_whoever_comes_next(world: World, tmp_path: Path) -> None:
    def joined() -> Membership:
        token = world.owner.invite(Role.NODE, expires_at=NOW + DAY, bootstrap=(), now=NOW)
        membership = Membership.join(identity, token, NOW)
        membership.save(tmp_path)
        return membership

    identity = Identity.generate()
    first = joined()
    serving = tls_context(first, tmp_path, server_side=True)
    dialling = world.router.context(server_side=False)
    _, open_before = handshake(serving, dialling)
    second = joined()
    for file in tmp_path.iterdir():  # it needs none
        file.unlink()
    show_membership(serving, second)
    _, after = handshake(serving, dialling)
    assert open_before.tls.getpeercert(binary_form=True) == first.chain[0]
    assert after.tls.getpeercert(binary_form=True) == second.chain[0]
    broken = dataclasses.replace(second, chain=world.router.membership.chain)
    with pytest.raises(ConfigError, match="cannot be used for links"):
        show_membership(serving, broken)
