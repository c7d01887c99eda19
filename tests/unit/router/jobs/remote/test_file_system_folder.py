"""What fsspec has is a place of data, and none of its file systems can hold a router up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from typing_extensions import override

from capamesh.protocol.errors import ConfigError, InvalidRequest
from capamesh.router.jobs.errors import InputInvalid, OutputFailed, PlaceUnavailable
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.remote import file_system_folder
from capamesh.router.jobs.remote.file_system_folder import MOST_LEFT, FileSystemFolder
from capamesh.router.jobs.remote.files import RemoteFile, RemoteSink
from capamesh.router.jobs.remote.folder import Entry, Unreachable, Unsuited
from capamesh.router.jobs.remote.urls import RemoteUrl, remote_url
from capamesh.router.jobs.values import JobId

fsspec = pytest.importorskip("fsspec")
memory = pytest.importorskip("fsspec.implementations.memory")

LINES = b"".join(b'{"v": %d}\n' % at for at in range(500))


@pytest.fixture
def files() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_input_is_read(files: Any) -> None:
    files.pipe_file("/sets/in.jsonl", LINES)
    reader = JsonlReader(RemoteFile(remote_url("memory://sets/in.jsonl")))
    found = [
        value
        for each in reader.ranges(ShardLimits(70))
        for window in reader.windows(each, ["v"])
        for value in window.columns["v"]
    ]
    assert found == list(range(500))


def test_missing_file_and_folder_are_told(files: Any) -> None:
    files.pipe_file("/data/sets/in.jsonl", LINES)
    with pytest.raises(InputInvalid, match=r"memory://data/none\.jsonl is not there"):
        RemoteFile(remote_url("memory://data/none.jsonl")).stamp()
    with pytest.raises(InputInvalid, match="no file of a known length"):
        RemoteFile(remote_url("memory://data/sets")).stamp()
    assert list(FileSystemFolder(remote_url("memory://none")).entries()) == []


def test_files_are_listed_through_all_folders(files: Any) -> None:
    for path in ("a.png", "deep/er/b.png", "deep/c.png"):
        files.pipe_file(f"/pictures/{path}", path.encode())
    files.pipe_file("/pictures2/d.png", b"x")
    found = list(FileSystemFolder(remote_url("memory://pictures")).entries())
    assert sorted((each.path, each.size_bytes) for each in found) == [
        ("a.png", 5),
        ("deep/c.png", 10),
        ("deep/er/b.png", 13),
    ]
    assert all(each.changed for each in found)
    assert isinstance(found[0], Entry)


def test_part_is_written_beside_its_place_and_renamed(files: Any) -> None:
    sink = RemoteSink(remote_url("memory://out"), JobId("job-1"))
    part = sink.write("part-000001-2.jsonl", [LINES])
    assert files.find("/out") == ["/out/job-1/part-000001-2.jsonl"]
    assert sink.read(part) == LINES
    with pytest.raises(OutputFailed, match="is there already"):
        sink.write(part.name, [b"other"])
    files.pipe_file("/out/job-1/.part-000001-3.jsonl.tmp", b"half")
    files.pipe_file("/out/job-1/mine.txt", b"x")
    assert sink.collect({part.name}) == 1
    assert files.find("/out") == ["/out/job-1/mine.txt", "/out/job-1/part-000001-2.jsonl"]


def test_schemes_that_are_unknown_or_in_which_a_rename_may_be_seen_half_done_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="not known that a file is renamed as one step"):
        RemoteSink(remote_url("ftp://host/out"), JobId("job-1"))
    with pytest.raises(ConfigError, match="fsspec has no nosuch:// here"):
        FileSystemFolder(remote_url("nosuch://host/x"))


class Hanging(memory.MemoryFileSystem):  # type: ignore[name-defined,misc]
    """A file system under a name of its own that counts its connections, and hangs until a test lets it go."""

    protocol = "hanging"
    go = threading.Event()
    made = 0

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        type(self).made += 1

    @classmethod
    @override
    def _strip_protocol(cls, path: str) -> str:
        found: str = super()._strip_protocol(path.replace("hanging://", "memory://"))
        return found

    @override
    def info(self, path: str, **options: Any) -> dict[str, Any]:
        assert self.go.wait(60)
        found: dict[str, Any] = super().info(path, **options)
        return found


def test_call_that_hangs_is_given_up_with_its_connection(
    files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("hanging", Hanging, clobber=True)
    files.pipe_file("/x.jsonl", LINES)
    left = file_system_folder._Left()
    monkeypatch.setattr(file_system_folder, "_LEFT", left)
    folder = FileSystemFolder(RemoteUrl("hanging", "", ""), call_s=0.05)
    for _ in range(MOST_LEFT):
        with pytest.raises(Unreachable, match="did not answer in time"):
            folder.stamp("x.jsonl")
    with pytest.raises(Unreachable, match=f"{MOST_LEFT} calls of jobs"):
        folder.stamp("x.jsonl")
    hanging = [each for each in threading.enumerate() if each.name == "job place"]
    Hanging.go.set()
    for each in hanging:
        each.join(60)
    assert Hanging.made == MOST_LEFT  # none used the connection of one that hangs
    assert left.add(0) == 0
    folder._call_s = 60.0
    assert folder.stamp("x.jsonl").size_bytes == len(LINES)


def test_error_of_a_library_is_told_by_its_kind_alone(
    files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_words: object, **_options: object) -> None:
        raise RuntimeError("530 user me password secret")

    files.pipe_file("/x.jsonl", LINES)
    monkeypatch.setattr(memory.MemoryFileSystem, "info", broken)
    with pytest.raises(PlaceUnavailable) as caught:
        RemoteFile(remote_url("memory://x.jsonl/y")).stamp()
    assert "secret" not in str(caught.value)
    assert "RuntimeError" in str(caught.value)


def test_files_without_a_mark_of_change_and_folders_that_go_round_are_refused(
    files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def info(*_: object, **__: object) -> dict[str, object]:
        return {"type": "file", "size": 3, "name": "x"}

    def ls(_: object, path: str, **__: object) -> list[dict[str, object]]:
        return [{"name": f"{path}/again", "type": "directory", "size": 0}]

    monkeypatch.setattr(memory.MemoryFileSystem, "info", info)
    monkeypatch.setattr(memory.MemoryFileSystem, "ls", ls)
    folder = FileSystemFolder(remote_url("memory://d"))
    with pytest.raises(Unsuited, match="a change would not be seen"):
        folder.stamp("x")
    with pytest.raises(Unsuited, match="within one another"):
        list(folder.entries())
