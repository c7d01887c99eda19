"""Inputs of jobs that take the memory or a core of whoever reads them: small files, each in a form that jobs have. IO: files."""

from __future__ import annotations

import itertools
import string
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

MIB: Final = 2**20
_I32, _I64, _TEXT, _LIST, _STRUCT = 5, 6, 8, 9, 12
"""Types of Thrift's compact form, in which Parquet writes what it says of itself."""
Field = tuple[int, int, Any]


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def _value(kind: int, value: Any) -> bytes:
    match kind:
        case 5 | 6:
            return _varint(value << 1)
        case 8:
            return _varint(len(value)) + value
        case 9:
            inner, values = value
            return bytes([len(values) << 4 | inner]) + b"".join(
                _value(inner, each) for each in values
            )
        case _:
            return _struct(*value)


def _struct(*fields: Field) -> bytes:
    made, before = b"", 0
    for number, kind, value in fields:
        made += bytes([(number - before) << 4 | kind]) + _value(kind, value)
        before = number
    return made + b"\0"


def _runs(count: int, width: int, value: int) -> bytes:
    """Return one value so often, as Parquet's runs have it."""
    return _varint(count << 1) + (bytes([value]) if width else b"")


def write_parquet_bomb(path: Path, values: int = 2**31 - 1) -> None:
    """Write some hundred bytes of Parquet with one row, a list of so many whole numbers: 20 bytes of memory each."""
    dictionary = struct.pack("<q", 0)
    head = _struct(
        (1, _I32, 2), (2, _I32, 8), (3, _I32, 8), (7, _STRUCT, ((1, _I32, 1), (2, _I32, 0)))
    )
    levels = _runs(1, 1, 0) + _runs(values - 1, 1, 1), _runs(values, 1, 1)
    page = b"".join(struct.pack("<I", len(each)) + each for each in levels)
    page += b"\0" + _runs(values, 0, 0)
    about = ((1, _I32, values), (2, _I32, 8), (3, _I32, 3), (4, _I32, 3))
    size = len(page)
    page_head = _struct((1, _I32, 0), (2, _I32, size), (3, _I32, size), (5, _STRUCT, about))
    first = 4 + len(head) + len(dictionary)
    body = head + dictionary + page_head + page
    size = len(body)
    column = (
        (1, _I32, 2), (2, _LIST, (_I32, [0, 3, 8])), (3, _LIST, (_TEXT, [b"x"])), (4, _I32, 0),
        (5, _I64, values), (6, _I64, size), (7, _I64, size), (9, _I64, first), (11, _I64, 4),
    )  # fmt: skip
    group = (
        (1, _LIST, (_STRUCT, [((2, _I64, 4), (3, _STRUCT, column))])),
        (2, _I64, size),
        (3, _I64, 1),
    )
    schema = [((4, _TEXT, b"root"), (5, _I32, 1)), ((1, _I32, 2), (3, _I32, 2), (4, _TEXT, b"x"))]
    footer = _struct(
        (1, _I32, 1), (2, _LIST, (_STRUCT, schema)), (3, _I64, 1), (4, _LIST, (_STRUCT, [group]))
    )
    end = struct.pack("<I", len(footer)) + b"PAR1"
    path.write_bytes(b"PAR1" + body + footer + end)


def write_arrow_bomb(path: Path, values: int = 375_000_000) -> None:
    """Write an Arrow file of so many zeros of 8 bytes, packed to some ten thousandth."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    table = pa.table({"x": np.zeros(values, np.int64)})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), table.schema, options=options) as file:
        file.write_table(table)


def write_wide_csv(path: Path, columns: int = 700_000) -> None:
    letters = itertools.product(string.ascii_lowercase + string.digits, repeat=4)
    names = ",".join("".join(each) for each in itertools.islice(letters, columns))
    path.write_text(f"{names}\n{','.join('0' * columns)}\n", encoding="ascii")


def write_wide_arrow(path: Path, columns: int = 200_000) -> None:
    """Write an Arrow file of so many columns, and no row."""
    import pyarrow as pa  # noqa: PLC0415 - an extra

    schema = pa.schema([(f"{at:x}", pa.int8()) for at in range(columns)])
    with pa.ipc.new_file(str(path), schema) as file:
        file.write_table(schema.empty_table())


def write_long_line(path: Path, size_bytes: int = 54 * MIB) -> None:
    """Write one JSON line of so many bytes, whose value is a list of numbers."""
    path.write_text('{"x":[' + "0," * (size_bytes // 2 - 5) + "0]}\n", encoding="ascii")


FILES: Final[Mapping[str, tuple[str, Callable[[Path], None]]]] = {
    "Parquet of one row of 2,147,483,647 values": ("bomb.parquet", write_parquet_bomb),
    "Arrow of 3 GB packed": ("bomb.arrow", write_arrow_bomb),
    "CSV of 700,000 columns": ("wide.csv", write_wide_csv),
    "Arrow of 200,000 columns": ("wide.arrow", write_wide_arrow),
    "JSON line of 54 MiB": ("line.jsonl", write_long_line),
}
"""All of them, with the name of each file and what writes it."""


def job_of(path: Path, key: str = "") -> dict[str, Any]:
    """Return a job of the model `digits` whose input is such a file."""
    return {
        "model": "digits",
        "input": {"url": str(path), "columns": {"X": ["x"]}},
        "client_key": key or path.name,
    }
