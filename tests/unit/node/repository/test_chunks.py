"""The chunk list: what a chunk must be, how a list is written, and lists that lie."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.repository import chunks
from capamesh.node.repository.chunks import (
    CHUNK_BYTES,
    MAX_VERSION_BYTES,
    ChunkHasher,
    ChunkList,
    FileChunks,
    listed,
    read_chunk_list,
)
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.model_digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

NO_HASH = bytes(32)


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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4)


def test_hashes_are_those_of_each_four_mebibytes() -> None:
    assert FileChunks("model.onnx", len(BIG), tuple(map(sha256, CHUNKS))) == BIG_FILE


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"abcd", [b"abcd"]),
        (b"abcde", [b"abcd", b"e"]),
        (b"abcdefgh", [b"abcd", b"efgh"]),
    ],
)
def test_last_chunk_has_the_rest_and_no_bytes_have_no_chunk(
    data: bytes, parts: list[bytes]
) -> None:
    assert hashed(data) == FileChunks("model.onnx", len(data), tuple(map(sha256, parts)))


@given(data=st.binary(max_size=40), step=st.integers(1, 41))
def test_pieces_in_which_a_file_comes_do_not_matter(data: bytes, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", 4)
        assert hashed(data, step=step) == hashed(data)


def test_every_chunk_of_a_file_is_verified_alone() -> None:
    for index, data in enumerate(CHUNKS):
        assert BIG_FILE.chunk_problem(index, data) == ""
        assert BIG_FILE.chunk_problem(index, memoryview(data)) == ""


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("at", [0, -1])
def test_changed_byte_in_any_chunk_is_found(index: int, at: int) -> None:
    data = bytearray(CHUNKS[index])
    data[at] ^= 1
    assert BIG_FILE.chunk_problem(index, bytes(data)) == (
        f"chunk {index} of 'model.onnx' has other bytes than its hash says"
    )


def test_chunks_that_are_short_long_elsewhere_or_beyond_the_end_are_refused() -> None:
    assert BIG_FILE.chunk_problem(3, b"the en") == (
        "chunk 3 of 'model.onnx' has 6 bytes, expected 7"
    )
    assert "has 8 bytes" in BIG_FILE.chunk_problem(3, b"the end!")
    assert "has other bytes" in BIG_FILE.chunk_problem(0, CHUNKS[1])
    assert "has 4 chunks, none with the index 4" in BIG_FILE.chunk_problem(4, b"")
    assert "none with the index -1" in BIG_FILE.chunk_problem(-1, CHUNKS[3])
    with pytest.raises(IndexError):
        BIG_FILE.chunk_size(4)


def test_list_is_written_as_documented_and_read_back() -> None:
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
    assert read_chunk_list(raw, content.digest()) == content
    assert content.size_bytes == len(BIG) + 5
    assert content.file("vocabulary.txt") == hashed(b"words", "vocabulary.txt")
    assert content.file("other") is None


@pytest.mark.usefixtures("small")
def test_reordered_chunks_another_name_or_size_give_another_digest() -> None:
    digests = {
        ChunkList(files).digest()
        for files in (
            (hashed(b"abcdefgh"),),
            (hashed(b"efghabcd"),),
            (hashed(b"abcdefgh", "other"),),
            (hashed(b"abcdefg"),),
            (hashed(b"abcdefgh\0"),),
            (hashed(b"abcd", "a"), hashed(b"efgh", "b")),
        )
    }
    assert len(digests) == 6


def entry(
    name: object = b"a",
    size: object = 1,
    chunk: object = CHUNK_BYTES,
    hashes: object = (NO_HASH,),
) -> list[object]:
    return [name, size, chunk, hashes]


def refusal(value: Any, raw: bytes | None = None) -> str:
    """Return why a list is refused whose digest is right."""
    if raw is None:
        raw = msgpack.packb(value)
    with pytest.raises(ModelInvalid) as caught:
        read_chunk_list(raw, digest_of(sha256(raw)))
    return caught.value.message


def test_list_of_another_digest_is_refused_before_it_is_read() -> None:
    raw = msgpack.packb([entry()])
    with pytest.raises(ModelInvalid) as caught:
        read_chunk_list(raw + b"\xc1", digest_of(sha256(raw)))
    assert caught.value.message == (
        f"the chunk list is of sha256-chunks:{sha256(raw + bytes([0xC1])).hex()[:12]}, "
        f"expected sha256-chunks:{sha256(raw).hex()[:12]}"
    )


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([entry(size=2 * CHUNK_BYTES)], "'a' of 8388608 bytes has 1 hashes, expected 2"),
        ([entry(size=CHUNK_BYTES + 1)], "has 1 hashes, expected 2"),
        ([entry(size=0)], "'a' of 0 bytes has 1 hashes, expected 0"),
        ([entry(hashes=[])], "has 0 hashes, expected 1"),
        ([entry(size=-1)], "'a' has -1 bytes; 0 to"),
        ([entry(size=2**63)], "0 to 274877906944 are allowed"),
        ([entry(size=MAX_VERSION_BYTES + 1)], "0 to 274877906944 are allowed"),
        ([entry(size=True)], "Expected `int`, got `bool` - at `$[0][1]`"),
        ([entry(size=1.0)], "Expected `int`, got `float` - at `$[0][1]`"),
        ([entry(name="text")], "Expected `bytes`, got `str` - at `$[0][0]`"),
        ([entry(hashes=NO_HASH)], "Expected `array`, got `bytes` - at `$[0][3]`"),
        ([entry(chunk=2**20)], "'a' has chunks of 1048576 bytes, expected 4194304"),
        ([entry(chunk=float(CHUNK_BYTES))], "Expected `int`, got `float` - at `$[0][2]`"),
        ([entry(hashes=[bytes(31)])], "Expected `bytes` of length >= 32 - at `$[0][3][0]`"),
        ([entry(hashes=["0" * 32])], "Expected `bytes`, got `str` - at `$[0][3][0]`"),
        ([[*entry(), 1]], "Expected `array` of length 4, got 5 - at `$[0]`"),
        ([1], "Expected `array`, got `int` - at `$[0]`"),
        ([], "the chunk list cannot be read: Expected `array` of length >= 1"),
        ({}, "Expected `array`, got `object`"),
        ([entry(), entry()], "'a' stands twice, or not in its order"),
        ([entry(b"b"), entry(b"a")], "'a' stands twice, or not in its order"),
        ([entry(b"a"), entry(b"a/b")], "'a' is a file and a folder"),
        ([entry(b"a"), entry(b"a-"), entry(b"a/b/c")], "'a' is a file and a folder"),
    ],
)
def test_list_that_lies_is_refused(value: object, complaint: str) -> None:
    assert complaint in refusal(value)


@pytest.mark.parametrize(
    "name",
    [b"", b".", b"..", b"../a", b"a/../../b", b"/etc/passwd", b"a//b", b"a/", b"a\0b", b"./a",
     b"x" * 256, b"/".join([b"x" * 200] * 21)],
)  # fmt: skip
def test_name_that_is_no_path_below_the_folder_is_refused(name: bytes) -> None:
    assert "is no path of a file below a model's folder" in refusal([entry(name)])


def most_bytes(read: Callable[[], object]) -> int:
    """Return the most memory that `read` holds at once."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_names_of_many_folders_take_no_more_memory_than_the_list() -> None:
    deep = b"a/" * 2000
    raw = msgpack.packb([entry(b"%s%03d" % (deep, number)) for number in range(20)])
    assert most_bytes(lambda: read_chunk_list(raw, digest_of(sha256(raw)))) < 10 * len(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xdd\x00\x00\xff\xff" * 1000,  # each of 1,000 levels announces 65,535 entries
        b"\x91\x94\xc4\x00\x01\xce\x00\x40\x00\x00" + b"\x91" * 20_000,
        msgpack.packb([entry(hashes=[[]] * 65_535)]),
        msgpack.packb([entry(hashes=[{}] * 65_535)]),
        msgpack.packb([[[[]] * 10_000] * 6]),
    ],
    ids=["wide", "deep", "lists", "maps", "files"],
)  # fmt: skip
def test_list_that_would_take_much_memory_is_refused_without_it(raw: bytes) -> None:
    assert most_bytes(lambda: refusal(None, raw)) < 100_000


def test_list_that_is_no_msgpack_or_not_in_its_shortest_form_is_refused() -> None:
    raw = msgpack.packb([entry()])
    assert "Input data was truncated" in refusal(None, raw[:-1])
    assert "trailing characters" in refusal(None, raw + b"\0")
    long_size = raw.replace(b"\x01\xce", b"\xcc\x01\xce")  # the size 1 as an integer of 8 bits
    assert len(long_size) == len(raw) + 1
    assert refusal(None, long_size) == "the chunk list is not in the shortest form of msgpack"


def test_huge_counts_are_refused_without_room_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Expected `array` of length <= 10000" in refusal(None, b"\xdd\xff\xff\xff\xff")
    assert "Expected `array` of length <= 10000" in refusal([1] * 10_001)
    half = [entry(name, MAX_VERSION_BYTES // 2, hashes=[NO_HASH] * 32_768) for name in (b"a", b"b")]
    assert "a chunk list of 274877906945 bytes" in refusal([*half, entry(b"c")])
    monkeypatch.setattr(chunks, "MAX_LIST_BYTES", 10)
    assert "a chunk list of 11 bytes; at most 10" in refusal(None, bytes(11))


@given(st.binary(max_size=200))
def test_junk_is_refused_and_never_fails_otherwise(raw: bytes) -> None:
    refusal(None, raw)


@given(st.data())
def test_changed_list_is_refused_or_read_as_it_is(data: st.DataObject) -> None:
    raw = bytearray(listed([hashed(b"x", "m"), hashed(b"", "n/o")]).packed())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_chunk_list(bytes(raw), digest_of(sha256(bytes(raw))))
    except ModelInvalid:
        return
    assert found.packed() == bytes(raw)
