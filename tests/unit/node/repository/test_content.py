"""Verified content: what an origin gives is hashed, and what is loaded is what was hashed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from capamesh.node.repository import (
    ContentChanged,
    FileStamp,
    FolderOrigin,
    VerifiedContent,
    file_stamp,
)
from capamesh.node.repository import content as content_module
from capamesh.node.repository import origin as origin_module
from capamesh.node.repository.array_files import read_npy, read_npz
from capamesh.node.repository.chunks import (
    CHUNK_BYTES,
    ChunkHasher,
    FileChunks,
)
from capamesh.node.repository.content import hash_file
from capamesh.node.repository.file_stamp import stamp_of

MODEL = bytes(CHUNK_BYTES) + b"model"
WORDS = b"words"


def stamp(path: Path, name: str = "") -> FileStamp:
    return stamp_of(name or path.name, path, path.stat())


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every change give another time, however soon it is made."""
    monkeypatch.setattr(file_stamp, "TICK_NS", -(10**12))


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


def test_file_known_by_its_stamp_is_not_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = in_folder(folder)
    known = dict(zip(before.files, before.chunks.files, strict=True))
    monkeypatch.setattr(origin_module, "hash_file", pytest.fail)
    after = FolderOrigin(before.path, before.files, known=known).verified()
    assert after == before


@pytest.mark.usefixtures("ticks")
def test_file_that_was_only_touched_is_hashed_again_and_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = in_folder(folder)
    os.utime(folder / "words.txt", (1, 1))
    read: list[str] = []

    def logged(file: FileStamp) -> FileChunks:
        read.append(file.name)
        return hash_file(file)

    monkeypatch.setattr(content_module, "hash_file", logged)
    assert load(content) == MODEL
    assert read == ["words.txt"]


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
def test_file_that_is_changed_between_hash_and_load_is_not_loaded(
    folder: Path, attack: Callable[[Path], None]
) -> None:
    content = in_folder(folder)
    in_secret(attack, content.path)
    with pytest.raises(ContentChanged, match=f"model.onnx' has other bytes than {content.digest}"):
        load(content)


@pytest.mark.parametrize("attack", ATTACKS)
def test_file_that_is_changed_while_it_is_loaded_is_refused(
    folder: Path, attack: Callable[[Path], None]
) -> None:
    content = in_folder(folder)
    with pytest.raises(ContentChanged, match=CHANGED):  # noqa: SIM117
        with content.reading() as path:
            in_secret(attack, path)


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


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the times of all files stand still, and be too new to tell of a change."""
    monkeypatch.setattr(file_stamp, "TICK_NS", 10**12)
    monkeypatch.setattr(content_module, "_now", lambda file: file)
    monkeypatch.setattr(file_stamp, "_check", lambda file, descriptor: None)


@pytest.mark.usefixtures("still")
def test_change_in_the_same_tick_as_the_one_before_is_found_at_the_load(folder: Path) -> None:
    content = in_folder(folder)
    same(content.path)
    with pytest.raises(ContentChanged, match="has other bytes"):  # noqa: SIM117
        with content.reading():
            pytest.fail("the loader was given the file")


@pytest.mark.usefixtures("still")
def test_change_in_the_same_tick_as_the_one_before_is_found_after_the_load(folder: Path) -> None:
    content = in_folder(folder)
    with pytest.raises(ContentChanged, match="has other bytes"):  # noqa: SIM117
        with content.reading() as path:
            same(path)


def until_next_tick(path: Path) -> None:
    """Wait until a change of the file gives it another time than it has: the clock of file times stands still for a while."""
    beside = path.with_name("beside")
    beside.write_bytes(b"")
    while stamp(beside).changed_ns <= stamp(path).changed_ns:
        beside.write_bytes(b"")


@pytest.mark.parametrize("attack", [flipped, truncated, appended])
def test_file_that_is_written_to_while_it_is_hashed_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, attack: Callable[[Path], None]
) -> None:
    real = ChunkHasher.update
    left = [attack]

    def update(hasher: ChunkHasher, data: memoryview) -> None:
        if left:
            left.pop()(folder / "model.onnx")
        real(hasher, data)

    monkeypatch.setattr(ChunkHasher, "update", update)
    until_next_tick(folder / "model.onnx")
    with pytest.raises(ContentChanged, match="was changed while it was read"):
        hash_file(stamp(folder / "model.onnx"))


def test_large_file_is_hashed_without_being_held(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[int] = []
    real = ChunkHasher.update

    def update(hasher: ChunkHasher, data: memoryview) -> None:
        pieces.append(len(data))
        real(hasher, data)

    monkeypatch.setattr(ChunkHasher, "update", update)
    assert hash_file(stamp(folder / "model.onnx")).size_bytes == len(MODEL)
    assert sum(pieces) == len(MODEL)
    assert max(pieces) <= 2**20


@pytest.mark.parametrize(
    ("ago_s", "is_sure"),
    [(1.0, True), (0.021, True), (0.019, False), (0.0, False), (-3600.0, True)],
)
def test_stamp_is_sure_unless_it_is_of_the_tick_in_which_the_file_was_read(
    ago_s: float, is_sure: bool
) -> None:
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


def test_file_that_grows_without_an_end_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ChunkHasher.update
    updates: list[int] = []

    def update(hasher: ChunkHasher, data: memoryview) -> None:
        updates.append(len(data))
        with (folder / "model.onnx").open("ab") as stream:
            stream.write(data)
        real(hasher, data)

    monkeypatch.setattr(ChunkHasher, "update", update)
    with pytest.raises(ContentChanged):
        hash_file(stamp(folder / "model.onnx"))
    assert sum(updates) <= len(MODEL)
