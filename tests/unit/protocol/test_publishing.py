from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import Identity
from capamesh.protocol.publishing import (
    SIGNED_BYTES,
    SignedVersion,
    is_signed,
    publisher_of,
    sign,
    signatures_from_text,
    signatures_to_text,
)

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
