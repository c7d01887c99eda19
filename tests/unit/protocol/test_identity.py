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


@given(st.binary(min_size=32, max_size=32))
def test_every_public_key_comes_back_from_its_peer_id(public_bytes: bytes) -> None:
    peer_id = peer_id_of(public_bytes)
    assert len(peer_id) == 52
    assert peer_id.startswith("12D3KooW")
    assert public_bytes_of(peer_id) == public_bytes


@pytest.mark.parametrize("public_bytes", [b"", bytes(31), bytes(33)])
def test_public_key_of_another_length_has_no_peer_id(public_bytes: bytes) -> None:
    with pytest.raises(ConfigError, match=r"32 bytes, not \d+"):
        peer_id_of(public_bytes)
    with pytest.raises(ConfigError, match="private key has 32 bytes"):
        Identity.from_private_bytes(public_bytes)


@given(
    st.integers(0, 51),
    st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"),
)
def test_changed_letter_gives_another_key_or_none(position: int, letter: str) -> None:
    changed = PEER[:position] + letter + PEER[position + 1 :]
    try:
        key = public_bytes_of(changed)
    except ConfigError:
        return
    assert (key == PUBLIC) is (changed == PEER)
    assert peer_id_of(key) == changed


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


def test_another_identity_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first, second = Identity.generate(), Identity.generate()
    first.save(path)
    with pytest.raises(ConfigError, match=f"already holds the identity {first.peer_id}"):
        second.save(path)
    assert Identity.load(path) == first


def test_load_or_create_takes_the_key_that_another_process_made_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "identity.key"
    other = Identity.generate()
    create = private_files.create_private

    def lose_the_race(where: Path, data: bytes) -> bool:
        other.save(where)
        return create(where, data)

    monkeypatch.setattr(
        "capamesh.protocol.identity.private_files.create_private",
        lambda where, data: (
            monkeypatch.setattr(private_files, "create_private", create),
            lose_the_race(where, data),
        )[1],
    )
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


@pytest.mark.parametrize("data", other_key_files())
def test_file_that_holds_no_plain_ed25519_key_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "identity.key"
    private_files.replace_private(path, data)
    with pytest.raises(ConfigError, match="identity key"):
        Identity.load(path)


def test_huge_file_a_folder_and_a_pipe_are_no_keys(tmp_path: Path) -> None:
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
