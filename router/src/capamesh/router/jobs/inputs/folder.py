"""A folder as an input: each plain file in it, and in the folders below it, is a row. IO: the folder.

Rows are in the order of their paths, and named by them. The plan freezes the list: a job whose folder has changed is told so.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from typing_extensions import override

from capamesh.protocol.private_files import reason_of
from capamesh.router.jobs.errors import InputChanged, InputInvalid
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.reader import RawRows, Reader, Values
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.values import BadRow, RowRange

CONTENT_COLUMN: Final = "content"
"""The column of the files' bytes."""
PATH_COLUMN: Final = "path"
"""The column of the files' paths, from the folder on."""
MAX_FILES: Final = 500_000
"""The most files (guess: the list takes some 100 MB)."""


class FolderReader(Reader):
    """The plain files of a folder; what a link leads to is left out, for it may be anywhere."""

    names_rows = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[tuple[str, int, int]] | None = None
        """The path, bytes and time of change of each, in order."""

    @override
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path, size_bytes, changed_ns in self._listed():
            digest.update(
                f"{path}\0{size_bytes}\0{changed_ns}\0".encode("utf-8", "surrogateescape")
            )
        return f"{len(self._listed())} files {digest.hexdigest()}"

    @override
    def columns(self) -> Sequence[str]:
        return (CONTENT_COLUMN, PATH_COLUMN)

    @override
    def ranges(self, limits: ShardLimits) -> Iterator[RowRange]:
        first = seq = rows = size_bytes = 0
        for path, file_bytes, _ in self._listed():
            if file_bytes > limits.in_bytes:
                raise InputInvalid(
                    f"the file {path} has {file_bytes} bytes, the limit is {limits.in_bytes}"
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
        numbers: list[int] = []
        contents: list[bytes] = []
        paths: list[str] = []
        bad: list[BadRow] = []
        for number in range(rows.first_row, rows.first_row + rows.rows):
            path, size_bytes, changed_ns = self._listed()[number]
            try:
                content, found = self._content(path, size_bytes)
            except InputInvalid as exc:
                bad.append(BadRow(number, path, exc.code, exc.message))
                continue
            if found != (size_bytes, changed_ns):
                raise InputChanged(
                    f"the file {path} was changed since the job was planned; submit a new job for it"
                )
            numbers.append(number)
            contents.append(content)
            paths.append(path)
        known: dict[str, Values] = {CONTENT_COLUMN: contents, PATH_COLUMN: paths}
        yield RawRows(numbers, {name: known[name] for name in columns}, bad)

    @override
    def row_names(self, raw: RawRows) -> list[str]:
        return [self._listed()[number][0] for number in raw.numbers]

    def _content(self, path: str, size_bytes: int) -> tuple[bytes, tuple[int, int]]:
        """Return a file's bytes, at most one more than it should have, and its bytes and time of change."""
        file, _ = LocalFile(self._folder / path).open()
        with file:
            status = os.fstat(file.fileno())
            return file.read(size_bytes + 1), (status.st_size, status.st_mtime_ns)

    def _listed(self) -> list[tuple[str, int, int]]:
        if self._files is None:
            try:
                self._files = sorted(self._walk())
            except OSError as exc:
                raise InputInvalid(
                    f"cannot read the folder {self._folder}: {reason_of(exc)}"
                ) from exc
        return self._files

    def _walk(self) -> Iterator[tuple[str, int, int]]:
        found = 0
        folders = [""]
        while folders:
            inner = folders.pop()
            with os.scandir(self._folder / inner) as entries:
                for entry in entries:
                    path = f"{inner}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{path}/")
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    found += 1
                    if found > MAX_FILES:
                        raise InputInvalid(
                            f"{self._folder} has more than {MAX_FILES} files; make several jobs of it"
                        )
                    yield path, status.st_size, status.st_mtime_ns
