"""A folder as an input: each plain file in it, and in the folders below it, is a row. IO: the folder.

Rows are in the order of their paths, and named by them. The plan freezes the list: a job whose folder has changed is told so.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from capamesh.protocol.private_files import reason_of
from capamesh.router.jobs.errors import InputChanged, InputInvalid
from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES, ShardLimits
from capamesh.router.jobs.inputs.reader import WINDOW_BYTES, RawRows, Reader, Values
from capamesh.router.jobs.inputs.source import Entry, Folder, LocalFile
from capamesh.router.jobs.values import BadRow, RowRange

CONTENT_COLUMN: Final = "content"
"""The column of the files' bytes."""
PATH_COLUMN: Final = "path"
"""The column of the files' paths, from the folder on."""
MOST_COUNTED: Final = 20_000
"""The most files that are counted for the promise of an end (guess: a store of objects lists so many in two seconds)."""
MAX_FILES: Final = 500_000
"""The most files (guess: the list takes some 100 MB)."""


class _Window:
    """Some files of a range."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._known: dict[str, list[Any]] = {CONTENT_COLUMN: [], PATH_COLUMN: []}
        self._bad: list[BadRow] = []
        self.size_bytes = 0

    def add(self, number: int, entry: Entry, content: bytes | InputInvalid) -> None:
        """Take in a file, or why it cannot be read."""
        if isinstance(content, InputInvalid):
            self._bad.append(BadRow(number, entry.path, content.code, content.message))
            return
        self._numbers.append(number)
        self._known[CONTENT_COLUMN].append(content)
        self._known[PATH_COLUMN].append(entry.path)
        self.size_bytes += len(content)

    def rows(self, columns: Sequence[str]) -> RawRows:
        """Return these columns of the files."""
        found: dict[str, Values] = {name: self._known[name] for name in columns}
        return RawRows(self._numbers, found, self._bad)


class FolderReader(Reader):
    """The plain files of a folder."""

    def __init__(self, files: Folder) -> None:
        self._files = files
        self._listed: list[Entry] | None = None

    @override
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for each in self._entries():
            words = f"{each.path}\0{each.size_bytes}\0{each.changed}\0"
            digest.update(words.encode("utf-8", "surrogateescape"))
        return f"{len(self._entries())} files {digest.hexdigest()}"

    def counted_rows(self) -> int | None:
        """Return the number of files; None: there are so many that counting them takes long."""
        if self._listed is not None:
            return len(self._listed)
        counted = sum(1 for _ in islice(self._files.entries(), MOST_COUNTED + 1))
        return counted if counted <= MOST_COUNTED else None

    @override
    def columns(self) -> Sequence[str]:
        return (CONTENT_COLUMN, PATH_COLUMN)

    @override
    def ranges(self, limits: ShardLimits) -> Iterator[RowRange]:
        first = seq = rows = size_bytes = 0
        for each in self._entries():
            file_bytes = each.size_bytes
            if file_bytes > limits.in_bytes:
                raise InputInvalid(
                    f"the file {each.path} has {file_bytes} bytes, the limit is {limits.in_bytes}"
                )
            if rows and (rows == limits.rows_at(seq) or size_bytes + file_bytes > limits.in_bytes):
                yield RowRange(first, rows, 0, first, size_bytes)
                first += rows
                seq += 1
                rows = size_bytes = 0
            rows += 1
            size_bytes += file_bytes
        if rows:
            yield RowRange(first, rows, 0, first, size_bytes)

    @override
    def windows(self, rows: RowRange, columns: Sequence[str]) -> Iterator[RawRows]:
        self.check_columns(columns)
        entries = self._entries()[rows.first_row : rows.first_row + rows.rows]
        if len(entries) != rows.rows:
            raise InputChanged(f"{self._files.name} has fewer files than were planned")
        window = _Window()
        for number, (entry, content) in enumerate(
            zip(entries, self._files.contents(entries), strict=True), rows.first_row
        ):
            window.add(number, entry, content)
            if window.size_bytes >= WINDOW_BYTES:
                yield window.rows(columns)
                window = _Window()
        yield window.rows(columns)

    @override
    def row_names(self, raw: RawRows) -> list[str]:
        return [self._entries()[number].path for number in raw.numbers]

    def _entries(self) -> list[Entry]:
        if self._listed is None:
            listed: list[Entry] = []
            for each in self._files.entries():
                if len(listed) == MAX_FILES:
                    raise InputInvalid(
                        f"{self._files.name} has more than {MAX_FILES} files; make several jobs of it"
                    )
                listed.append(each)
            listed.sort(key=lambda each: each.path)
            self._listed = listed
        return self._listed


class LocalFiles(Folder):
    """The plain files of a folder of this machine; what a link leads to is left out, for it may be anywhere."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder

    @override
    def contents(self, entries: Sequence[Entry]) -> Iterator[bytes | InputInvalid]:
        for entry in entries:
            try:
                content, found = self._content(entry)
            except InputInvalid as exc:
                yield exc
                continue
            if found != (entry.size_bytes, entry.changed):
                raise changed(entry.path)
            yield content

    @override
    def named(self, paths: Sequence[str]) -> Iterator[bytes | InputInvalid]:
        folder = self._folder.resolve()
        for path in paths:
            try:
                place = (folder / path).resolve()
                if folder in place.parents:
                    yield _bytes_at(place)
                else:
                    yield InputInvalid(f"{path[:200]!r} leads out of the input's folder")
            except InputInvalid as exc:
                yield exc
            except (OSError, RuntimeError) as exc:  # a circle of links
                yield InputInvalid(f"{path[:200]!r} cannot be followed: {exc}")

    def _content(self, entry: Entry) -> tuple[bytes, tuple[int, str]]:
        """Return a file's bytes, at most one more than it should have, and its bytes and time of change."""
        file, _ = LocalFile(self._folder / entry.path).open()
        with file:
            status = os.fstat(file.fileno())
            data = file.read(entry.size_bytes + 1)
            return data, (status.st_size, str(status.st_mtime_ns))

    @override
    def entries(self) -> Iterator[Entry]:
        folders = [""]
        try:
            while folders:
                inner = folders.pop()
                with os.scandir(self._folder / inner) as entries:
                    for entry in entries:
                        path = f"{inner}{entry.name}"
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(f"{path}/")
                            continue
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            yield Entry(path, status.st_size, str(status.st_mtime_ns))
        except OSError as exc:
            raise InputInvalid(f"cannot read the folder {self.name}: {reason_of(exc)}") from exc


def _bytes_at(place: Path) -> bytes:
    file, stamp = LocalFile(place).open()
    with file:
        check_file_bytes(str(place), stamp.size_bytes)
        data = file.read(MAX_SHARD_BYTES + 1)
    check_file_bytes(str(place), len(data))  # it may grow
    return data


def check_file_bytes(name: str, size_bytes: int) -> None:
    """Raise `InputInvalid` if a file has more bytes than a row may."""
    if size_bytes > MAX_SHARD_BYTES:
        raise InputInvalid(f"{name} has {size_bytes} bytes, the limit is {MAX_SHARD_BYTES}")


def changed(path: str) -> InputChanged:
    """Return the error for a file that is not what was planned."""
    return InputChanged(
        f"the file {path} was changed since the job was planned; submit a new job for it"
    )
