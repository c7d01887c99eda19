"""Names, digests and signatures of members and models."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from capamesh.protocol import private_files
from capamesh.protocol.errors import ConfigError, KeyExposed
from capamesh.protocol.identity import (
    Identity,
    peer_id_of,
    public_bytes_of,
    verify_signature,
)
from capamesh.protocol.ids import PeerId
from capamesh.protocol.member_name import checked_name, name_of_host, shown_names
from capamesh.protocol.model_digest import (
    digest_of,
    is_digest,
    is_other_digest,
    other_form,
    short_digest,
)
from capamesh.protocol.publishing import (
    SIGNED_BYTES,
    SignedVersion,
    is_signed,
    publisher_of,
    sign,
    signatures_from_text,
    signatures_to_text,
)

SEED = bytes(range(32))
PUBLIC = bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
PEER = "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_known_key_has_the_peer_id_that_py_libp2p_derives() -> None:
    identity = Identity.from_private_bytes(SEED)
    key_pair = create_new_key_pair(SEED)
    assert identity.public_bytes == PUBLIC == key_pair.public_key.to_bytes()
    assert identity.peer_id == str(ID.from_pubkey(key_pair.public_key)) == PEER
    for length in (0, 31, 33):
        with pytest.raises(ConfigError, match=rf"32 bytes, not {length}"):
            peer_id_of(bytes(length))
        with pytest.raises(ConfigError, match="private key has 32 bytes"):
            Identity.from_private_bytes(bytes(length))


@given(st.binary(min_size=32, max_size=32))
def test_every_public_key_comes_back_from_its_peer_id(public_bytes: bytes) -> None:
    peer_id = peer_id_of(public_bytes)
    assert len(peer_id) == 52
    assert peer_id.startswith("12D3KooW")
    assert public_bytes_of(peer_id) == public_bytes


def test_signature_verifies_for_its_peer_and_data_alone() -> None:
    identity, other = Identity.from_private_bytes(SEED), Identity.generate()
    signature = identity.sign(b"data")
    assert len(signature) == 64
    assert verify_signature(identity.peer_id, b"data", signature)
    assert not verify_signature(identity.peer_id, b"Data", signature)
    assert not verify_signature(other.peer_id, b"data", signature)
    assert not verify_signature(identity.peer_id, b"data", signature[:-1])


def test_saved_identity_loads_again_and_its_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "identity.key"
    identity = Identity.generate()
    identity.save(path)
    identity.save(path)
    assert Identity.load(path) == identity
    assert Identity.load(path).private_bytes == identity.private_bytes
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700
    assert list(path.parent.iterdir()) == [path]
    assert Identity.load_or_create(path) == identity != Identity.generate()
    assert hash(Identity.load(path)) == hash(identity)
    assert repr(identity) == f"Identity(peer_id={identity.peer_id!r})"
    with pytest.raises(ConfigError, match=f"already holds the identity {identity.peer_id}"):
        Identity.generate().save(path)
    assert Identity.load(path) == identity


def test_load_or_create_takes_the_key_that_another_process_made_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other, create = (
        tmp_path / "identity.key",
        Identity.generate(),
        private_files.create_private,
    )

    def lose_the_race(where: Path, data: bytes) -> bool:
        monkeypatch.setattr(private_files, "create_private", create)
        other.save(where)
        return create(where, data)

    monkeypatch.setattr(private_files, "create_private", lose_the_race)
    assert Identity.load_or_create(path) == other


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o601])
def test_key_that_others_may_touch_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    Identity.generate().save(path)
    path.chmod(mode)
    with pytest.raises(KeyExposed, match=f"{path} has mode {mode:04o}.*chmod 600 {path}"):
        Identity.load(path)
    with pytest.raises(KeyExposed):
        Identity.load_or_create(path)


def other_key_files() -> list[bytes]:
    curve = ec.generate_private_key(ec.SECP256R1())
    plain = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = Identity.generate().private_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
    )
    return [b"", b"junk", SEED, plain, locked, b"-----BEGIN PRIVATE KEY-----\nAAAA\n"]


def test_what_is_no_plain_ed25519_key_is_refused(tmp_path: Path) -> None:
    for data in other_key_files():
        private_files.replace_private(tmp_path / "other.key", data)
        with pytest.raises(ConfigError, match="identity key"):
            Identity.load(tmp_path / "other.key")
    huge, pipe = tmp_path / "huge", tmp_path / "pipe"
    private_files.replace_private(huge, bytes(private_files.MAX_FILE_BYTES + 1))
    os.mkfifo(pipe, 0o600)
    with pytest.raises(ConfigError, match="over 65536 bytes"):
        Identity.load(huge)
    with pytest.raises(ConfigError, match="not a plain file"):
        Identity.load(pipe)
    with pytest.raises(ConfigError, match="Is a directory"):
        Identity.load(tmp_path)
    with pytest.raises(ConfigError, match=r"identity key .*/none\.key does not exist"):
        Identity.load(tmp_path / "none.key")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        Identity.generate().save(huge / "identity.key")


def test_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chain.pem"
    private_files.replace_public(path, b"old")
    assert mode_of(path) & 0o022 == 0

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("capamesh.protocol.private_files.os.fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        private_files.replace_public(path, b"new")
    with pytest.raises(ConfigError, match="No space left on device"):
        private_files.create_private(tmp_path / "identity.key", b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@given(
    st.text(max_size=80) | st.text(alphabet="123DKoWzab", min_size=52, max_size=52),
    st.binary(max_size=80),
)
def test_junk_is_no_peer_id_and_no_signature(text: str, signature: bytes) -> None:
    for junk in (text, "z" * 52):  # which overflows its bytes
        with pytest.raises(ConfigError, match="is no peer id"):
            public_bytes_of(junk)
    assert verify_signature(text, b"data", signature) is False
    assert verify_signature(PEER, b"data", signature) is False


@given(st.text())
def test_name_of_any_host_is_a_name_or_none(host: str) -> None:
    name = name_of_host(host)
    assert name == "" or checked_name(name) == name
    for good in ("a", "GPU_1.lab-2", "9", "x" * 63):
        assert checked_name(good) == good
    said = r"1 to 63 of the characters A-Z a-z 0-9 \. _ - and begins"
    for bad in ("", "x" * 64, "-a", "_a", "a b", "a\n", "ä", "\x1b[2J"):
        with pytest.raises(ConfigError, match=said):
            checked_name(bad)


def test_names_that_several_have_are_shown_with_the_ends_of_their_peer_ids() -> None:
    names = {
        PeerId("12D3KooWaaaaaaaa"): "gpu",
        PeerId("12D3KooWbbbbbbbb"): "gpu",
        PeerId("12D3KooWcccccccc"): "front",
        PeerId("12D3KooWdddddddd"): "",
    }
    assert shown_names(names) == {
        "12D3KooWaaaaaaaa": "gpu…aaaaaaaa",
        "12D3KooWbbbbbbbb": "gpu…bbbbbbbb",
        "12D3KooWcccccccc": "front",
    }


GOOD = "sha256-chunks:" + "0a" * 32
OLD = "sha256:" + "0a" * 32


def test_digest_is_its_form_and_hexadecimal_digits_and_one_of_another_version_known_as_such() -> (
    None
):
    assert digest_of(b"\n" * 32) == GOOD
    assert (is_digest(GOOD), is_other_digest(GOOD)) == (True, False)
    assert [short_digest(each) for each in (GOOD, "")] == ["sha256-chunks:0a0a0a0a0a0a", ""]
    for junk in ("", GOOD[:-1], GOOD + "0", GOOD.upper(), GOOD + "\n", "sha256:0"):
        assert (is_digest(junk), is_other_digest(junk), other_form(junk)) == (False, False, "")
    end = "is a digest of another version of Capamesh; this one names files by sha256-chunks:…"
    for other in (OLD, "sha512:" + "0" * 128, "blake3+tree.v2:" + "Zz-_=" * 10):
        assert (is_digest(other), is_other_digest(other)) == (False, True)
        assert other_form(other) == f"{short_digest(other)} {end}"


ALICE = Identity.from_private_bytes(b"a" * 32)
DIGEST = "sha256-chunks:" + "0" * 64
SIGNED = sign(ALICE, "m", "1", DIGEST)


def test_signature_is_of_just_this_name_version_and_digest() -> None:
    assert (len(SIGNED), publisher_of(SIGNED)) == (SIGNED_BYTES, ALICE.peer_id)
    assert is_signed(SIGNED, "m", "1", DIGEST)
    other_digest = "sha256-chunks:" + "1" * 64
    for other in (("n", "1", DIGEST), ("m", "2", DIGEST), ("m", "1", other_digest)):
        assert not is_signed(SIGNED, *other)


def test_file_of_signatures_comes_back_and_a_line_that_is_none_is_named() -> None:
    other = sign(Identity.from_private_bytes(b"b" * 32), "m", "1", DIGEST)
    listed = [SignedVersion("10", DIGEST, SIGNED), SignedVersion("1", DIGEST, other)]
    text = signatures_to_text(listed)
    assert text.startswith("# Who has signed")
    assert signatures_from_text(text) == [listed[1], listed[0]]
    peer = ALICE.peer_id
    for line in ("1 sha256-chunks:0", "one d 12D3 AA==", f"1 d {peer} !", f"1 d {peer} AA=="):
        with pytest.raises(ConfigError, match="line 2"):
            signatures_from_text("# people\n" + line)


@given(st.integers(0, SIGNED_BYTES * 8 - 1), st.binary(max_size=200))
def test_junk_is_no_signature_and_no_bit_of_one_may_differ(bit: int, junk: bytes) -> None:
    changed = bytearray(SIGNED)
    changed[bit // 8] ^= 1 << bit % 8
    for wrong in (bytes(changed), junk):
        assert not is_signed(wrong, "m", "1", DIGEST)
