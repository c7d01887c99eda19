"""Files far away are rows of a job as those of a folder here are."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from typing_extensions import override

from capamesh.router.jobs.errors import InputChanged, InputInvalid, OutputFailed, PlaceUnavailable
from capamesh.router.jobs.inputs import folder as folders
from capamesh.router.jobs.inputs.folder import FolderReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.source import Entry, Stamp
from capamesh.router.jobs.remote import files as remote_files
from capamesh.router.jobs.remote.files import RemoteFile, RemoteFiles, RemoteSink
from capamesh.router.jobs.remote.folder import (
    AlreadyThere,
    Denied,
    NotThere,
    NotTheSame,
    RemoteFolder,
    Unreachable,
)
from capamesh.router.jobs.remote.urls import remote_url
from capamesh.router.jobs.values import JobId

URL = remote_url("s3://b/data")


class Kept(RemoteFolder):
    """A folder in memory, whose files can be replaced and go wrong."""

    most_at_once = 4

    def __init__(self) -> None:
        super().__init__(URL)
        self.files: dict[str, bytes] = {}
        self.errors: dict[str, Exception] = {}
        self.removed: list[str] = []
        self.meeting = threading.Barrier(1)
        """Each read waits here until so many others are under way."""

    @override
    def stamp(self, path: str) -> Stamp:
        if path not in self.files:
            raise NotThere("is not there")
        return Stamp(len(self.files[path]), str(hash(self.files[path])))

    @override
    def read(self, path: str, start: int, end: int, stamp: Stamp) -> bytes:
        self.meeting.wait(60)
        if path in self.errors:
            raise self.errors[path]
        if self.stamp(path) != stamp:
            raise NotTheSame("is not what it was when the job was planned")
        return self.files[path][start:end]

    @override
    def entries(self) -> Iterator[Entry]:
        for path in reversed(self.files):
            stamp = self.stamp(path)
            yield Entry(path, stamp.size_bytes, stamp.changed)

    @override
    def names(self) -> Iterator[str]:
        yield from list(self.files)

    @override
    def put(self, name: str, data: bytes) -> None:
        if name in self.files:
            raise AlreadyThere("is there already; a part is written once")
        if name in self.errors:
            raise self.errors[name]
        self.files[name] = data

    @override
    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            del self.files[name]


@pytest.fixture
def kept() -> Kept:
    return Kept()


def reader_of(kept: Kept) -> FolderReader:
    return FolderReader(RemoteFiles(URL, lambda _url: kept))


def test_files_are_read_several_at_once(kept: Kept) -> None:
    kept.files = {f"{at:02d}": b"a file" for at in range(3 * kept.most_at_once)}
    kept.meeting = threading.Barrier(kept.most_at_once)
    reader = reader_of(kept)
    (each,) = reader.ranges(ShardLimits(100))
    (raw,) = reader.windows(each, ["content"])
    assert raw.columns["content"] == list(kept.files.values())


def test_file_that_may_not_be_read_is_a_bad_row(kept: Kept) -> None:
    kept.files = {"a": b"1", "b": b"2", "c": b"3"}
    kept.errors = {"b": Denied("may not be read")}
    (planned,) = reader_of(kept).ranges(ShardLimits(9))
    (raw,) = reader_of(kept).windows(planned, ["content"])
    assert (list(raw.numbers), raw.columns["content"]) == ([0, 2], [b"1", b"3"])
    assert [(each.row, each.row_id, each.text) for each in raw.bad] == [
        (1, "b", "s3://b/data/b may not be read")
    ]


def test_folder_that_has_changed_is_told(kept: Kept) -> None:
    kept.files = {"a": b"1", "b": b"2"}
    reader = reader_of(kept)
    (planned,) = reader.ranges(ShardLimits(9))
    kept.files["b"] = b"3"
    with pytest.raises(InputChanged, match="submit a new job"):
        list(reader.windows(planned, ["content"]))
    assert reader_of(kept).fingerprint() != reader.fingerprint()
    del kept.files["b"]
    with pytest.raises(InputChanged, match="fewer files"):
        list(reader_of(kept).windows(planned, ["content"]))


def test_list_has_a_bound(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_FILES", 3)
    kept.files = {str(at): b"" for at in range(4)}
    with pytest.raises(InputInvalid, match="more than 3 files"):
        reader_of(kept).fingerprint()


def test_bucket_is_no_file() -> None:
    with pytest.raises(InputInvalid, match="names no file"):
        RemoteFile(remote_url("s3://bucket"), lambda _url: Kept())


def test_part_that_is_too_large_or_cannot_be_written_is_told(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.errors["part-000001-1.jsonl"] = Unreachable("cannot be had now: the store answered 503")
    sink = RemoteSink(URL, JobId("job-1"), lambda _url: kept)
    told = r"cannot write s3://b/data/part-000001-1\.jsonl: it cannot be had now"
    with pytest.raises(PlaceUnavailable, match=told):
        sink.write("part-000001-1.jsonl", [b"abc"])
    monkeypatch.setattr(remote_files, "MAX_PART_BYTES", 5)
    with pytest.raises(OutputFailed, match="more than 5 bytes"):
        sink.write("part-000001-2.jsonl", [b"abc", b"def"])
    assert kept.files == {}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("bucket/x", "no URL"),
        ("://x", "no URL"),
        ("s3://key:secret@bucket/x", "a user or a password"),
        ("ftp://me@host/x", "a user or a password"),
        ("https://host/x?X-Amz-Signature=secret", "credentials"),
        ("https://host/x#y", "credentials"),
        ("zip::http://host/x", "no URL"),
        ("zip://a::http://host/x", "no URL here has"),
        ("s3://bucket/a/../b", "plain path"),
        ("s3://bucket/./b", "plain path"),
        ("s3://bucket//b", "plain path"),
        ("https://host/a/%2e%2E/b", "encoded dot"),
        ("https://host/a%2Fb", "encoded dot or slash"),
        ("https://host\\@other/x", "user or a password"),
        ("https://host/a\\b", "plain path"),
        ("https://host/a\nHost: other", "control character"),
        ("https:///x", "no host"),
        ("https://host:99999/x", "no host with a port"),
        ("https://ho st/x", "a blank"),
    ],
)
def test_url_that_could_lead_elsewhere_or_has_a_secret_is_refused(url: str, words: str) -> None:
    with pytest.raises(InputInvalid, match=words) as caught:
        remote_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "prefix", "is_in"),
    [
        ("s3://b/data/x", "s3://b/data", True),
        ("s3://b/data/x", "s3://b/data/", True),
        ("s3://b/data", "s3://b/data", True),
        ("s3://b/x", "s3://b", True),
        ("s3://b/database/x", "s3://b/data", False),
        ("s3://b2/data/x", "s3://b", False),
        ("gs://b/data/x", "s3://b/data", False),
        ("https://h/a/x", "http://h/a", False),
        ("https://h:8443/a/x", "https://h/a", False),
        ("https://H:443/a/x", "https://h/a", True),
        ("https://h.evil.example/a/x", "https://h/a", False),
    ],
)
def test_url_is_below_a_prefix_by_whole_parts(url: str, prefix: str, *, is_in: bool) -> None:
    assert remote_url(url).is_in(remote_url(prefix)) is is_in
