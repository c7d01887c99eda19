"""The chunk list: what a chunk must be, and how a list is written."""

from __future__ import annotations

import hashlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.repository import chunks
from capamesh.node.repository.chunks import CHUNK_BYTES, ChunkHasher, FileChunks, listed
from capamesh.protocol.model_digest import digest_of


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hashed(data: bytes, name: str = "model.onnx", step: int = CHUNK_BYTES) -> FileChunks:
    hasher = ChunkHasher()
    for start in range(0, len(data), step):
        hasher.update(data[start : start + step])
    return hasher.finish(name)


BIG = b"".join(bytes([number]) * CHUNK_BYTES for number in range(3)) + b"the end"
BIG_FILE = hashed(BIG)
CHUNKS = [BIG[start : start + CHUNK_BYTES] for start in range(0, len(BIG), CHUNK_BYTES)]


@given(data=st.binary(max_size=40), step=st.integers(1, 41))
def test_hashes_are_of_each_chunk_whatever_the_pieces_in_which_a_file_comes(
    data: bytes, step: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", 4)
        parts = [data[start : start + 4] for start in range(0, len(data), 4)]
        found = hashed(data, step=step)
        assert found == FileChunks("model.onnx", len(data), tuple(map(sha256, parts)))


def test_chunk_is_verified_by_its_length_and_all_of_its_bytes() -> None:
    for index, data in enumerate(CHUNKS):
        assert BIG_FILE.chunk_problem(index, memoryview(data)) == ""
        for at in (0, -1):
            changed = bytearray(data)
            changed[at] ^= 1
            assert BIG_FILE.chunk_problem(index, bytes(changed)) == (
                f"chunk {index} of 'model.onnx' has other bytes than its hash says"
            )
    assert BIG_FILE.chunk_problem(3, b"the en") == "chunk 3 of 'model.onnx' has 6 bytes, expected 7"
    assert "has 8 bytes" in BIG_FILE.chunk_problem(3, b"the end!")
    assert "has 4 chunks, none with the index 4" in BIG_FILE.chunk_problem(4, b"")
    assert "none with the index -1" in BIG_FILE.chunk_problem(-1, CHUNKS[3])
    with pytest.raises(IndexError):
        BIG_FILE.chunk_size(4)


def test_list_is_written_as_documented() -> None:
    content = listed([hashed(b"words", "vocabulary.txt"), BIG_FILE, hashed(b"", "\udcff")])
    raw = msgpack.packb(
        [
            [b"model.onnx", len(BIG), CHUNK_BYTES, [sha256(data) for data in CHUNKS]],
            [b"vocabulary.txt", 5, CHUNK_BYTES, [sha256(b"words")]],
            [b"\xff", 0, CHUNK_BYTES, []],
        ]
    )
    assert content.packed() == raw
    assert content.digest() == digest_of(sha256(raw))
    assert content.size_bytes == len(BIG) + 5
    assert content.file("vocabulary.txt") == hashed(b"words", "vocabulary.txt")
    assert content.file("other") is None
