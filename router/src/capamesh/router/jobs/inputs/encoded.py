"""Columns whose values are not the bytes themselves: base64, or paths of files beside the input. IO: those files.

A window of names may become a hundred times as many bytes, so it is given on in pieces.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from typing_extensions import override

from capamesh.protocol.schema import shown
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.reader import WINDOW_BYTES, RawRows, Reader, Values
from capamesh.router.jobs.inputs.source import Files
from capamesh.router.jobs.spec import Encoding
from capamesh.router.jobs.values import BadRow, RowRange, short

PIECE_ROWS: Final = 256
"""The most rows whose files are asked for at once, over what a window of bytes allows (guess: sixteen calls at a time, sixteen times)."""


class EncodedReader(Reader):
    """Another reader, some of whose columns are decoded."""

    def __init__(
        self, reader: Reader, encodings: Mapping[str, Encoding], files: Files | None
    ) -> None:
        """`files` are those beside the input, which paths name; None: no column has paths."""
        self._reader = reader
        self._encodings = encodings
        self._files = files

    @override
    def fingerprint(self) -> str:
        return self._reader.fingerprint()

    @override
    def columns(self) -> Sequence[str] | None:
        return self._reader.columns()

    @override
    def ranges(self, limits: ShardLimits) -> Iterator[RowRange]:
        return self._reader.ranges(limits)

    @override
    def row_names(self, raw: RawRows) -> Sequence[str]:
        return self._reader.row_names(raw)

    @override
    def windows(self, rows: RowRange, columns: Sequence[str]) -> Iterator[RawRows]:
        encoded = [name for name in columns if name in self._encodings]
        for raw in self._reader.windows(rows, columns):
            yield from self._decoded(raw, columns, encoded) if encoded else (raw,)

    def _decoded(
        self, raw: RawRows, columns: Sequence[str], encoded: Sequence[str]
    ) -> Iterator[RawRows]:
        """Yield a window in pieces, with the bytes in the columns that were encoded."""
        bad, size_bytes = list(raw.bad), 0
        numbers: list[int] = []
        values: dict[str, list[Any]] = {name: [] for name in columns}
        rows = zip(*(self._bytes_of(raw, name) for name in encoded), strict=True)
        for at, (number, found) in enumerate(zip(raw.numbers, rows, strict=True)):
            error = next((each for each in found if isinstance(each, InputInvalid)), None)
            if error is not None:
                bad.append(BadRow(number, str(number), error.code, short(error.message)))
                continue
            numbers.append(number)
            given = dict(zip(encoded, found, strict=True))
            for name in columns:
                values[name].append(given[name] if name in given else raw.columns[name][at])
            size_bytes += sum(map(len, found))
            if size_bytes >= WINDOW_BYTES:
                yield _raw_of(numbers, values, bad, raw.sha256)
                bad, size_bytes, numbers = [], 0, []
                values = {name: [] for name in columns}
        if numbers or bad:
            yield _raw_of(numbers, values, bad, raw.sha256)

    def _bytes_of(self, raw: RawRows, name: str) -> Iterator[bytes | InputInvalid]:
        """Yield the bytes of each row of a column, or why there are none."""
        column = raw.columns[name]
        listed: Sequence[Any] = column.tolist() if isinstance(column, np.ndarray) else column
        if self._encodings[name] is Encoding.BASE64:
            return (_from_base64(each) for each in listed)
        assert self._files is not None  # noqa: S101 - who opens the reader sees to it
        return _from_files(self._files, listed)


def _raw_of(
    numbers: list[int], values: dict[str, list[Any]], bad: list[BadRow], sha256: str
) -> RawRows:
    columns: dict[str, Values] = dict(values)
    return RawRows(numbers, columns, bad, sha256)


def _from_base64(value: object) -> bytes | InputInvalid:
    if isinstance(value, str | bytes):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    return InputInvalid(f"{shown(value)} is no base64")


def _from_files(files: Files, values: Sequence[Any]) -> Iterator[bytes | InputInvalid]:
    """Yield the bytes of the files that paths name, some at a time."""
    for first in range(0, len(values), PIECE_ROWS):
        piece = values[first : first + PIECE_ROWS]
        paths = [each for each in piece if _is_path(each)]
        found = files.named(paths)
        for each in piece:
            if _is_path(each):
                yield next(found)
            else:
                yield InputInvalid(
                    f"{shown(each)} is no path from the input's folder on, with / between its parts and neither '.' nor '..'"
                )


def _is_path(value: object) -> bool:
    """Return whether a value is a path that leads out of no folder."""
    if (
        not isinstance(value, str)
        or not value
        or len(value) > 4096
        or "\0" in value
        or "\\" in value
    ):
        return False
    return all(part not in {"", ".", ".."} for part in value.split("/"))
