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
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError, NotMember, ProtocolViolation
from capamesh.protocol.identity import Identity, load_private_key
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
    Authority,
    own_authority,
    split_certificates,
)
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


@dataclasses.dataclass(frozen=True)
class Rotated:
    """A network whose owner's key was changed once."""

    owner: NetworkOwner
    token: JoinToken
    router: Membership
    reported: RevocationList
    """Tells of the new key."""
    retired: RevocationList
    """Shuts out whoever the first key admitted."""


def rotated(home: Network, owner: NetworkOwner | None = None) -> Rotated:
    new = (owner or home.owner).rotated(home.now)
    token = new.invite(
        Role.ROUTER, expires_at=home.now + timedelta(days=60), bootstrap=(), now=home.now
    )
    reported = new.revoke(RevocationList.empty(new.network_id), now=home.now)
    return Rotated(
        new,
        token,
        Membership.join(Identity.generate(), token, home.now),
        reported,
        new.revoke(reported, is_retiring=True, now=home.now),
    )


@pytest.fixture(scope="session")
def later(home: Network) -> Rotated:
    return rotated(home)


def test_member_that_knows_the_successor_needs_none_in_a_chain(
    home: Network, later: Rotated
) -> None:
    trust = home.node.trust()
    with pytest.raises(NotMember, match=r"^bad signature: the invite"):
        trust.verify(later.router.chain[:2], home.now)
    assert trust.update(later.reported)
    for knowing in (trust, NetworkTrust(home.owner.ca_der, later.reported)):
        assert knowing.verify(later.router.chain[:2], home.now).role is Role.ROUTER
    assert trust.verify(later.router.chain, home.now).role is Role.ROUTER


def test_retired_key_admits_nobody_any_more_and_the_new_one_still_does(
    home: Network, later: Rotated
) -> None:
    trust = home.node.trust()
    assert trust.verify(home.node.chain, home.now).role is Role.NODE  # and it is remembered
    assert trust.update(later.retired)
    with pytest.raises(NotMember, match=r"^retired owner key: node 12D3.* the owner's key 1"):
        trust.verify(home.node.chain, home.now)
    assert trust.verify(later.router.chain, home.now).role is Role.ROUTER


def test_member_that_heard_of_one_successor_takes_no_other(home: Network, later: Rotated) -> None:
    """The holder of the old key cannot hand the network to somebody else a second time."""
    fork = rotated(home)
    trust = home.node.trust()
    assert trust.verify(fork.router.chain, home.now).role is Role.ROUTER  # remembered, not learned
    trust.update(later.reported)
    with pytest.raises(NotMember, match=r"^wrong owner key: router"):
        trust.verify(fork.router.chain, home.now)
    with pytest.raises(NotMember, match=r"^wrong owner key"):
        trust.verify((*fork.router.chain[:2], *fork.router.chain[2:]), home.now)
    for list_ in (fork.reported, fork.retired):
        with pytest.raises(ConfigError, match="another owner's key than ours"):
            trust.update(list_)
    assert trust.revocations == later.reported


def test_lists_of_an_earlier_key_replace_none_of_a_later_one(home: Network, later: Rotated) -> None:
    trust = home.node.trust()
    trust.update(later.reported)
    old = RevocationList.empty(home.owner.network_id)
    for _ in range(5):
        old = home.owner.revoke(old, peers=[later.router.identity.peer_id], now=home.now)
    assert old.version > later.reported.version
    assert RevocationList.decode(old.encode(), later.owner.ca_der) == old
    assert not trust.update(old)
    assert trust.verify(later.router.chain, home.now).role is Role.ROUTER


def test_list_of_a_new_key_comes_back_from_its_bytes_and_keeps_what_was_revoked(
    home: Network, later: Rotated
) -> None:
    peer = home.router.identity.peer_id
    first = home.owner.revoke(
        RevocationList.empty(home.owner.network_id), peers=[peer], now=home.now
    )
    second = later.owner.revoke(first, is_retiring=True, now=home.now)
    assert (second.version, second.peers, second.oldest_key) == (2, {peer}, 1)
    for ca_der in (home.owner.ca_der, later.owner.ca_der):
        assert RevocationList.decode(second.encode(), ca_der) == second
    third = later.owner.revoke(second, now=home.now)
    assert third.oldest_key == 1  # what is retired stays so


def test_successor_is_named_by_the_owners_key_only(home: Network, stranger: Network) -> None:
    authority = own_authority(home.owner.ca_der)
    key = Ed25519PrivateKey.generate()
    for signer in (stranger.owner.private_key, key):
        forged = certificates.issue_successor(
            signer, authority.certificate, key.public_key(), home.now
        )
        invite_key = Ed25519PrivateKey.generate()
        invite = certificates.issue_invite(
            key,
            x509.load_der_x509_certificate(forged),
            invite_key.public_key(),
            Role.NODE,
            network_id=home.owner.network_id,
            now=home.now,
            expires_at=home.now + timedelta(days=1),
        )
        identity = Identity.generate()
        leaf = certificates.issue_leaf(
            invite_key,
            x509.load_der_x509_certificate(invite),
            identity.private_key.public_key(),
            network_id=home.owner.network_id,
            peer_id=identity.peer_id,
        )
        with pytest.raises(NotMember, match=r"^bad signature: the successor"):
            home.node.trust().verify((leaf, invite, forged), home.now)
    other = rotated(stranger).router.chain
    with pytest.raises(NotMember, match=r"^bad signature: the successor"):
        home.node.trust().verify(other, home.now)
    with pytest.raises(NotMember, match=r"^malformed: the successor"):
        home.node.trust().verify((*home.router.chain, home.router.chain[1]), home.now)


def test_keys_are_changed_again_and_again_up_to_a_limit(home: Network) -> None:
    owner = home.owner
    for _ in range(MAX_SUCCESSORS):
        owner = owner.rotated(home.now)
    assert len(own_authority(owner.ca_der).successors) == MAX_SUCCESSORS
    with pytest.raises(ConfigError, match=f"changed {MAX_SUCCESSORS} times, the limit"):
        owner.rotated(home.now)
    token = owner.invite(
        Role.NODE, expires_at=home.now + timedelta(days=1), bootstrap=(), now=home.now
    )
    member = Membership.join(
        Identity.generate(), JoinToken.decode(token.encode(), home.now), home.now
    )
    assert home.node.trust().verify(member.chain, home.now).role is Role.NODE
    list_ = owner.revoke(RevocationList.empty(owner.network_id), is_retiring=True, now=home.now)
    trust = home.node.trust()
    assert trust.update(RevocationList.decode(list_.encode(), home.owner.ca_der))
    assert trust.verify(member.chain, home.now).role is Role.NODE
    with pytest.raises(NotMember, match=r"^retired owner key"):
        trust.verify(home.router.chain, home.now)


def test_owner_that_is_changed_leaves_the_old_key_beside_the_new_one(
    tmp_path: Path, home: Network
) -> None:
    home.owner.save(tmp_path)
    new = NetworkOwner.load(tmp_path).rotated(home.now)
    kept = new.save_rotated(tmp_path)
    assert NetworkOwner.load(tmp_path) == new
    assert kept == tmp_path / "owner.key.1"
    assert load_private_key(kept, "it").private_bytes_raw() == (
        home.owner.private_key.private_bytes_raw()
    )
    assert new.save_rotated(tmp_path) == kept  # again changes nothing
    assert load_private_key(kept, "it").private_bytes_raw() == (
        home.owner.private_key.private_bytes_raw()
    )
    assert not (tmp_path / "owner.key.next").exists()


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
        assert there.private_key.private_bytes_raw() in {
            each.private_key.private_bytes_raw() for each in may_be
        }
    last = NetworkOwner.load(tmp_path)
    newest = last.rotated(home.now)
    newest.save_rotated(tmp_path)
    assert NetworkOwner.load(tmp_path) == newest
    kept = load_private_key(tmp_path / f"owner.key.{len(split_certificates(last.ca_der))}", "it")
    assert kept.private_bytes_raw() == last.private_key.private_bytes_raw()


def test_owner_is_made_and_changed_on_a_disk_without_hard_links(
    tmp_path: Path, home: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    home.owner.save(tmp_path)
    with pytest.raises(ConfigError, match="already holds another network's owner"):
        NetworkOwner.create("other", home.now).save(tmp_path)
    assert NetworkOwner.load(tmp_path) == home.owner
    new = home.owner.rotated(home.now)
    new.save_rotated(tmp_path)
    assert NetworkOwner.load(tmp_path) == new
    assert {path.name for path in tmp_path.iterdir()} == {
        "network.pem",
        "owner.key",
        "owner.key.1",
    }


def test_list_that_an_owner_signs_at_the_limit_is_read_by_its_members(
    home: Network, later: Rotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = [Identity.generate().peer_id for _ in range(3)]
    size = len(later.owner.revoke(later.reported, peers=peers, now=home.now).encode())
    monkeypatch.setattr(revocation, "MAX_LIST_BYTES", size)
    listed = later.owner.revoke(later.reported, peers=peers, now=home.now)
    assert RevocationList.decode(listed.encode(), home.owner.ca_der) == listed
    monkeypatch.setattr(revocation, "MAX_LIST_BYTES", size - 1)
    with pytest.raises(ConfigError, match=f"the revocation list would have {size} bytes"):
        later.owner.revoke(later.reported, peers=peers, now=home.now)


def test_members_of_both_keys_take_each_other_though_nobody_was_reported(
    home: Network, later: Rotated, tmp_path: Path
) -> None:
    assert (later.router.network_id, later.owner.name) == (home.owner.network_id, home.owner.name)
    old, new = home.node.trust(), later.router.trust()
    assert old.verify(later.router.chain, home.now).peer_id == later.router.identity.peer_id
    assert new.verify(home.node.chain, home.now).peer_id == home.node.identity.peer_id
    later.router.save(tmp_path)
    loaded = Membership.load(tmp_path, home.now)
    assert (loaded.chain, loaded.ca_der) == (later.router.chain, later.router.ca_der)


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
