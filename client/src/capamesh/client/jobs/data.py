"""The data of a job as its caller gives them, a file, a table, arrays or rows, as bytes that can be uploaded. File IO.

Data that are no file become a temporary one, a part at a time, so that data of any size takes little memory. Libraries for tables
are not imported: a table brings its own, and pyarrow is used where it is installed.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from capamesh.client.jobs.values import FileInfo
from capamesh.protocol.errors import ConfigError, InvalidRequest, LocalError

Data: TypeAlias = Any
"""A path; a URL that the router reads itself; a `FileInfo`; a table of pandas, Polars, pyarrow or of whatever else has
`__arrow_c_stream__`; an array of numpy, whose first axis is the rows, or several by name; or rows as an iterable of dicts.
"""
FORMATS: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".npy": "npy",
    ".npz": "npz",
}
"""The form of a file's rows by the ending of its name."""
_TAKEN: Final = (
    "give a path, a URL that the router reads, a table of pandas, Polars or pyarrow, an array of numpy, arrays by name, or an "
    "iterable of dicts"
)
_NO_ARROW: Final = "a table is sent as Parquet, for which pyarrow is missing: pip install pyarrow, or give rows as dicts"


class Source:
    """Bytes that are uploaded: a file that is open."""

    def __init__(self, file: IO[bytes], name: str, form: str) -> None:
        """Read an open file, and close it at the end."""
        self._file = file
        self._status = os.fstat(file.fileno())
        self.name = name
        """The name that the file gets at the router."""
        self.form = form
        """The form of the rows, as `JobSpec` has it; empty: the name's ending says it to the router."""
        self.size_bytes = self._status.st_size
        """The size when it was opened."""

    @override
    def __repr__(self) -> str:
        return f"Source({self.name!r}, {self.size_bytes} bytes)"

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return bytes of it; raise `InvalidRequest` where they are not there any more."""
        try:
            self._file.seek(offset)
            found = self._file.read(size_bytes)
        except OSError as exc:
            raise LocalError(f"cannot read {self.name}: {exc.strerror}") from exc
        if len(found) != size_bytes:
            raise self._changed()
        return found

    def check(self) -> None:
        """Raise `InvalidRequest` if the file was changed since it was opened."""
        now = os.fstat(self._file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.size_bytes, self._status.st_mtime_ns):
            raise self._changed()

    def close(self) -> None:
        """Close the file; a temporary one is gone then."""
        self._file.close()

    def _changed(self) -> InvalidRequest:
        return InvalidRequest(
            f"{self.name} was changed while it was uploaded; submit it when nobody writes to it any more"
        )


def url_of(data: Data) -> str:
    """Return the URL of data that the router reads itself; empty: they are to be uploaded."""
    if isinstance(data, FileInfo):
        return f"upload:{data.id}"
    if isinstance(data, str) and (data.startswith("upload:") or "://" in data):
        return data
    return ""


def source_of(data: Data, name: str = "") -> Source:
    """Return the bytes of data that are to be uploaded; the caller closes it. `name` is what they are called at the router.

    Raises:
        InvalidRequest: these are no data for a job.
        ConfigError: a file cannot be opened, a temporary one cannot be written, or a library is missing.
    """
    if isinstance(data, str | os.PathLike):
        return _file(Path(cast("str | os.PathLike[str]", data)), name)
    if isinstance(data, np.ndarray):
        return _temporary(_write_npy(cast("npt.NDArray[Any]", data)), name or "array.npy", "npy")
    write = _table_writer(data)
    if write is not None:
        return _temporary(write, name or "table.parquet", "parquet")
    if isinstance(data, Mapping):
        return _temporary(
            _write_npz(cast("Mapping[object, object]", data)), name or "arrays.npz", "npz"
        )
    if isinstance(data, bytes | bytearray | memoryview) or not isinstance(data, Iterable):
        raise InvalidRequest(f"the data is {type(cast('object', data)).__name__}; {_TAKEN}")
    rows = cast("Iterable[object]", data)
    return _temporary(_write_rows(rows), name or "rows.jsonl", "jsonl")


def _file(path: Path, name: str) -> Source:
    try:
        if path.is_dir():
            raise InvalidRequest(
                f"{path} is a folder, which only the router can read: give its URL, file:// or s3://, and have the router run with"
                " --jobs-place"
            )
        file = path.open("rb")
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    name = name or path.name
    return Source(file, name, FORMATS.get(path.suffix.lower(), ""))


def _temporary(write: Callable[[IO[bytes]], None], name: str, form: str) -> Source:
    file: IO[bytes] | None = None
    try:
        file = tempfile.TemporaryFile(prefix="capamesh-")  # noqa: SIM115 - the source closes it
        write(file)
        file.flush()
        return Source(file, name, form)
    except OSError as exc:
        if file is not None:
            file.close()
        raise ConfigError(
            f"cannot write the data to {tempfile.gettempdir()}: {exc.strerror}; set TMPDIR to a folder with room"
        ) from exc
    except BaseException:
        if file is not None:
            file.close()
        raise


def _write_npy(array: npt.NDArray[Any]) -> Callable[[IO[bytes]], None]:
    """Return what writes an array, of shape [rows, ...]."""

    def write(file: IO[bytes]) -> None:
        np.lib.format.write_array(file, _rows_of("the array", array), allow_pickle=False)

    return write


def _write_npz(arrays: Mapping[object, object]) -> Callable[[IO[bytes]], None]:
    """Return what writes arrays by name, each of shape [rows, ...] and all with as many rows."""
    made = {str(name): _rows_of(f"the array {name!r}", value) for name, value in arrays.items()}
    if not made:
        raise InvalidRequest(f"the data are no arrays at all; {_TAKEN}")
    rows = {name: len(array) for name, array in made.items()}
    if len(set(rows.values())) > 1:
        raise InvalidRequest(f"the arrays have other numbers of rows: {rows!r:.200}")

    def write(file: IO[bytes]) -> None:
        # numpy.savez takes no array that is called as one of its arguments
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in made.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)

    return write


def _rows_of(what: str, value: object) -> npt.NDArray[Any]:
    """Return an array of shape [rows, ...], of a dtype without Python's objects, its rows one behind the other."""
    try:
        array = np.asarray(value)
    except ValueError as exc:
        raise InvalidRequest(f"{what} is not of one shape: {exc}") from exc
    if array.dtype.hasobject:
        raise InvalidRequest(
            f"{what} has Python objects; give numbers, or texts as array.astype(str)"
        )
    if not array.ndim:
        raise InvalidRequest(f"{what} is one value; its first axis is the rows")
    return np.ascontiguousarray(array)


def _table_writer(table: Any) -> Callable[[IO[bytes]], None] | None:  # noqa: ANN401 - of any library
    """Return what writes a table as Parquet; None: it is no table."""
    is_stream = hasattr(table, "__arrow_c_stream__")
    if not is_stream and not hasattr(table, "write_parquet") and not hasattr(table, "to_parquet"):
        return None

    def write(file: IO[bytes]) -> None:
        try:
            if is_stream and (parquet := _pyarrow("pyarrow.parquet")) is not None:
                with _pyarrow("pyarrow").RecordBatchReader.from_stream(table) as batches:
                    _write_batches(parquet, batches, file)
            elif hasattr(table, "write_parquet"):
                table.write_parquet(file)
            elif hasattr(table, "to_parquet"):
                table.to_parquet(file)
            else:
                raise ConfigError(_NO_ARROW)
        except ImportError as exc:
            raise ConfigError(_NO_ARROW) from exc

    return write


def _write_batches(parquet: Any, batches: Any, file: IO[bytes]) -> None:  # noqa: ANN401 - pyarrow's
    """Write record batches one after the other."""
    with parquet.ParquetWriter(file, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _pyarrow(name: str) -> Any:  # noqa: ANN401 - the library has no types
    """Return pyarrow, or a module of it; None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _write_rows(rows: Iterable[object]) -> Callable[[IO[bytes]], None]:
    """Return what writes rows as lines of JSON, as they come."""

    def write(file: IO[bytes]) -> None:
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InvalidRequest(
                    f"row {number} of the data is {row!r:.80}; a dict of columns is expected, or {_TAKEN}"
                )
            try:
                file.write(_line(cast("Mapping[object, object]", row)))
            except (TypeError, ValueError, RecursionError) as exc:
                raise InvalidRequest(f"row {number} of the data cannot be sent: {exc}") from exc

    return write


def _line(row: Mapping[object, object]) -> bytes:
    """Return a row as a line of JSON; raise `TypeError` or `ValueError` where it has what JSON has not."""
    try:
        text = json.dumps(dict(row), default=_plain, ensure_ascii=False, allow_nan=False)
    except ValueError:  # NaN and infinities, as texts
        text = json.dumps(_finite(dict(row)), default=_plain, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _plain(value: object) -> object:
    """Return a value that is not of JSON as one that is."""
    if isinstance(value, np.ndarray | np.generic):
        return _finite(cast("Any", value).tolist())
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(
                "it has bytes that are no text, which a line of JSON cannot hold; give a table"
            ) from None
    raise TypeError(f"it has a value of {type(value).__name__}")


def _finite(value: object) -> object:
    """Return a value with texts in the place of numbers that JSON has not."""
    match value:
        case float() if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - NaN
            return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"  # noqa: PLR0124 - the same
        case dict():
            return {key: _finite(each) for key, each in cast("dict[object, object]", value).items()}
        case list() | tuple():
            return [_finite(each) for each in cast("list[object]", value)]
        case np.ndarray() | np.generic():
            return _finite(cast("Any", value).tolist())
        case _:
            return value
