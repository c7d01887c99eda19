"""Who is a member: chains of certificates, whom they must be from, and an owner's key that is changed."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError, NotMember, ProtocolViolation
from capamesh.protocol.identity import Identity, load_private_key
from capamesh.protocol.ids import NetworkId, PeerId
from capamesh.protocol.network import (
    CLOCK_SKEW,
    MAX_CERTIFICATE_BYTES,
    JoinToken,
    Member,
    Membership,
    NetworkOwner,
    NetworkTrust,
    RevocationList,
    Role,
    certificates,
    revocation,
    trust,
)
from capamesh.protocol.network.authority import (
    MAX_SUCCESSORS,
    own_authority,
    split_certificates,
)

if TYPE_CHECKING:
    from .conftest import Network

Change = Callable[[x509.CertificateBuilder], object]

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


def certificate(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def key_of(raw: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(raw)


def no_list(home: Network) -> RevocationList:
    return RevocationList.empty(home.owner.network_id)


def like(template: bytes, **others: Any) -> x509.CertificateBuilder:
    """Return the builder of a certificate with another's fields, but for `others`."""
    old = certificate(template)
    builder = (
        x509.CertificateBuilder()
        .subject_name(others.get("subject", old.subject))
        .issuer_name(others.get("issuer", old.issuer))
        .public_key(others.get("public_key", old.public_key()))
        .serial_number(old.serial_number)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(others.get("ends", old.not_valid_after_utc))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder


def leaf_with(home: Network, change: Change = lambda _: None, **others: Any) -> bytes:
    """Return a leaf like the node's own, signed with the true invite key, but for what is changed."""
    builder = like(home.node.chain[0], **others)
    change(builder)
    key = key_of(home.node_token.invite_key)
    return builder.sign(key, None).public_bytes(Encoding.DER)


def without(kind: type[x509.ExtensionType], *instead: x509.ExtensionType) -> Change:
    def change(builder: x509.CertificateBuilder) -> None:
        kept = [each for each in builder._extensions if each.oid != kind.oid]
        builder._extensions = kept + [
            x509.Extension(each.oid, critical=False, value=each) for each in instead
        ]

    return change


def replacing(extension: x509.ExtensionType) -> Change:
    return without(type(extension), extension)


def adding(*, critical: bool) -> Change:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")

    def change(builder: x509.CertificateBuilder) -> None:
        extension = x509.Extension(unknown.oid, critical=critical, value=unknown)
        builder._extensions = [*builder._extensions, extension]

    return change


def name_of(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(*part) for part in parts])


# members, and those whom the owner has shut out


def test_members_chain_yields_who_it_is(home: Network) -> None:
    judge = home.node.trust()
    assert judge.verify(home.node.chain, home.now) == Member(
        peer_id=home.node.identity.peer_id,
        role=Role.NODE,
        invite_serial=f"{certificate(home.node.chain[1]).serial_number:040x}",
        starts_at=home.now,
        expires_at=home.now + timedelta(days=30),
    )
    public = home.owner.private_key.public_key().public_bytes_raw()
    assert home.owner.network_id == f"cm-{hashlib.sha256(public).hexdigest()[:32]}"
    assert judge.verify(home.router.chain, home.now, role=Role.ROUTER).role is Role.ROUTER
    with pytest.raises(NotMember, match=r"^wrong role: 12D3KooW\w+ is a node, a router is needed"):
        judge.verify(list(home.node.chain), home.now, role=Role.ROUTER)


def test_revoked_peer_or_invite_is_out_at_once_and_the_others_stay(home: Network) -> None:
    judge, second = (
        home.node.trust(),
        Membership.join(Identity.generate(), home.node_token, home.now),
    )
    serial = judge.verify(second.chain, home.now).invite_serial
    judge.verify(home.node.chain, home.now)  # and is remembered
    later = judge.with_revocations(home.owner.revoke(no_list(home), invites=[serial], now=home.now))
    for membership in (home.node, second):
        with pytest.raises(NotMember, match=f"^revoked invite: .* came with {serial}"):
            later.verify(membership.chain, home.now)
        assert judge.verify(membership.chain, home.now)
    assert later.verify(home.router.chain, home.now)
    peers = [home.node.identity.peer_id]
    assert judge.update(home.owner.revoke(no_list(home), peers=peers, now=home.now))
    with pytest.raises(NotMember, match=r"^revoked peer: node 12D3KooW\w+, by list version 1"):
        judge.verify(home.node.chain, home.now)
    assert judge.verify(home.router.chain, home.now).role is Role.ROUTER


def test_older_or_equal_list_changes_nothing_and_a_foreign_or_forged_one_is_refused(
    home: Network, stranger: Network
) -> None:
    first = home.owner.revoke(no_list(home), peers=[home.node.identity.peer_id], now=home.now)
    second = home.owner.revoke(first, peers=[home.router.identity.peer_id], now=home.now)
    judge = NetworkTrust(home.owner.ca_der, second)
    assert not any(judge.update(each) for each in (first, second, no_list(home)))
    for bad, said in (
        (stranger.owner.revoke(no_list(stranger), now=home.now), "is of cm-.*, not of"),
        (dataclasses.replace(second, version=9), "version 9, is not signed by the owner"),
    ):
        with pytest.raises(ConfigError, match=said):
            judge.update(bad)
    assert judge.revocations == second


def test_remembered_chains_are_bounded(home: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MAX_REMEMBERED", 2)
    judge = home.node.trust()
    for _ in range(5):
        other = Membership.join(Identity.generate(), home.node_token, home.now)
        judge.verify(other.chain, home.now)
    assert repr(judge).endswith("revocations version 0, 2 chains remembered)")


def test_chain_is_valid_from_ten_minutes_before_its_start_to_its_last_second(home: Network) -> None:
    judge = home.node.trust()
    starts = certificate(home.node.chain[0]).not_valid_before_utc
    assert starts == home.now - CLOCK_SKEW
    assert judge.verify(home.node.chain, starts - 10 * MINUTE)
    with pytest.raises(NotMember, match=r"^not yet valid: .*0:10:00 of difference are allowed"):
        judge.verify(home.node.chain, starts - 10 * MINUTE - SECOND)
    ends = home.node.expires_at
    assert judge.verify(home.node.chain, ends.astimezone(timezone(timedelta(hours=9))))
    over = r"^expired: node 12D3KooW\w+ was a member until 2027-03-31T12"
    with pytest.raises(NotMember, match=over):
        judge.verify(home.node.chain, ends + SECOND)
    # whatever a leaf says, it ends with its invite
    chain = (leaf_with(home, ends=datetime(2100, 1, 1)), home.node.chain[1])  # noqa: DTZ001 - naive UTC, as certificates have it
    assert judge.verify(chain, home.now).expires_at == ends
    with pytest.raises(NotMember, match=r"^expired"):
        judge.verify(chain, ends + SECOND)


# certificates of another shape


def uris(*texts: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(text) for text in texts])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replacing(x509.BasicConstraints(True, 0)), "made to sign certificates"),
        (without(x509.BasicConstraints), "made to sign certificates"),
        (replacing(certificates._key_usage(is_authority=True)), "made to sign certificates"),
        (without(x509.KeyUsage), "made to sign certificates"),
        (without(x509.ExtendedKeyUsage), "lacks server or client use"),
        (
            replacing(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])),
            "lacks server or client use",
        ),
        (without(x509.SubjectAlternativeName), "exactly one URI"),
        (replacing(uris()), "exactly one URI"),
        (replacing(x509.SubjectAlternativeName([x509.DNSName("a")])), "exactly one URI"),
        (replacing(uris("a:b", "c:d")), "exactly one URI"),
        (adding(critical=True), "critical extension 1.2.3.4"),
    ],
)
def test_leaf_of_another_shape_is_refused(home: Network, change: Change, message: str) -> None:
    leaf = leaf_with(home, change)
    with pytest.raises(NotMember, match=f"^malformed: the leaf .*{message}"):
        home.node.trust().verify((leaf, home.node.chain[1]), home.now)


def test_leaf_that_the_token_s_holder_made_otherwise_is_refused(home: Network) -> None:
    judge, invite = home.node.trust(), home.node.chain[1]
    router = name_of(
        (NameOID.ORGANIZATION_NAME, home.owner.network_id),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "router"),
        (NameOID.COMMON_NAME, home.node.identity.peer_id),
    )
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    for leaf, said in (
        (leaf_with(home, public_key=curve), r"has a key of kind \w+, not Ed25519"),
        (leaf_with(home, subject=router), "has the subject .*OU=router"),
        (unused_bits(home), "is not signed as Ed25519"),
    ):
        with pytest.raises(NotMember, match=rf"^malformed: the leaf {said}"):
            judge.verify((leaf, invite), home.now)
    leaf = leaf_with(home, adding(critical=False))
    assert judge.verify((leaf, invite), home.now).role is Role.NODE


def unused_bits(home: Network) -> bytes:
    """Return a leaf in other bytes: half of all signatures end in a zero bit, which a bit string may call unused."""
    leaf = bytearray(home.node.chain[0])
    while leaf[-1] & 1:
        leaf = bytearray(Membership.join(Identity.generate(), home.node_token, home.now).chain[0])
    leaf[-65] = 1
    return bytes(leaf)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"role": "admin"}, "wrong role: the invite admits as 'admin'"),
        ({"serial": "00"}, "malformed: the invite calls itself"),
        ({"path_length": 1}, "malformed: the invite is no authority of path length 0"),
        ({"path_length": None}, "malformed: the invite is no authority of path length 0"),
        ({"usage": False}, "malformed: the invite is not made to sign certificates"),
        ({"extra": True}, "malformed: the invite has the subject"),
    ],
)
def test_invite_of_another_shape_is_refused_even_from_the_owner(
    home: Network, change: dict[str, Any], reason: str
) -> None:
    key, serial = Ed25519PrivateKey.generate(), x509.random_serial_number()
    subject = name_of(
        (NameOID.ORGANIZATION_NAME, home.owner.network_id),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, change.get("role", "node")),
        (NameOID.COMMON_NAME, change.get("serial", f"{serial:040x}")),
        *[(NameOID.ORGANIZATIONAL_UNIT_NAME, "router")] * ("extra" in change),
    )
    issuer = own_authority(home.owner.ca_der).certificate.subject
    usage = certificates._key_usage(is_authority=change.get("usage", True))
    constraints = x509.BasicConstraints(True, change.get("path_length", 0))
    invite = (
        certificates._builder(subject, key.public_key(), issuer, serial)
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=True)
        .not_valid_before(home.now)
        .not_valid_after(home.now + MINUTE)
        .sign(home.owner.private_key, None)
        .public_bytes(Encoding.DER)
    )
    leaf = leaf_by(key, invite, Identity.generate(), home.owner.network_id)
    with pytest.raises(NotMember, match=f"^{reason}"):
        home.node.trust().verify((leaf, invite), home.now)


def test_trust_in_what_is_no_authority_is_a_config_error(home: Network) -> None:
    ca = home.owner.ca_der
    for der, message in (
        *[(junk, "network's certificate is not usable: malformed") for junk in (b"", b"x", None)],
        (home.node.chain[0], "is no authority of path length 1"),
        (home.node.chain[1], "is no authority of path length 1"),
        (ca[:-1] + bytes([ca[-1] ^ 1]), "bad signature: the network's certificate"),
    ):
        with pytest.raises(ConfigError, match=message):
            NetworkTrust(der)  # type: ignore[arg-type]  # None is no authority either


# chains that the owner did not make


def leaf_by(
    key: Ed25519PrivateKey, issuer: bytes, identity: Identity, network: str, peer: str = ""
) -> bytes:
    public, peer_id = identity.private_key.public_key(), PeerId(peer or identity.peer_id)
    by = certificate(issuer)
    return certificates.issue_leaf(key, by, public, network_id=NetworkId(network), peer_id=peer_id)


def forged_invite(
    home: Network, issuer_key: Ed25519PrivateKey, issuer: bytes
) -> tuple[bytes, bytes]:
    """Return the chain of a member that another issuer's invite admits; its fields are a true invite's."""
    key = Ed25519PrivateKey.generate()
    builder = like(
        home.router.chain[1], issuer=certificate(issuer).subject, public_key=key.public_key()
    )
    invite = builder.sign(issuer_key, None).public_bytes(Encoding.DER)
    return leaf_by(key, invite, Identity.generate(), home.owner.network_id), invite


def self_made(home: Network) -> tuple[bytes, bytes]:
    """Return the chain of an authority that calls itself as the network's owner does."""
    key = Ed25519PrivateKey.generate()
    return forged_invite(home, key, certificates.issue_authority(key, "home", home.now))


def promoted(home: Network) -> tuple[bytes, bytes]:
    """Return the chain of an invite that another invite's holder made."""
    return forged_invite(home, key_of(home.node_token.invite_key), home.node.chain[1])


def by_member(home: Network) -> bytes:
    """Return a leaf that a member signed."""
    key, network = home.node.identity.private_key, home.owner.network_id
    return leaf_by(key, home.node.chain[0], Identity.generate(), network)


def by_token(home: Network, network: str, peer: str = "") -> bytes:
    """Return a leaf that the holder of the node's token signed."""
    key, issuer = key_of(home.node_token.invite_key), home.node_token.invite_der
    return leaf_by(key, issuer, home.node.identity, network, peer)


def chains(home: Network, other: Network) -> list[tuple[object, str]]:
    """Return chains that are none, each with why."""
    leaf, invite = home.node.chain
    long = f"malformed: .*has {MAX_CERTIFICATE_BYTES + 1} bytes, at most {MAX_CERTIFICATE_BYTES}"
    network, router = home.owner.network_id, home.router.identity.peer_id
    return [
        (other.node.chain, "wrong network: the invite is of 'cm-"),
        ((other.node.chain[0], invite), "bad signature: the leaf"),
        ((leaf, other.node.chain[1]), "wrong network"),
        ((leaf, home.router.chain[1]), "bad signature: the leaf"),
        (self_made(home), "bad signature: the invite"),
        (promoted(home), "bad signature: the invite"),
        ((by_member(home), leaf), "malformed: the invite is no authority of path length 0"),
        ((by_member(home), invite), "bad signature: the leaf"),
        ((by_member(home), leaf, invite), "malformed: the successor of the owner's"),
        ((leaf, home.owner.ca_der), "malformed: the invite is no authority"),
        ((invite, invite), "malformed: the leaf is made to sign certificates"),
        ((by_token(home, other.owner.network_id), invite), "wrong network: the leaf is for"),
        ((by_token(home, network, router), invite), "peer id does not match key: the leaf is for"),
        ((leaf.ljust(MAX_CERTIFICATE_BYTES + 1, b"\0"), invite), long),
        ((leaf, invite.ljust(MAX_CERTIFICATE_BYTES + 1, b"\0")), long),
        ((leaf + invite[:1], invite[1:]), "malformed"),
        *[
            (junk, "malformed: ")
            for junk in ((), (b"", b""), (b"", b"", b""), b"ab", "ab", 7, {}, ("a", "b"), [[], []])
        ],
    ]


@pytest.mark.parametrize("at", range(25))
def test_chain_that_the_owner_did_not_make_so_is_refused(
    home: Network, stranger: Network, at: int
) -> None:
    judge, refused = home.node.trust(), chains(home, stranger)
    assert len(refused) == 25
    chain, reason = refused[at]
    judge.verify(home.node.chain, home.now)  # and remembers it
    with pytest.raises(NotMember, match=f"^{reason}"):
        judge.verify(chain, home.now)


@settings(max_examples=60)
@given(st.data())
def test_leaf_that_a_token_holder_garbles_before_signing_is_refused_or_is_itself(
    home: Network, data: st.DataObject
) -> None:
    """An invite's holder signs what it likes: the signed part is garbled and signed again."""
    original = certificate(home.node.chain[0])
    signed = bytearray(original.tbs_certificate_bytes)
    for _ in range(data.draw(st.integers(1, 3))):
        signed[data.draw(st.integers(4, len(signed) - 1))] ^= data.draw(st.integers(1, 255))
    der = bytearray(home.node.chain[0])
    der[4 : 4 + len(signed)] = signed
    der[-64:] = key_of(home.node_token.invite_key).sign(bytes(signed))
    try:
        member = home.node.trust().verify((bytes(der), home.node.chain[1]), home.now)
    except NotMember:
        return
    assert (member.role, member.peer_id) == (Role.NODE, home.node.identity.peer_id)
    assert certificate(bytes(der)).public_key() == original.public_key()


@settings(max_examples=100)
@given(st.data())
def test_garbled_chain_is_never_a_member(home: Network, data: st.DataObject) -> None:
    chain = [bytearray(der) for der in home.node.chain]
    for _ in range(data.draw(st.integers(1, 4))):
        der = chain[data.draw(st.integers(0, 1))]
        der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del chain[0][data.draw(st.integers(0, len(chain[0]) - 1)) :]
    changed = tuple(bytes(der) for der in chain)
    if changed != home.node.chain:
        with pytest.raises(NotMember):
            home.node.trust().verify(changed, home.now)


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_every_bit_of_both_certificates_counts(home: Network, step: int) -> None:
    judge = home.node.trust()
    for which in (0, 1):
        for index in range(len(home.node.chain[which])):
            for bit in range(index % step, 8, step):
                chain = [bytearray(der) for der in home.node.chain]
                chain[which][index] ^= 1 << bit
                with pytest.raises(NotMember):
                    judge.verify([bytes(der) for der in chain], home.now)


# an owner's key that is changed: old and new members take each other, until the old key is retired


@dataclasses.dataclass(frozen=True)
class Rotated:
    """A network whose owner's key was changed once."""

    owner: NetworkOwner
    router: Membership
    reported: RevocationList
    """Tells of the new key."""
    retired: RevocationList
    """Shuts out whoever the first key admitted."""


def invited(owner: NetworkOwner, now: datetime, role: Role = Role.ROUTER) -> Membership:
    made = owner.invite(role, expires_at=now + timedelta(days=60), bootstrap=(), now=now)
    token = JoinToken.decode(made.encode(), now)
    return Membership.join(Identity.generate(), token, now)


def rotated(home: Network) -> Rotated:
    new = home.owner.rotated(home.now)
    reported = new.revoke(no_list(home), now=home.now)
    retired = new.revoke(reported, is_retiring=True, now=home.now)
    return Rotated(new, invited(new, home.now), reported, retired)


@pytest.fixture(scope="session")
def later(home: Network) -> Rotated:
    return rotated(home)


def test_members_of_both_keys_take_each_other_though_nobody_was_reported(
    home: Network, later: Rotated, tmp_path: Path
) -> None:
    assert (later.router.network_id, later.owner.name) == (home.owner.network_id, home.owner.name)
    for mine, other in ((home.node, later.router), (later.router, home.node)):
        found = mine.trust().verify(other.chain, home.now)
        assert found.peer_id == other.identity.peer_id
    later.router.save(tmp_path)
    loaded = Membership.load(tmp_path, home.now)
    assert (loaded.chain, loaded.ca_der) == (later.router.chain, later.router.ca_der)


def test_member_that_knows_the_successor_needs_none_in_a_chain_and_takes_no_retired_key(
    home: Network, later: Rotated
) -> None:
    judge = home.node.trust()
    with pytest.raises(NotMember, match=r"^bad signature: the invite"):
        judge.verify(later.router.chain[:2], home.now)
    assert judge.update(later.reported)
    for knowing in (judge, NetworkTrust(home.owner.ca_der, later.reported)):
        assert knowing.verify(later.router.chain[:2], home.now).role is Role.ROUTER
    assert judge.verify(later.router.chain, home.now).role is Role.ROUTER
    assert judge.verify(home.node.chain, home.now).role is Role.NODE  # and it is remembered
    assert judge.update(later.retired)
    with pytest.raises(NotMember, match=r"^retired owner key: node 12D3.* the owner's key 1"):
        judge.verify(home.node.chain, home.now)
    assert judge.verify(later.router.chain, home.now).role is Role.ROUTER


def test_member_that_heard_of_one_successor_takes_no_other(home: Network, later: Rotated) -> None:
    """The holder of the old key cannot hand the network to somebody else a second time."""
    fork = rotated(home)
    judge = home.node.trust()
    assert judge.verify(fork.router.chain, home.now).role is Role.ROUTER  # remembered, not learned
    judge.update(later.reported)
    for chain in (fork.router.chain, list(fork.router.chain)):
        with pytest.raises(NotMember, match=r"^wrong owner key: router"):
            judge.verify(chain, home.now)
    for list_ in (fork.reported, fork.retired):
        with pytest.raises(ConfigError, match="another owner's key than ours"):
            judge.update(list_)
    assert judge.revocations == later.reported


def test_lists_of_an_earlier_key_replace_none_of_a_later_one(home: Network, later: Rotated) -> None:
    judge, old = home.node.trust(), no_list(home)
    judge.update(later.reported)
    for _ in range(5):
        old = home.owner.revoke(old, peers=[later.router.identity.peer_id], now=home.now)
    assert old.version > later.reported.version
    assert RevocationList.decode(old.encode(), later.owner.ca_der) == old
    assert not judge.update(old)
    assert judge.verify(later.router.chain, home.now).role is Role.ROUTER


def test_list_of_a_new_key_comes_back_from_its_bytes_and_keeps_what_was_revoked(
    home: Network, later: Rotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = home.router.identity.peer_id
    first = home.owner.revoke(no_list(home), peers=[peer], now=home.now)
    second = later.owner.revoke(first, is_retiring=True, now=home.now)
    assert (second.version, second.peers, second.oldest_key) == (2, {peer}, 1)
    for ca_der in (home.owner.ca_der, later.owner.ca_der):
        assert RevocationList.decode(second.encode(), ca_der) == second
    assert later.owner.revoke(second, now=home.now).oldest_key == 1  # what is retired stays so
    # one at the limit is read by members, and one above it is not signed
    size = len(second.encode())
    monkeypatch.setattr(revocation, "MAX_LIST_BYTES", size)
    again = later.owner.revoke(first, is_retiring=True, now=home.now)
    assert RevocationList.decode(again.encode(), home.owner.ca_der) == again
    monkeypatch.setattr(revocation, "MAX_LIST_BYTES", size - 1)
    with pytest.raises(ConfigError, match=f"the revocation list would have {size} bytes"):
        later.owner.revoke(first, is_retiring=True, now=home.now)


def test_successor_is_named_by_the_owners_key_only(home: Network, stranger: Network) -> None:
    authority, network = own_authority(home.owner.ca_der).certificate, home.owner.network_id
    key = Ed25519PrivateKey.generate()
    for signer in (stranger.owner.private_key, key):
        forged = certificates.issue_successor(signer, authority, key.public_key(), home.now)
        invite_key = Ed25519PrivateKey.generate()
        invite = certificates.issue_invite(
            key,
            certificate(forged),
            invite_key.public_key(),
            Role.NODE,
            network_id=network,
            now=home.now,
            expires_at=home.now + timedelta(days=1),
        )
        leaf = leaf_by(invite_key, invite, Identity.generate(), network)
        with pytest.raises(NotMember, match=r"^bad signature: the successor"):
            home.node.trust().verify((leaf, invite, forged), home.now)
    with pytest.raises(NotMember, match=r"^bad signature: the successor"):
        home.node.trust().verify(rotated(stranger).router.chain, home.now)
    with pytest.raises(NotMember, match=r"^malformed: the successor"):
        home.node.trust().verify((*home.router.chain, home.router.chain[1]), home.now)


def test_keys_are_changed_again_and_again_up_to_a_limit(home: Network) -> None:
    owner = home.owner
    for _ in range(MAX_SUCCESSORS):
        owner = owner.rotated(home.now)
    assert len(own_authority(owner.ca_der).successors) == MAX_SUCCESSORS
    with pytest.raises(ConfigError, match=f"changed {MAX_SUCCESSORS} times, the limit"):
        owner.rotated(home.now)
    member = invited(owner, home.now, Role.NODE)
    judge = home.node.trust()
    assert judge.verify(member.chain, home.now).role is Role.NODE
    list_ = owner.revoke(no_list(home), is_retiring=True, now=home.now)
    assert judge.update(RevocationList.decode(list_.encode(), home.owner.ca_der))
    assert judge.verify(member.chain, home.now).role is Role.NODE
    with pytest.raises(NotMember, match=r"^retired owner key"):
        judge.verify(home.router.chain, home.now)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_garbled_or_cut_short_is_taken_of_a_list_or_chain_with_successors(
    home: Network, later: Rotated, data: st.DataObject
) -> None:
    raw = bytearray(later.retired.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    cut = bytes(raw[:at])
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    others = [
        dataclasses.replace(later.retired, successors=successors).encode()
        for successors in ((), later.retired.successors * 2)
    ]
    for wrong in (bytes(raw), cut, *others):
        with pytest.raises(ProtocolViolation):
            RevocationList.decode(wrong, home.owner.ca_der)
    chain = [bytearray(part) for part in later.router.chain]
    part = chain[data.draw(st.integers(0, 2))]
    part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(NotMember):
        home.node.trust().verify([bytes(each) for each in chain], home.now)


# the files of a key that is changed


def raw_key(path: Path) -> bytes:
    return load_private_key(path, "it").private_bytes_raw()


def test_owner_that_is_changed_leaves_the_old_key_beside_the_new_one(
    tmp_path: Path, home: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    for folder in (tmp_path / "plain", tmp_path / "without hard links"):
        home.owner.save(folder)
        with pytest.raises(ConfigError, match="already holds another network's owner"):
            NetworkOwner.create("other", home.now).save(folder)
        new = NetworkOwner.load(folder).rotated(home.now)
        for _ in range(2):  # again changes nothing
            assert new.save_rotated(folder) == folder / "owner.key.1"
            assert NetworkOwner.load(folder) == new
            assert raw_key(folder / "owner.key.1") == home.owner.private_key.private_bytes_raw()
        files = {path.name for path in folder.iterdir()}
        assert files == {"network.pem", "owner.key", "owner.key.1"}
        monkeypatch.setattr(Path, "hardlink_to", refused)


def cut_off_after(renames: int, patch: pytest.MonkeyPatch) -> None:
    """Let so many files be put in place, and no more."""
    left = [renames]
    replace = Path.replace

    def limited(path: Path, target: Path) -> Path:
        if not left[0]:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        return replace(path, target)

    patch.setattr(Path, "replace", limited)


@pytest.mark.parametrize("second", range(4))
@pytest.mark.parametrize("first", range(4))
def test_no_owner_is_lost_wherever_changes_of_its_key_are_cut_off(
    tmp_path: Path, home: Network, monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    home.owner.save(tmp_path)
    may_be = [home.owner]
    for renames in (first, second):
        owner = NetworkOwner.load(tmp_path)
        new = owner.rotated(home.now)
        with monkeypatch.context() as patch:
            cut_off_after(renames, patch)
            with pytest.raises(ConfigError, match="No space left"):
                new.save_rotated(tmp_path)
        may_be += [new]
        there = NetworkOwner.load(tmp_path)
        assert there in (owner, new)
        keys = {each.private_key.private_bytes_raw() for each in may_be}
        assert there.private_key.private_bytes_raw() in keys
    last = NetworkOwner.load(tmp_path)
    newest = last.rotated(home.now)
    newest.save_rotated(tmp_path)
    assert NetworkOwner.load(tmp_path) == newest
    kept = raw_key(tmp_path / f"owner.key.{len(split_certificates(last.ca_der))}")
    assert kept == last.private_key.private_bytes_raw()
