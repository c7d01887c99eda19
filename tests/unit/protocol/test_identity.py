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


@pytest.mark.parametrize("name", ["", "x" * 64, "-a", "_a", "a b", "a\n", "ä", "\x1b[2J"])
def test_text_that_is_no_name_is_refused_with_what_one_is(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"1 to 63 of the characters A-Z a-z 0-9 \. _ - and begins"
    ):
        checked_name(name)
    for good in ("a", "GPU_1.lab-2", "9", "x" * 63):
        assert checked_name(good) == good


@given(st.text())
def test_name_of_any_host_is_a_name_or_none(host: str) -> None:
    name = name_of_host(host)
    assert name == "" or checked_name(name) == name


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


@pytest.mark.parametrize(
    "text",
    ["", GOOD[:-1], GOOD + "0", GOOD.upper(), GOOD + "\n", "sha256:0"],
)
def test_junk_is_no_digest_of_any_form(text: str) -> None:
    assert not is_digest(text)
    assert not is_other_digest(text)
    assert other_form(text) == ""


@pytest.mark.parametrize("text", [OLD, "sha512:" + "0" * 128, "blake3+tree.v2:" + "Zz-_=" * 10])
def test_digest_of_another_version_is_known_as_such(text: str) -> None:
    assert not is_digest(text)
    assert is_other_digest(text)
    assert other_form(text) == (
        f"{short_digest(text)} is a digest of another version of Capamesh; this one names files by"
        " sha256-chunks:…"
    )


def test_digest_is_its_form_and_hexadecimal_digits() -> None:
    assert digest_of(b"\n" * 32) == GOOD
    assert is_digest(GOOD)
    assert not is_other_digest(GOOD)
    assert [short_digest(each) for each in (GOOD, "")] == ["sha256-chunks:0a0a0a0a0a0a", ""]


ALICE = Identity.from_private_bytes(b"a" * 32)
DIGEST = "sha256-chunks:" + "0" * 64
SIGNED = sign(ALICE, "m", "1", DIGEST)


def test_signature_is_of_just_this_name_version_and_digest() -> None:
    assert len(SIGNED) == SIGNED_BYTES
    assert publisher_of(SIGNED) == ALICE.peer_id
    assert is_signed(SIGNED, "m", "1", DIGEST)
    assert not is_signed(SIGNED, "n", "1", DIGEST)
    assert not is_signed(SIGNED, "m", "2", DIGEST)
    assert not is_signed(SIGNED, "m", "1", "sha256-chunks:" + "1" * 64)


def test_file_of_signatures_comes_back() -> None:
    other = sign(Identity.from_private_bytes(b"b" * 32), "m", "1", DIGEST)
    listed = [SignedVersion("10", DIGEST, SIGNED), SignedVersion("1", DIGEST, other)]
    text = signatures_to_text(listed)
    assert text.startswith("# Who has signed")
    assert signatures_from_text(text) == [listed[1], listed[0]]


@pytest.mark.parametrize(
    "line",
    ["1 sha256-chunks:0", "one d 12D3 AA==", f"1 d {ALICE.peer_id} !", f"1 d {ALICE.peer_id} AA=="],
)
def test_line_that_is_no_signature_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        signatures_from_text("# people\n" + line)


@given(st.integers(0, SIGNED_BYTES * 8 - 1), st.binary(max_size=200))
def test_junk_is_no_signature_and_no_bit_of_one_may_differ(bit: int, junk: bytes) -> None:
    changed = bytearray(SIGNED)
    changed[bit // 8] ^= 1 << bit % 8
    for wrong in (bytes(changed), junk):
        assert not is_signed(wrong, "m", "1", DIGEST)
