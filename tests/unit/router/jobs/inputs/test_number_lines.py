"""Numbers in lines are read many at a time, and every row is what it is where each is read by itself."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from capamesh.protocol.datatypes import BYTES, Datatype
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.jobs.errors import InputInvalid
from capamesh.router.jobs.inputs import csv_rows
from capamesh.router.jobs.inputs.csv_rows import CsvReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.number_lines import csv_numbers
from capamesh.router.jobs.inputs.rows import columns_of, read_windows
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.spec import InputFormat, InputSpec

pytest.importorskip("pyarrow")

CASES = 200
WANTED = {"a": Datatype.FP32, "b": Datatype.FP64, "n": Datatype.INT32, "u": Datatype.UINT64}
NUMBERS = (
    *(
        "1",
        "-1",
        "0",
        "-0",
        "007",
        "+5",
        " 6",
        "6 ",
        "1.5",
        "0.1",
        "1e3",
        "1E-3",
        "5.0",
        ".5",
        "5.",
    ),
    *("16777217", "9007199254740993", "3000000000", "18446744073709551615", "1e400", "1e-400"),
    *("nan", "inf", "-Infinity", "NaN", "NA", "null", "true", "", "0x10", "1_000", "x", "é", "\t3"),
)
TEXTS = ("r1", "007", "", "é", "a b", '"q"', '"', "\r", "\0", "NA", "\ufeff")


def csv_text(chance: random.Random) -> bytes:
    """Return lines of which most, but not all, are rows of plain numbers."""
    is_plain = chance.random() < 0.4
    lines = ["a,b,n,u,t"]
    for at in range(chance.randrange(1, 12)):
        fields = [str(at), f"{at / 8}", str(-at), str(at), f"r{at}"]
        if not is_plain and chance.random() < 0.5:
            fields[chance.randrange(4)] = chance.choice(NUMBERS)
        if not is_plain and chance.random() < 0.1:
            fields[4] = chance.choice(TEXTS)
        if not is_plain and chance.random() < 0.05:
            fields.pop()
        lines.append(",".join(fields))
    end = chance.choice(("\n", "\r\n")) if not is_plain else "\n"
    text = end.join(lines) + chance.choice((end, "", end + end if not is_plain else end))
    data = bytearray(text.encode())
    if chance.random() < 0.05:
        data.insert(chance.randrange(len("a,b,n,u,t\n"), len(data) + 1), 0xFF)
    return bytes(data)


def read(path: Path) -> str:
    """Return all that comes of a file: its rows by their numbers, what is wrong with others, or why it cannot be read."""
    inputs = {name: TensorSpec(name, each, (-1,)) for name, each in (*WANTED.items(), ("t", BYTES))}
    spec = InputSpec(str(path), InputFormat.CSV, {name: (name,) for name in inputs}, id_column="t")
    reader = CsvReader(LocalFile(path))
    found: dict[int, Any] = {}
    bad: list[Any] = []
    try:
        reader.check_columns(columns_of(spec))
        for each in reader.ranges(ShardLimits(1000)):
            for window in read_windows(reader, each, spec, inputs):
                bad += window.bad
                for batch in window.batches:
                    for at, number in enumerate(batch.numbers):
                        row = [(array[at], array.dtype) for array in batch.inputs.values()]
                        found[number] = (batch.ids[at], list(batch.inputs), row)
    except InputInvalid as error:
        return error.message
    return repr((found, bad))  # of which a NaN is one


def test_rows_are_those_that_are_read_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = 0

    def counted(*args: Any) -> Any:
        nonlocal quick
        found = csv_numbers(*args)
        quick += found is not None
        return found

    path = tmp_path / "in.csv"
    for case in range(CASES):
        data = csv_text(random.Random(case))
        path.write_bytes(data)
        with monkeypatch.context() as patch:
            patch.setattr(csv_rows, "csv_numbers", counted)
            many = read(path)
        with monkeypatch.context() as patch:
            patch.setattr(csv_rows, "csv_numbers", lambda *_: None)
            single = read(path)
        assert many == single, (case, data)
    assert quick > CASES // 4
