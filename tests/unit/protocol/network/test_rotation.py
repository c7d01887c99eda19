"""An owner's key that is changed: old and new members take each other, until the old key is retired."""

from __future__ import annotations

import dataclasses
import errno
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError, NotMember, ProtocolViolation
from capamesh.protocol.identity import Identity, load_private_key
from capamesh.protocol.network import (
    JoinToken,
    Membership,
    NetworkOwner,
    NetworkTrust,
    RevocationList,
    Role,
    certificates,
    revocation,
)
from capamesh.protocol.network.authority import MAX_SUCCESSORS, own_authority, split_certificates

if TYPE_CHECKING:
    from .conftest import Network


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
