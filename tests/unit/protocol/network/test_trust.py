from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
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
    NetworkOwner,
    NetworkTrust,
    RevocationList,
    Role,
    certificates,
    trust,
)
from capamesh.protocol.network.authority import Authority, own_authority
from capamesh.protocol.network.chain import Admission, read_invite

if TYPE_CHECKING:
    from .conftest import Network

Change = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def leaf_by(
    issuer_key: Ed25519PrivateKey,
    issuer: x509.Certificate,
    identity: Identity,
    *,
    network_id: str,
    peer_id: str | None = None,
) -> bytes:
    return certificates.issue_leaf(
        issuer_key,
        issuer,
        identity.private_key.public_key(),
        network_id=network_id,
        peer_id=peer_id or identity.peer_id,
    )


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


def test_role_comes_from_the_invite_and_is_checked_when_asked_for(home: Network) -> None:
    judge = home.node.trust()
    assert judge.verify(home.router.chain, home.now, role=Role.ROUTER).role is Role.ROUTER
    assert judge.verify(list(home.node.chain), home.now, role=Role.NODE).role is Role.NODE
    with pytest.raises(NotMember, match=r"^wrong role: 12D3KooW\w+ is a node, a router is needed"):
        judge.verify(home.node.chain, home.now, role=Role.ROUTER)


def test_last_second_is_valid_and_the_next_is_not_even_for_a_remembered_chain(
    home: Network,
) -> None:
    judge = home.node.trust()
    ends = home.node.expires_at
    assert judge.verify(home.node.chain, ends).expires_at == ends
    with pytest.raises(
        NotMember, match=r"^expired: node 12D3KooW\w+ was a member until 2027-03-31T12"
    ):
        judge.verify(home.node.chain, ends + SECOND)
    assert judge.verify(home.node.chain, ends.astimezone(timezone(timedelta(hours=9))))


def test_chain_is_valid_ten_minutes_early_by_skew_and_ten_by_its_own_start(home: Network) -> None:
    judge = home.node.trust()
    starts = x509.load_der_x509_certificate(home.node.chain[0]).not_valid_before_utc
    assert starts == home.now - CLOCK_SKEW
    assert judge.verify(home.node.chain, starts - 10 * MINUTE)
    with pytest.raises(NotMember, match=r"^not yet valid: .*0:10:00 of difference are allowed"):
        judge.verify(home.node.chain, starts - 10 * MINUTE - SECOND)


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


def test_chain_of_another_network_is_refused_even_under_the_same_name(
    home: Network, stranger: Network
) -> None:
    with pytest.raises(NotMember, match=r"^wrong network: the invite is of 'cm-"):
        home.node.trust().verify(stranger.node.chain, home.now)


def test_invite_of_one_network_with_a_leaf_of_another_is_refused(
    home: Network, stranger: Network
) -> None:
    judge = home.node.trust()
    with pytest.raises(NotMember, match=r"^bad signature: the leaf"):
        judge.verify((stranger.node.chain[0], home.node.chain[1]), home.now)
    with pytest.raises(NotMember, match=r"^wrong network"):
        judge.verify((home.node.chain[0], stranger.node.chain[1]), home.now)


def test_leaf_with_the_other_invite_of_its_own_network_is_refused(home: Network) -> None:
    with pytest.raises(NotMember, match=r"^bad signature: the leaf"):
        home.node.trust().verify((home.node.chain[0], home.router.chain[1]), home.now)


def test_self_made_authority_with_the_same_name_and_network_id_is_refused(home: Network) -> None:
    key, invite_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    fake = x509.load_der_x509_certificate(certificates.issue_authority(key, "home", home.now))
    true_invite = x509.load_der_x509_certificate(home.router.chain[1])
    builder = (
        x509.CertificateBuilder()
        .subject_name(true_invite.subject)
        .issuer_name(fake.subject)
        .public_key(invite_key.public_key())
        .serial_number(true_invite.serial_number)
        .not_valid_before(true_invite.not_valid_before_utc)
        .not_valid_after(true_invite.not_valid_after_utc)
    )
    for extension in true_invite.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    invite = builder.sign(key, None)
    leaf = leaf_by(invite_key, invite, Identity.generate(), network_id=home.owner.network_id)
    with pytest.raises(NotMember, match=r"^bad signature: the invite"):
        home.node.trust().verify((leaf, invite.public_bytes(Encoding.DER)), home.now)


def test_members_leaf_cannot_issue_another(home: Network) -> None:
    issuer = x509.load_der_x509_certificate(home.node.chain[0])
    leaf = leaf_by(
        home.node.identity.private_key,
        issuer,
        Identity.generate(),
        network_id=home.owner.network_id,
    )
    judge = home.node.trust()
    with pytest.raises(NotMember, match=r"^malformed: the invite is no authority of path length 0"):
        judge.verify((leaf, home.node.chain[0]), home.now)
    with pytest.raises(NotMember, match=r"^bad signature: the leaf"):
        judge.verify((leaf, home.node.chain[1]), home.now)
    with pytest.raises(
        NotMember, match=r"^malformed: the successor of the owner's key is no authority"
    ):
        judge.verify((leaf, *home.node.chain), home.now)


def test_invite_cannot_issue_another_invite(home: Network) -> None:
    key = Ed25519PrivateKey.from_private_bytes(home.node_token.invite_key)
    invite = x509.load_der_x509_certificate(home.node.chain[1])
    next_key = Ed25519PrivateKey.generate()
    template = x509.load_der_x509_certificate(home.router.chain[1])
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(invite.subject)
        .public_key(next_key.public_key())
        .serial_number(template.serial_number)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
    )
    for extension in template.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    promoted = builder.sign(key, None)
    leaf = leaf_by(next_key, promoted, Identity.generate(), network_id=home.owner.network_id)
    with pytest.raises(NotMember, match=r"^bad signature: the invite"):
        home.node.trust().verify((leaf, promoted.public_bytes(Encoding.DER)), home.now)


def test_authority_itself_is_no_invite_and_an_invite_no_leaf(home: Network) -> None:
    judge = home.node.trust()
    with pytest.raises(NotMember, match=r"^malformed: the invite is no authority of path length 0"):
        judge.verify((home.node.chain[0], home.owner.ca_der), home.now)
    with pytest.raises(NotMember, match=r"^malformed: the leaf is made to sign certificates"):
        judge.verify((home.node.chain[1], home.node.chain[1]), home.now)


def test_leaf_of_a_node_invite_cannot_claim_to_be_a_router(home: Network) -> None:
    peer_id = home.node.identity.peer_id

    def claim(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        builder._subject_name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, home.owner.network_id),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "router"),
                x509.NameAttribute(NameOID.COMMON_NAME, peer_id),
            ]
        )
        return builder

    with pytest.raises(NotMember, match=r"^malformed: the leaf has the subject .*OU=router"):
        home.node.trust().verify((leaf_with(home, claim), home.node.chain[1]), home.now)


def test_leaf_for_another_peers_name_is_refused(home: Network) -> None:
    key = Ed25519PrivateKey.from_private_bytes(home.node_token.invite_key)
    invite = x509.load_der_x509_certificate(home.node.chain[1])
    leaf = leaf_by(
        key,
        invite,
        home.node.identity,
        network_id=home.owner.network_id,
        peer_id=home.router.identity.peer_id,
    )
    with pytest.raises(NotMember, match=r"^peer id does not match key: the leaf is for"):
        home.node.trust().verify((leaf, home.node.chain[1]), home.now)


def test_leaf_that_names_another_network_is_refused(home: Network, stranger: Network) -> None:
    key = Ed25519PrivateKey.from_private_bytes(home.node_token.invite_key)
    invite = x509.load_der_x509_certificate(home.node.chain[1])
    leaf = leaf_by(key, invite, home.node.identity, network_id=stranger.owner.network_id)
    with pytest.raises(NotMember, match=r"^wrong network: the leaf is for"):
        home.node.trust().verify((leaf, home.node.chain[1]), home.now)


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


def test_unknown_extension_that_is_not_critical_is_tolerated(home: Network) -> None:
    leaf = leaf_with(home, lambda builder: builder.add_extension(UNKNOWN, critical=False))
    assert home.node.trust().verify((leaf, home.node.chain[1]), home.now).role is Role.NODE


def test_leaf_cannot_outlive_its_invite(home: Network) -> None:
    leaf = leaf_with(
        home,
        lambda builder: setattr(builder, "_not_valid_after", datetime(2100, 1, 1)) or builder,  # noqa: DTZ001 - the builder's own field is naive UTC
    )
    judge = home.node.trust()
    assert judge.verify((leaf, home.node.chain[1]), home.now).expires_at == home.node.expires_at
    with pytest.raises(NotMember, match=r"^expired"):
        judge.verify((leaf, home.node.chain[1]), home.node.expires_at + SECOND)


def test_leaf_on_another_kind_of_key_is_refused(home: Network) -> None:
    def other_key(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        builder._public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
        return builder

    with pytest.raises(NotMember, match=r"^malformed: the leaf has a key of kind \w+, not Ed25519"):
        home.node.trust().verify((leaf_with(home, other_key), home.node.chain[1]), home.now)


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
    leaf = leaf_by(key, invite, Identity.generate(), network_id=home.owner.network_id)
    with pytest.raises(NotMember, match=f"^{reason}"):
        home.node.trust().verify((leaf, invite.public_bytes(Encoding.DER)), home.now)


@pytest.mark.parametrize(
    "chain",
    [
        (),
        (b"",),
        (b"", b""),
        (b"", b"", b""),
        b"ab",
        "ab",
        7,
        None,
        {},
        ("a", "b"),
        (None, 1),
        [[], []],
    ],
)
def test_bytes_that_are_no_chain_are_malformed(home: Network, chain: object) -> None:
    with pytest.raises(NotMember, match=r"^malformed: "):
        home.node.trust().verify(chain, home.now)


def test_giant_certificate_is_refused_by_its_size(home: Network) -> None:
    leaf, invite = home.node.chain
    message = f"has {MAX_CERTIFICATE_BYTES + 1} bytes, at most {MAX_CERTIFICATE_BYTES}"
    for chain in (
        (leaf.ljust(MAX_CERTIFICATE_BYTES + 1, b"\0"), invite),
        (leaf, invite.ljust(MAX_CERTIFICATE_BYTES + 1, b"\0")),
    ):
        with pytest.raises(NotMember, match=f"^malformed: .*{message}"):
            home.node.trust().verify(chain, home.now)


def test_another_split_of_a_remembered_chains_bytes_is_not_remembered(home: Network) -> None:
    judge = home.node.trust()
    leaf, invite = home.node.chain
    judge.verify(home.node.chain, home.now)
    with pytest.raises(NotMember, match=r"^malformed"):
        judge.verify((leaf + invite[:1], invite[1:]), home.now)
    with pytest.raises(NotMember, match=r"^malformed"):
        judge.verify((leaf[:-1], leaf[-1:] + invite), home.now)


@given(st.lists(st.binary(max_size=600), max_size=3))
def test_junk_is_never_a_member(home: Network, chain: list[bytes]) -> None:
    with pytest.raises(NotMember):
        home.node.trust().verify(chain, home.now)


@given(st.data())
def test_truncated_certificate_is_never_a_member(home: Network, data: st.DataObject) -> None:
    chain = list(home.node.chain)
    which = data.draw(st.integers(0, 1))
    length = data.draw(st.integers(0, len(chain[which]) - 1))
    chain[which] = chain[which][:length]
    with pytest.raises(NotMember):
        home.node.trust().verify(chain, home.now)


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


@settings(max_examples=100)
@given(st.data())
def test_changed_bytes_are_never_a_member(home: Network, data: st.DataObject) -> None:
    chain = [bytearray(der) for der in home.node.chain]
    for _ in range(data.draw(st.integers(1, 4))):
        der = chain[data.draw(st.integers(0, 1))]
        der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    changed = tuple(bytes(der) for der in chain)
    if changed == home.node.chain:
        return
    with pytest.raises(NotMember):
        home.node.trust().verify(changed, home.now)


def check_bits(home: Network, bits_of_byte: Callable[[int], Iterable[int]]) -> None:
    """Flip bits of both certificates, one at a time: `bits_of_byte` says which of each byte."""
    judge = home.node.trust()
    for which in (0, 1):
        for index in range(len(home.node.chain[which])):
            for bit in bits_of_byte(index):
                chain = [bytearray(der) for der in home.node.chain]
                chain[which][index] ^= 1 << bit
                with pytest.raises(NotMember):
                    judge.verify([bytes(der) for der in chain], home.now)


def test_every_byte_of_both_certificates_counts(home: Network) -> None:
    check_bits(home, lambda index: (index % 8,))


@pytest.mark.slow
def test_every_single_bit_of_both_certificates_counts(home: Network) -> None:
    check_bits(home, lambda _: range(8))


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


@pytest.mark.parametrize("junk", [b"", b"junk", None])
def test_trust_in_what_is_no_authority_is_a_config_error(home: Network, junk: bytes | None) -> None:
    with pytest.raises(ConfigError, match=r"network's certificate is not usable: malformed"):
        NetworkTrust(junk)
    for der in home.node.chain:
        with pytest.raises(ConfigError, match=r"is no authority of path length 1"):
            NetworkTrust(der)


def test_authority_that_did_not_sign_itself_is_refused(home: Network) -> None:
    garbled = home.owner.ca_der[:-1] + bytes([home.owner.ca_der[-1] ^ 1])
    with pytest.raises(ConfigError, match=r"bad signature: the network's certificate"):
        NetworkTrust(garbled)


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


def test_invite_read_by_another_authority_is_refused(home: Network, stranger: Network) -> None:
    with pytest.raises(NotMember, match=r"^wrong network"):
        read_invite(own_authority(stranger.owner.ca_der), home.node.chain[1])


def test_two_owners_of_one_name_make_two_networks(home: Network, stranger: Network) -> None:
    assert home.owner.name == stranger.owner.name == "home"
    assert home.owner.network_id != stranger.owner.network_id
    assert NetworkOwner.create("home", home.now).network_id.startswith("cm-")


def test_newest_list_is_made_into_bytes_once(home: Network) -> None:
    trust = home.node.trust()
    assert trust.encoded_revocations == trust.revocations.encode()
    listed = home.owner.revoke(
        trust.revocations, peers=[home.router.identity.peer_id], now=home.now
    )
    trust.update(listed)
    assert trust.encoded_revocations == listed.encode()
    assert trust.encoded_revocations is trust.encoded_revocations
