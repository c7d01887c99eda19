"""Verified content: what is loaded is what was hashed; and arrays out of files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from capamesh.node.repository import (
    ContentChanged,
    FileStamp,
    FolderOrigin,
    VerifiedContent,
    array_files,
    chunks,
    file_stamp,
)
from capamesh.node.repository import content as content_module
from capamesh.node.repository import origin as origin_module
from capamesh.node.repository.array_files import read_npy, read_npz
from capamesh.node.repository.chunks import CHUNK_BYTES, ChunkHasher, FileChunks, listed
from capamesh.node.repository.content import hash_file
from capamesh.node.repository.file_stamp import stamp_of
from capamesh.protocol.model_digest import digest_of

MODEL = bytes(CHUNK_BYTES) + b"model"
WORDS = b"words"


def stamp(path: Path, name: str = "") -> FileStamp:
    return stamp_of(name or path.name, path, path.stat())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(MODEL)
    (tmp_path / "words.txt").write_bytes(WORDS)
    return tmp_path


def in_folder(folder: Path) -> VerifiedContent:
    files = (stamp(folder / "words.txt"), stamp(folder / "model.onnx"))
    return FolderOrigin(folder / "model.onnx", files).verified()


def load(content: VerifiedContent) -> bytes:
    """Return what a loader reads."""
    with content.reading() as path:
        return path.read_bytes()


def test_content_of_a_folder_is_what_its_files_have(folder: Path) -> None:
    content = in_folder(folder)
    assert [file.name for file in content.files] == ["model.onnx", "words.txt"]
    assert content.digest == content.chunks.digest()
    assert content.size_bytes == len(MODEL) + len(WORDS)
    assert [content.chunks.files[0].chunk_problem(0, MODEL[:CHUNK_BYTES])] == [""]
    assert load(content) == MODEL
    assert content.read("words.txt") == WORDS
    with pytest.raises(KeyError):
        content.read("other.txt")


def test_file_of_a_known_stamp_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = in_folder(folder)
    known = dict(zip(before.files, before.chunks.files, strict=True))
    monkeypatch.setattr(origin_module, "hash_file", pytest.fail)
    after = FolderOrigin(before.path, before.files, known=known).verified()
    assert after == before


def flipped(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(CHUNK_BYTES)
        stream.write(b"M")


def truncated(path: Path) -> None:
    os.truncate(path, CHUNK_BYTES)


def appended(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"!")


def swapped(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(MODEL[:-1] + b"L")
    other.rename(path)


def linked(path: Path) -> None:
    other = path.with_name("elsewhere")
    other.write_bytes(MODEL[:-1] + b"L")
    path.unlink()
    path.symlink_to(other)


CHANGED = r"model\.onnx' (was changed while it was read|has other bytes than sha256-chunks:)"
"""The second where the change was made in the same tick of the clock as the one before."""
ATTACKS = [flipped, truncated, appended, swapped, linked]


def in_secret(attack: Callable[[Path], None], path: Path) -> None:
    """Change the file, and give it the time that it had."""
    before = path.stat()
    attack(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("attack", ATTACKS)
def test_file_that_changes_until_it_is_loaded_is_refused(
    folder: Path, attack: Callable[[Path], None]
) -> None:
    content = in_folder(folder)
    with pytest.raises(ContentChanged, match=CHANGED):  # noqa: SIM117
        with content.reading() as path:
            in_secret(attack, path)
    with pytest.raises(ContentChanged, match=f"model.onnx' has other bytes than {content.digest}"):
        load(content)


def test_file_beside_the_model_is_verified_too(folder: Path) -> None:
    content = in_folder(folder)
    (folder / "words.txt").write_bytes(b"WORDS")
    with pytest.raises(ContentChanged, match=r"words\.txt' has other bytes"):
        load(content)


@pytest.mark.parametrize("raw", [b"WORDS", b"word"])
def test_small_file_that_is_read_has_the_bytes_that_were_hashed(folder: Path, raw: bytes) -> None:
    content = in_folder(folder)
    in_secret(lambda path: path.write_bytes(raw) and None, folder / "words.txt")
    with pytest.raises(ContentChanged, match=r"words\.txt' has other bytes"):
        content.read("words.txt")


def same(path: Path) -> None:
    """Change the file as if in the same tick of the clock: it keeps its stamp."""
    with path.open("r+b") as stream:
        stream.write(b"\1")


@pytest.mark.parametrize("is_loaded", [False, True])
def test_change_in_the_same_tick_as_the_one_before_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, is_loaded: bool
) -> None:
    # the times of all files stand still, and are too new to tell of a change
    monkeypatch.setattr(file_stamp, "TICK_NS", 10**12)
    monkeypatch.setattr(content_module, "_now", lambda file: file)
    monkeypatch.setattr(file_stamp, "_check", lambda file, descriptor: None)
    content = in_folder(folder)
    if not is_loaded:
        same(content.path)
    with pytest.raises(ContentChanged, match="has other bytes"):  # noqa: SIM117
        with content.reading() as path:
            same(path) if is_loaded else pytest.fail("the loader was given the file")


def until_next_tick(path: Path) -> None:
    """Wait until a change of the file gives it another time than it has: the clock of file times stands still for a while."""
    beside = path.with_name("beside")
    beside.write_bytes(b"")
    while stamp(beside).changed_ns <= stamp(path).changed_ns:
        beside.write_bytes(b"")


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[memoryview], object]]:
    """Return what is called, one each time, before a piece of a file is hashed."""
    calls: list[Callable[[memoryview], object]] = []
    real = ChunkHasher.update

    def update(hasher: ChunkHasher, data: memoryview) -> None:
        if calls:
            calls.pop()(data)
        real(hasher, data)

    monkeypatch.setattr(ChunkHasher, "update", update)
    return calls


@pytest.mark.parametrize("attack", [flipped, truncated, appended])
def test_file_that_is_written_to_while_it_is_hashed_is_refused(
    folder: Path, hashing: list[Callable[[memoryview], object]], attack: Callable[[Path], None]
) -> None:
    hashing.append(lambda _: attack(folder / "model.onnx"))
    until_next_tick(folder / "model.onnx")
    with pytest.raises(ContentChanged, match="was changed while it was read"):
        hash_file(stamp(folder / "model.onnx"))


@pytest.mark.parametrize(
    ("ago_s", "is_sure"),
    [(1.0, True), (0.021, True), (0.019, False), (0.0, False), (-3600.0, True)],
)
def test_stamp_is_sure_unless_it_is_of_the_tick_of_the_read(ago_s: float, is_sure: bool) -> None:
    read_ns = 10**18
    file = FileStamp("m", Path("m"), 0, 0, read_ns - int(ago_s * 1e9))
    assert file.is_sure(read_ns) is is_sure


@pytest.mark.parametrize("is_read_whole", [False, True])
def test_pipe_in_a_files_place_is_refused(folder: Path, is_read_whole: bool) -> None:
    content = FolderOrigin(folder / "model.onnx", (stamp(folder / "model.onnx"),)).verified()
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    with pytest.raises(ContentChanged), contextlib.ExitStack() as stack:
        _ = content.read("model.onnx") if is_read_whole else stack.enter_context(content.reading())


def test_pipe_that_took_a_files_place_a_moment_ago_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "model.onnx")
    writer = os.open(pipe, os.O_RDWR)  # so that even who waits for a writer goes on
    try:
        os.write(writer, b"what somebody else says")
        for read in (
            lambda: hash_file(stamp(pipe)),
            lambda: read_npy(pipe, 1024),
            lambda: read_npz(pipe, 1024),
        ):
            with pytest.raises(OSError, match="not an ordinary file"):
                read()
        os.set_blocking(writer, False)
        assert os.read(writer, 100) == b"what somebody else says"
    finally:
        os.close(writer)


def test_file_that_grows_endlessly_is_given_up(
    folder: Path, hashing: list[Callable[[memoryview], object]]
) -> None:
    hashed: list[int] = []

    def grow(data: memoryview) -> None:
        hashed.append(len(data))
        with (folder / "model.onnx").open("ab") as stream:
            stream.write(data)

    hashing += [grow] * 100
    with pytest.raises(ContentChanged):
        hash_file(stamp(folder / "model.onnx"))
    assert sum(hashed) <= len(MODEL)


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
def test_hashes_are_of_chunks_whatever_the_pieces(data: bytes, step: int) -> None:
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
            problem = f"chunk {index} of 'model.onnx' has other bytes than its hash says"
            assert BIG_FILE.chunk_problem(index, bytes(changed)) == problem
    assert BIG_FILE.chunk_problem(3, b"the en") == "chunk 3 of 'model.onnx' has 6 bytes, expected 7"
    assert "has 8 bytes" in BIG_FILE.chunk_problem(3, b"the end!")
    assert "has 4 chunks, none with the index 4" in BIG_FILE.chunk_problem(4, b"")
    assert "none with the index -1" in BIG_FILE.chunk_problem(-1, CHUNKS[3])
    with pytest.raises(IndexError):
        BIG_FILE.chunk_size(4)


def test_list_is_written_as_documented() -> None:
    content = listed([hashed(b"words", "vocabulary.txt"), BIG_FILE, hashed(b"", "\udcff")])
    big = [b"model.onnx", len(BIG), CHUNK_BYTES, [sha256(data) for data in CHUNKS]]
    words = [b"vocabulary.txt", 5, CHUNK_BYTES, [sha256(b"words")]]
    raw = msgpack.packb([big, words, [b"\xff", 0, CHUNK_BYTES, []]])
    assert content.packed() == raw
    assert content.digest() == digest_of(sha256(raw))
    assert content.size_bytes == len(BIG) + 5
    assert content.file("vocabulary.txt") == hashed(b"words", "vocabulary.txt")
    assert content.file("other") is None


MIB = 2**20


def saved(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def file(folder: Path, raw: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(raw)
    return path


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrays")


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.int64, np.uint8, np.bool_, "<U3", "S2", ">i4"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    st.booleans(),
)
def test_array_that_numpy_saved_comes_back(
    arrays: Path, array: npt.NDArray[Any], is_turned: bool
) -> None:
    array = array.T if is_turned else array
    raw = saved(array)
    path = file(arrays, raw)
    found = read_npy(path, len(raw))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    with pytest.raises(ValueError, match=f"{len(raw)} bytes, at most {len(raw) - 1} are read"):
        read_npy(path, len(raw) - 1)


@given(st.integers(0, 200), st.binary(max_size=4))
def test_file_cut_short_or_too_long_is_refused(arrays: Path, keep: int, more: bytes) -> None:
    raw = saved(np.arange(8.0))
    changed = raw[:keep] + more
    if len(changed) == len(raw):
        return
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
        read_npy(file(arrays, changed), MIB)


PROMISE = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}}}"


@pytest.mark.parametrize(
    ("header", "why"),
    [
        *(
            (header, ".")
            for header in ("-" * 9000 + "1", "(" * 300, "'\\", "{1: 2, 'a': []}", "{[]: 1}")
        ),
        (PROMISE.format("(1000000000000,)"), r"\[1000000000000\] of float32, and 8 bytes follow"),
        (PROMISE.format("(-1, -2)"), r"\[-1, -2\] of float32, and 8 bytes follow"),
        (PROMISE.format("(3,)"), r"\[3\] of float32, and 8 bytes follow"),
    ],
)
def test_header_that_promises_too_much_or_troubles_pythons_parser_is_refused(
    tmp_path: Path, header: str, why: str
) -> None:
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(8)
    with pytest.raises(ValueError, match=why):
        read_npy(file(tmp_path, raw), MIB)


class Boom:
    """Would say so when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def test_objects_are_never_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pickled = np.array([Boom()], object)
    with pytest.raises(ValueError, match="Python objects"):
        read_npy(file(tmp_path, saved(pickled)), MIB)
    np.savez(tmp_path / "a.npz", x=pickled)
    with pytest.raises(ValueError, match="Python objects"):
        read_npz(tmp_path / "a.npz", MIB)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_an_archive_come_back_by_name(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.npz", x=np.arange(4), **{"in/y:0": np.array(["a", "bc"])})
    found = read_npz(tmp_path / "a.npz", MIB)
    assert {name: array.tolist() for name, array in found.items()} == {
        "x": [0, 1, 2, 3],
        "in/y:0": ["a", "bc"],
    }


def test_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros(MIB, np.uint8), y=np.zeros(MIB, np.uint8))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # nothing is unpacked
    refusal = rf"2 arrays of 20974\d\d bytes .* at most .* {2 * MIB} bytes"
    with pytest.raises(ValueError, match=refusal):
        read_npz(path, 2 * MIB)
    monkeypatch.setattr(array_files, "_MAX_ARRAYS", 1)
    with pytest.raises(ValueError, match=r"2 arrays of .*; at most 1 of"):
        read_npz(path, 3 * MIB)


def test_member_that_is_larger_than_it_says_gives_no_more_than_that(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(MIB, np.uint8))
    raw = (tmp_path / "a.npz").read_bytes()
    reported, real = struct.pack("<I", 1000), struct.pack("<I", MIB + 128)
    assert real in raw
    with pytest.raises(ValueError, match=r"bytes follow|not an archive"):
        read_npz(file(tmp_path, raw.replace(real, reported)), MIB)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing_are_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("x.npy", saved(np.ones(3)))
    with pytest.raises(ValueError, match=r"'x\.npy' is packed otherwise than"):
        read_npz(tmp_path / "a.npz", MIB)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda junk: b"PK\x03\x04" + junk))
def test_junk_is_refused(arrays: Path, raw: bytes) -> None:
    path = file(arrays, raw)
    for read in (read_npy, read_npz):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
            read(path, MIB)
