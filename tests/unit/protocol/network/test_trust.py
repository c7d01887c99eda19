from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError, NotMember
from capamesh.protocol.identity import Identity
from capamesh.protocol.network import (
    CLOCK_SKEW,
    MAX_CERTIFICATE_BYTES,
    Member,
    Membership,
    NetworkTrust,
    RevocationList,
    Role,
    certificates,
    trust,
)
from capamesh.protocol.network.authority import Authority, own_authority
from capamesh.protocol.network.chain import Admission

if TYPE_CHECKING:
    from .conftest import Network

Change = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def leaf_with(home: Network, change: Change) -> bytes:
    """A leaf like the node's own, signed with the true invite key, but for `change`."""
    template = x509.load_der_x509_certificate(home.node.chain[0])
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.issuer)
        .public_key(template.public_key())
        .serial_number(template.serial_number)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
    )
    for extension in template.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    key = Ed25519PrivateKey.from_private_bytes(home.node_token.invite_key)
    return change(builder).sign(key, None).public_bytes(Encoding.DER)


def replacing(extension: x509.ExtensionType, *, critical: bool = False) -> Change:
    def change(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        builder._extensions = [kept for kept in builder._extensions if kept.oid != extension.oid]
        return builder.add_extension(extension, critical)

    return change


def without(kind: type[x509.ExtensionType]) -> Change:
    def change(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        builder._extensions = [kept for kept in builder._extensions if kept.oid != kind.oid]
        return builder

    return change


def test_members_chain_yields_who_it_is(home: Network) -> None:
    member = home.node.trust().verify(home.node.chain, home.now)
    assert member == Member(
        peer_id=home.node.identity.peer_id,
        role=Role.NODE,
        invite_serial=f"{x509.load_der_x509_certificate(home.node.chain[1]).serial_number:040x}",
        starts_at=home.now,
        expires_at=home.now + timedelta(days=30),
    )
    assert home.owner.network_id == (
        "cm-"
        + hashlib.sha256(home.owner.private_key.public_key().public_bytes_raw()).hexdigest()[:32]
    )


def test_revoked_peer_is_out_at_once_and_the_others_stay(home: Network) -> None:
    judge = home.node.trust()
    judge.verify(home.node.chain, home.now)
    revoked = home.owner.revoke(
        RevocationList.empty(home.owner.network_id),
        peers=[home.node.identity.peer_id],
        now=home.now,
    )
    assert judge.update(revoked) is True
    with pytest.raises(NotMember, match=r"^revoked peer: node 12D3KooW\w+, by list version 1"):
        judge.verify(home.node.chain, home.now)
    assert judge.verify(home.router.chain, home.now).role is Role.ROUTER


def test_revoked_invite_shuts_out_all_that_it_admitted(home: Network) -> None:
    second = Membership.join(Identity.generate(), home.node_token, home.now)
    judge = home.node.trust()
    serial = judge.verify(second.chain, home.now).invite_serial
    revoked = home.owner.revoke(
        RevocationList.empty(home.owner.network_id), invites=[serial], now=home.now
    )
    later = judge.with_revocations(revoked)
    for membership in (home.node, second):
        with pytest.raises(NotMember, match=f"^revoked invite: .* came with {serial}"):
            later.verify(membership.chain, home.now)
        assert judge.verify(membership.chain, home.now)
    assert later.verify(home.router.chain, home.now)


def test_older_or_equal_list_changes_nothing_and_a_foreign_or_forged_one_is_refused(
    home: Network, stranger: Network
) -> None:
    first = home.owner.revoke(
        RevocationList.empty(home.owner.network_id),
        peers=[home.node.identity.peer_id],
        now=home.now,
    )
    second = home.owner.revoke(first, peers=[home.router.identity.peer_id], now=home.now)
    judge = NetworkTrust(home.owner.ca_der, second)
    assert judge.update(first) is False
    assert judge.update(second) is False
    assert judge.update(RevocationList.empty(home.owner.network_id)) is False
    assert judge.revocations == second
    foreign = stranger.owner.revoke(
        RevocationList.empty(stranger.owner.network_id), now=stranger.now
    )
    with pytest.raises(ConfigError, match=f"is of {stranger.owner.network_id}, not of"):
        judge.update(foreign)
    with pytest.raises(ConfigError, match=r"version 9, is not signed by the owner"):
        judge.update(dataclasses.replace(second, version=9))
    assert judge.revocations == second


def test_remembered_chains_are_bounded_and_the_least_recent_goes(
    home: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "MAX_REMEMBERED", 2)
    judge = home.node.trust()
    third = Membership.join(Identity.generate(), home.node_token, home.now)
    for membership in (home.node, home.router, home.node, third):
        judge.verify(membership.chain, home.now)
    assert repr(judge).endswith("revocations version 0, 2 chains remembered)")
    calls: list[bytes] = []
    admit = trust.admit

    def counted(
        authority: Authority, leaf: bytes, invite: bytes, successors: tuple[bytes, ...]
    ) -> Admission:
        calls.append(leaf)
        return admit(authority, leaf, invite, successors)

    monkeypatch.setattr(trust, "admit", counted)
    for membership in (home.node, third, home.router):
        judge.verify(membership.chain, home.now)
    assert calls == [home.router.chain[0]]


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replacing(x509.BasicConstraints(True, 0)), "made to sign certificates"),
        (without(x509.BasicConstraints), "made to sign certificates"),
        (replacing(certificates._key_usage(is_authority=True)), "made to sign certificates"),
        (without(x509.KeyUsage), "made to sign certificates"),
        (without(x509.ExtendedKeyUsage), "lacks server or client use"),
        (
            replacing(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])),
            "lacks server or client use",
        ),
        (without(x509.SubjectAlternativeName), "exactly one URI"),
        (replacing(x509.SubjectAlternativeName([])), "exactly one URI"),
        (replacing(x509.SubjectAlternativeName([x509.DNSName("a")])), "exactly one URI"),
        (replacing(x509.SubjectAlternativeName([uri("a:b"), uri("c:d")])), "exactly one URI"),
        (
            lambda builder: builder.add_extension(UNKNOWN, critical=True),
            "critical extension 1.2.3.4",
        ),
    ],
)
def test_leaf_of_another_shape_is_refused(home: Network, change: Change, message: str) -> None:
    leaf = leaf_with(home, change)
    with pytest.raises(NotMember, match=f"^malformed: the leaf .*{message}"):
        home.node.trust().verify((leaf, home.node.chain[1]), home.now)


def test_leaf_cannot_outlive_its_invite(home: Network) -> None:
    leaf = leaf_with(
        home,
        lambda builder: setattr(builder, "_not_valid_after", datetime(2100, 1, 1)) or builder,  # noqa: DTZ001 - the builder's own field is naive UTC
    )
    judge = home.node.trust()
    assert judge.verify((leaf, home.node.chain[1]), home.now).expires_at == home.node.expires_at
    with pytest.raises(NotMember, match=r"^expired"):
        judge.verify((leaf, home.node.chain[1]), home.node.expires_at + SECOND)


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
    names = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, home.owner.network_id),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, change.get("role", "node")),
        x509.NameAttribute(NameOID.COMMON_NAME, change.get("serial", f"{serial:040x}")),
    ]
    if "extra" in change:
        names.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "router"))
    authority = own_authority(home.owner.ca_der).certificate
    builder = certificates._builder(x509.Name(names), key.public_key(), authority.subject, serial)
    builder = builder.add_extension(
        x509.BasicConstraints(True, change.get("path_length", 0)), critical=True
    ).add_extension(certificates._key_usage(is_authority=change.get("usage", True)), critical=True)
    builder = builder.not_valid_before(home.now).not_valid_after(home.now + MINUTE)
    invite = builder.sign(home.owner.private_key, None)
    leaf = leaf_by(key, invite, Identity.generate(), home.owner.network_id)
    with pytest.raises(NotMember, match=f"^{reason}"):
        home.node.trust().verify((leaf, invite.public_bytes(Encoding.DER)), home.now)


def test_signature_that_hides_unused_bits_is_no_other_spelling_of_the_chain(
    home: Network,
) -> None:
    """Half of all signatures end in a zero bit, which a bit string may call unused: same certificate, other bytes."""
    leaf = bytearray(home.node.chain[0])
    while leaf[-1] & 1:
        leaf = bytearray(Membership.join(Identity.generate(), home.node_token, home.now).chain[0])
    leaf[-65] = 1
    with pytest.raises(NotMember, match=r"^malformed: the leaf is not signed as Ed25519"):
        home.node.trust().verify((bytes(leaf), home.node.chain[1]), home.now)


@settings(max_examples=60)
@given(st.data())
def test_leaf_that_a_token_holder_garbles_before_signing_is_refused_or_is_itself(
    home: Network, data: st.DataObject
) -> None:
    """An invite's holder signs what it likes: the signed part is garbled and signed again."""
    original = x509.load_der_x509_certificate(home.node.chain[0])
    signed = bytearray(original.tbs_certificate_bytes)
    for _ in range(data.draw(st.integers(1, 3))):
        signed[data.draw(st.integers(4, len(signed) - 1))] ^= data.draw(st.integers(1, 255))
    key = Ed25519PrivateKey.from_private_bytes(home.node_token.invite_key)
    der = bytearray(home.node.chain[0])
    der[4 : 4 + len(signed)] = signed
    der[-64:] = key.sign(bytes(signed))
    try:
        member = home.node.trust().verify((bytes(der), home.node.chain[1]), home.now)
    except NotMember:
        return
    leaf = x509.load_der_x509_certificate(bytes(der))
    assert member.role is Role.NODE
    assert member.peer_id == home.node.identity.peer_id
    assert leaf.public_key() == original.public_key()


def test_authority_on_another_kind_of_key_is_refused(home: Network) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "home")])
    der = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(home.now)
        .not_valid_after(home.now + MINUTE)
        .add_extension(x509.BasicConstraints(True, 1), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    with pytest.raises(ConfigError, match=r"not Ed25519"):
        NetworkTrust(der)


def leaf_by(
    issuer_key: Ed25519PrivateKey | bytes,
    issuer: x509.Certificate | bytes,
    identity: Identity,
    network_id: str,
    peer_id: str | None = None,
) -> bytes:
    if isinstance(issuer_key, bytes):
        issuer_key = Ed25519PrivateKey.from_private_bytes(issuer_key)
    if isinstance(issuer, bytes):
        issuer = x509.load_der_x509_certificate(issuer)
    return certificates.issue_leaf(
        issuer_key,
        issuer,
        identity.private_key.public_key(),
        network_id=network_id,
        peer_id=peer_id or identity.peer_id,
    )


def forged_invite(
    home: Network, issuer_key: Ed25519PrivateKey, issuer: x509.Certificate
) -> tuple[bytes, bytes]:
    """Return the chain of a member that another issuer's invite admits; its fields are a true invite's."""
    key = Ed25519PrivateKey.generate()
    template = x509.load_der_x509_certificate(home.router.chain[1])
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(template.serial_number)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
    )
    for extension in template.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    invite = builder.sign(issuer_key, None).public_bytes(Encoding.DER)
    return leaf_by(key, invite, Identity.generate(), home.owner.network_id), invite


def self_made(home: Network) -> tuple[bytes, bytes]:
    """Return the chain of an authority that calls itself as the network's owner does."""
    key = Ed25519PrivateKey.generate()
    fake = certificates.issue_authority(key, "home", home.now)
    return forged_invite(home, key, x509.load_der_x509_certificate(fake))


def promoted(home: Network) -> tuple[bytes, bytes]:
    """Return the chain of an invite that another invite's holder made."""
    key = Ed25519PrivateKey.from_private_bytes(home.node_token.invite_key)
    return forged_invite(home, key, x509.load_der_x509_certificate(home.node.chain[1]))


def by_member(home: Network) -> bytes:
    """Return a leaf that a member signed."""
    issuer, network = home.node.identity.private_key, home.owner.network_id
    return leaf_by(issuer, home.node.chain[0], Identity.generate(), network)


def by_token(home: Network, network_id: str, peer_id: str | None = None) -> bytes:
    """Return a leaf that the holder of the node's token signed."""
    token = home.node_token
    return leaf_by(token.invite_key, token.invite_der, home.node.identity, network_id, peer_id)


GIANT = MAX_CERTIFICATE_BYTES + 1


REFUSED: list[tuple[Callable[[Network, Network], object], str]] = [
    (lambda _, other: other.node.chain, "wrong network: the invite is of 'cm-"),
    (lambda home, other: (other.node.chain[0], home.node.chain[1]), "bad signature: the leaf"),
    (lambda home, other: (home.node.chain[0], other.node.chain[1]), "wrong network"),
    (lambda home, _: (home.node.chain[0], home.router.chain[1]), "bad signature: the leaf"),
    (lambda home, _: self_made(home), "bad signature: the invite"),
    (lambda home, _: promoted(home), "bad signature: the invite"),
    (
        lambda home, _: (by_member(home), home.node.chain[0]),
        "malformed: the invite is no authority of path length 0",
    ),
    (lambda home, _: (by_member(home), home.node.chain[1]), "bad signature: the leaf"),
    (
        lambda home, _: (by_member(home), *home.node.chain),
        "malformed: the successor of the owner's",
    ),
    (
        lambda home, _: (home.node.chain[0], home.owner.ca_der),
        "malformed: the invite is no authority",
    ),
    (lambda home, _: home.node.chain[1:] * 2, "malformed: the leaf is made to sign certificates"),
    (
        lambda home, other: (by_token(home, other.owner.network_id), home.node.chain[1]),
        "wrong network: the leaf is for",
    ),
    (
        lambda home, _: (
            by_token(home, home.owner.network_id, home.router.identity.peer_id),
            home.node.chain[1],
        ),
        "peer id does not match key: the leaf is for",
    ),
    (
        lambda home, _: (home.node.chain[0].ljust(GIANT, b"\0"), home.node.chain[1]),
        f"malformed: .*has {GIANT} bytes, at most {GIANT - 1}",
    ),
    (
        lambda home, _: (home.node.chain[0], home.node.chain[1].ljust(GIANT, b"\0")),
        f"malformed: .*has {GIANT} bytes, at most {GIANT - 1}",
    ),
    (
        lambda home, _: (home.node.chain[0] + home.node.chain[1][:1], home.node.chain[1][1:]),
        "malformed",
    ),
    *[
        (lambda *_, junk=junk: junk, "malformed: ")
        for junk in ((), (b"", b""), (b"", b"", b""), b"ab", "ab", 7, {}, ("a", "b"), [[], []])
    ],
]


@pytest.mark.parametrize(("chain", "reason"), REFUSED)
def test_chain_that_the_owner_did_not_make_so_is_refused(
    home: Network, stranger: Network, chain: Callable[[Network, Network], object], reason: str
) -> None:
    judge = home.node.trust()
    judge.verify(home.node.chain, home.now)  # and remembers it
    with pytest.raises(NotMember, match=f"^{reason}"):
        judge.verify(chain(home, stranger), home.now)


def test_role_comes_from_the_invite_and_is_checked_when_asked_for(home: Network) -> None:
    judge = home.node.trust()
    assert judge.verify(home.router.chain, home.now, role=Role.ROUTER).role is Role.ROUTER
    with pytest.raises(NotMember, match=r"^wrong role: 12D3KooW\w+ is a node, a router is needed"):
        judge.verify(list(home.node.chain), home.now, role=Role.ROUTER)


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


def test_trust_in_what_is_no_authority_is_a_config_error(home: Network) -> None:
    ca = home.owner.ca_der
    for der, message in (
        (b"", "network's certificate is not usable: malformed"),
        (b"junk", "network's certificate is not usable: malformed"),
        (None, "network's certificate is not usable: malformed"),
        (home.node.chain[0], "is no authority of path length 1"),
        (home.node.chain[1], "is no authority of path length 1"),
        (ca[:-1] + bytes([ca[-1] ^ 1]), "bad signature: the network's certificate"),
    ):
        with pytest.raises(ConfigError, match=message):
            NetworkTrust(der)  # type: ignore[arg-type]  # None is no authority either


def test_chain_is_valid_from_ten_minutes_before_its_start_to_its_last_second(home: Network) -> None:
    judge = home.node.trust()
    starts = x509.load_der_x509_certificate(home.node.chain[0]).not_valid_before_utc
    assert starts == home.now - CLOCK_SKEW
    assert judge.verify(home.node.chain, starts - 10 * MINUTE)
    with pytest.raises(NotMember, match=r"^not yet valid: .*0:10:00 of difference are allowed"):
        judge.verify(home.node.chain, starts - 10 * MINUTE - SECOND)
    ends = home.node.expires_at
    assert judge.verify(home.node.chain, ends.astimezone(timezone(timedelta(hours=9))))
    with pytest.raises(
        NotMember, match=r"^expired: node 12D3KooW\w+ was a member until 2027-03-31T12"
    ):
        judge.verify(home.node.chain, ends + SECOND)


def test_leaf_that_the_token_s_holder_made_otherwise_is_refused(home: Network) -> None:
    def other_key(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        builder._public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
        return builder

    def router(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        names = (
            (NameOID.ORGANIZATION_NAME, home.owner.network_id),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, "router"),
            (NameOID.COMMON_NAME, home.node.identity.peer_id),
        )
        builder._subject_name = x509.Name([x509.NameAttribute(*each) for each in names])
        return builder

    for change, said in (
        (other_key, r"has a key of kind \w+, not Ed25519"),
        (router, "has the subject .*OU=router"),
    ):
        with pytest.raises(NotMember, match=rf"^malformed: the leaf {said}"):
            home.node.trust().verify((leaf_with(home, change), home.node.chain[1]), home.now)
    leaf = leaf_with(home, lambda builder: builder.add_extension(UNKNOWN, critical=False))
    assert home.node.trust().verify((leaf, home.node.chain[1]), home.now).role is Role.NODE
