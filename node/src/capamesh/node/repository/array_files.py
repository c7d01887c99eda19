"""Reads arrays that numpy saved: bounded before anything is read or unpacked, and never unpickled. Reads files.

`numpy.load` is not used: it opens whatever it is given, a zip too, and makes room for what a header promises.
"""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import numpy.typing as npt

from capamesh.node.repository.file_stamp import open_ordinary

_Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
"""Shape, whether the first axis runs fastest, dtype."""

_READ_HEADER: Final[dict[tuple[int, int], Callable[[IO[bytes]], _Header]]] = {
    (1, 0): cast("Callable[[IO[bytes]], _Header]", np.lib.format.read_array_header_1_0),
    (2, 0): cast("Callable[[IO[bytes]], _Header]", np.lib.format.read_array_header_2_0),
}
"""The readers of headers by the version of the format; 3.0 is for records alone, which no model takes."""
_NPZ_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The compressions that `numpy.savez` and `numpy.savez_compressed` write."""
_ENCRYPTED: Final = 0x1  # in a member's flags
_MAX_ARRAYS: Final = 1024  # as limits.MAX_NAMES: tensors of a model
_SUFFIX: Final = ".npy"


def read_npy(path: Path, max_bytes: int) -> npt.NDArray[Any]:
    """Return the array in the `.npy` file at `path`, of at most `max_bytes`.

    OSError. ValueError: larger, Python objects, no such file as its header says, another format.
    """
    with BufferedReader(open_ordinary(path)) as stream:
        return _array(stream, os.fstat(stream.fileno()).st_size, max_bytes)


def read_npz(path: Path, max_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays in the `.npz` file at `path` by their names, unpacked at most `max_bytes` together.

    Raises as `read_npy`.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with BufferedReader(open_ordinary(path)) as stream, zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            unpacked_bytes = sum(member.file_size for member in members)
            if unpacked_bytes > max_bytes or len(members) > _MAX_ARRAYS:
                raise ValueError(
                    f"{len(members)} arrays of {unpacked_bytes} bytes when unpacked; at most "
                    f"{_MAX_ARRAYS} of {max_bytes} bytes are read"
                )
            for member in members:
                name = member.filename
                if member.compress_type not in _NPZ_METHODS or member.flag_bits & _ENCRYPTED:
                    raise ValueError(f"{name!r} is packed otherwise than numpy.savez does")
                with archive.open(member) as packed:  # gives no more than the size it says
                    arrays[name.removesuffix(_SUFFIX)] = _array(packed, member.file_size, max_bytes)
    # NotImplementedError: a version of zip that nobody uses.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as exc:
        raise ValueError(f"not an archive that numpy.savez wrote: {exc}") from exc
    return arrays


def _array(stream: IO[bytes], size_bytes: int, max_bytes: int) -> npt.NDArray[Any]:
    """Return the array that is all of `stream`, which has `size_bytes`."""
    if size_bytes > max_bytes:
        raise ValueError(f"{size_bytes} bytes, at most {max_bytes} are read")
    shape, is_fortran, dtype = _header(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects (dtype object), which are never loaded")
    content_bytes = math.prod(shape) * dtype.itemsize
    left_bytes = size_bytes - stream.tell()
    if min(shape, default=0) < 0 or content_bytes != left_bytes:
        raise ValueError(
            f"its header says {list(shape)[:32]} of {dtype}, and {left_bytes} bytes follow"
        )
    content = stream.read(content_bytes)
    if len(content) != content_bytes:
        raise ValueError(f"{len(content)} of {content_bytes} bytes are there")
    return np.ndarray(shape, dtype, content, order="F" if is_fortran else "C")


def _header(stream: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(stream)  # ValueError where it is another format
    read = _READ_HEADER.get(version)
    if read is None:
        raise ValueError(f"version {version} of numpy's format; save it with numpy.save")
    try:
        return read(stream)
    # What Python's own parser of literals may raise at a header that is none.
    except (SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as exc:
        raise ValueError(f"its header cannot be read: {type(exc).__name__}") from exc
