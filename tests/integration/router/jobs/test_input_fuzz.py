"""Made-up inputs of jobs: valid files with mistakes put in, each of which is rows or is refused, in bounded memory.

A case is made of its number alone, which a finding names. Each batch of cases runs in a process of its own, which may take no more
memory than `MOST_MEMORY_BYTES`, so that a reader that ends its process, hangs or takes all memory is a finding, too.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import resource
import struct
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from batch_requests import request, text_of
from fuzz_cases import seeds
from job_files import write_csv, write_jsonl, write_npz

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.steps import run_through
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.jobs.inputs.arrays import NPY_COLUMN, ArrayReader
from capamesh.router.jobs.inputs.arrow_files import ArrowReader, ParquetReader
from capamesh.router.jobs.inputs.csv_rows import CsvReader
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.reader import Reader
from capamesh.router.jobs.inputs.requests import RequestsReader
from capamesh.router.jobs.inputs.rows import columns_of, read_windows
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.spec import InputFormat, InputSpec
from capamesh.router.jobs.uploads.request_lines import RequestLines

BATCH: Final = 400
"""The cases of one process."""
ROWS: Final = 40
MOST_MEMORY_BYTES: Final = 2**30
"""The most memory of a process that reads, beside what it had before (guess: sixteen shards)."""
MOST_S: Final = 30.0
"""The most seconds of a case; the usual one takes some milliseconds."""
MOST_SHARDS: Final = 1000
INPUTS: Final = {
    "x": TensorSpec("x", Datatype.FP32, (-1, 2)),
    "t": TensorSpec("t", Datatype.BYTES, (-1,)),
}
COLUMNS: Final = {"x": ("a", "b"), "t": ("text",)}
SPICE: Final = (
    *(b"\0", b"\n", b"\r\n", b'"', b'""', b",", b"{", b"}", b"[", b"\\", b"\\u0000", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b"NaN", b"1e999", b"-0", b"9" * 400, b"null", b"true", b"[" * 2000, b'{"a":' * 500),
    *(b"PAR1", b"ARROW1\0\0", b"\x93NUMPY\x01\0", b"PK\x05\x06", b"PK\x01\x02", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 64),
    struct.pack("<i", -1), struct.pack("<q", 2**62), struct.pack("<I", 2**31),
)  # fmt: skip


class Finding(AssertionError):
    """A reader did what none may do."""


def _rows(chance: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "a": chance.uniform(-9, 9),
            "b": float(at),
            "text": 'é\n,"' * chance.randrange(4) + str(at),
        }
        for at in range(ROWS)
    ]


def _npz(path: Path, chance: random.Random) -> None:
    rows = _rows(chance)
    columns = {name: np.array([row[name] for row in rows]) for name in ("a", "b")}
    write_npz(path.with_suffix(".npz"), **columns, text=np.array([row["text"] for row in rows]))
    path.with_suffix(".npz").rename(path)


def _npy(path: Path, chance: random.Random) -> None:
    rows = np.array([[row["a"], row["b"]] for row in _rows(chance)])
    np.save(path.with_suffix(".npy"), rows.astype(chance.choice(["<f8", "<f4", ">f4"])))
    path.with_suffix(".npy").rename(path)


def _batch(path: Path, chance: random.Random) -> None:
    given = ["a cat", ["a", "b"], [], [1, 2], [[1], [2, 3]], {"no": "input"}]
    requests = [request(f"r-{at}", chance.choice(given)) for at in range(ROWS)]
    path.write_bytes(text_of(*requests))


def _parquet(path: Path, chance: random.Random) -> None:
    import pyarrow as pa  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # noqa: PLC0415 - an extra

    pq.write_table(
        pa.Table.from_pylist(_rows(chance)),
        path,
        row_group_size=chance.choice([7, 40]),
        compression=chance.choice(["none", "snappy", "zstd"]),
        use_dictionary=chance.random() < 0.5,
        write_page_checksum=chance.random() < 0.5,
    )


def _arrow(path: Path, chance: random.Random) -> None:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    table = pa.Table.from_pylist(_rows(chance))
    options = pa.ipc.IpcWriteOptions(compression=chance.choice([None, "lz4", "zstd"]))
    with pa.ipc.new_file(str(path), table.schema, options=options) as file:
        file.write_table(table, max_chunksize=chance.choice([7, 40]))


FORMS: Final[
    dict[InputFormat, tuple[Callable[[Path, random.Random], object], Callable[[LocalFile], Reader]]]
] = {
    InputFormat.JSONL: (lambda path, chance: write_jsonl(path, _rows(chance)), JsonlReader),
    InputFormat.CSV: (lambda path, chance: write_csv(path, _rows(chance)), CsvReader),
    InputFormat.BATCH: (_batch, RequestsReader),
    InputFormat.NPY: (_npy, lambda file: ArrayReader(file, is_archive=False)),
    InputFormat.NPZ: (_npz, lambda file: ArrayReader(file, is_archive=True)),
    InputFormat.PARQUET: (_parquet, ParquetReader),
    InputFormat.ARROW: (_arrow, ArrowReader),
}


def mistaken(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with some mistakes in them."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 5, 20])):
        # mistakes where the structure stands, at the ends, are the ones that hurt
        place = chance.choice(
            [
                chance.randrange(len(made) + 1),
                min(len(made), chance.randrange(200)),
                max(0, len(made) - chance.randrange(300)),
            ]
        )
        match chance.randrange(7):
            case 0:
                del made[place:]
            case 1:
                del made[place : place + chance.choice([1, 2, 4, 8, 100])]
            case 2:
                made[place:place] = chance.choice(SPICE)
            case 3:
                word = chance.choice(SPICE)
                made[place : place + len(word)] = word
            case 4:
                for at in range(place, min(len(made), place + chance.choice([1, 1, 4, 30]))):
                    made[at] = chance.randrange(256)
            case 5:
                made[place:place] = made[place : place + chance.choice([1, 10, 500])]
            case _:
                if place < len(made):
                    made[place] ^= 1 << chance.randrange(8)
        if not made:
            break
    return bytes(made)


def try_case(number: int, folder: Path) -> str:
    """Try one case and return what came of it."""
    chance = random.Random(number)
    form = chance.choice(list(FORMS))
    make, open_reader = FORMS[form]
    path = folder / "input"
    make(path, chance)
    path.write_bytes(mistaken(path.read_bytes(), chance))
    columns = {"x": (NPY_COLUMN,)} if form is InputFormat.NPY else COLUMNS
    spec = InputSpec(str(path), form, columns)
    begun_s = time.thread_time()
    try:
        if form is InputFormat.BATCH:  # as while it arrives
            _check_lines(path.read_bytes(), chance)
        rows = _read(open_reader(LocalFile(path)), spec, chance)
        outcome = f"{form} {'read' if rows else 'empty'}"
    except CapameshError as exc:
        _check_text("its error", exc.message)
        outcome = f"{form} refused"
    except MemoryError:  # the process that reads has a bound, and its end is the job's
        outcome = f"{form} ended its reader"
    took_s = time.thread_time() - begun_s
    assert took_s < MOST_S, f"it took {took_s:.0f} s"
    return outcome


def _check_text(what: str, text: str) -> None:
    assert 0 < len(text) <= 2000, f"{what} tells nothing, or no end of it"


def _check_lines(data: bytes, chance: random.Random) -> None:
    """Check the lines of a file of requests, which come in any pieces; what is wrong in one is told by the line's number."""
    lines = RequestLines(chance.randbytes)
    try:
        while data:
            size = chance.choice([1, 7, 100, len(data)])
            run_through(lines.take(data[:size]))
            data = data[size:]
        run_through(lines.finish())
    except InvalidRequest as exc:
        if not re.search(r"line \d+|no requests", exc.message):
            raise Finding(f"its error names no line: {exc.message}") from exc
        if chance.random() < 0.5:  # the job's own reader is to bear what was not checked
            raise


def _read(reader: Reader, spec: InputSpec, chance: random.Random) -> int:
    """Plan an input and read all of it, and return its rows; raises what a reader raises."""
    reader.fingerprint()
    reader.check_columns(columns_of(spec))
    found = 0
    for shards, each in enumerate(reader.ranges(ShardLimits(chance.choice([3, 10, 1000])))):
        if shards == MOST_SHARDS:  # the planner would go on to its own bound
            break
        assert each.first_row == found, f"the range {each} does not follow {found} rows"
        assert each.rows > 0
        seen: list[int] = []
        for window in read_windows(reader, each, spec, INPUTS):
            for batch in window.batches:
                seen += batch.numbers
                json.dumps(list(batch.ids))
            seen += [row.row for row in window.bad]
            for row in window.bad:
                _check_text(f"the error of row {row.row}", row.text)
        if spec.format is InputFormat.BATCH:  # a request may have several rows
            seen = list(set(seen))
        assert sorted(seen) == list(range(each.first_row, each.first_row + each.rows))
        found += each.rows
    return found


def _try_batch(first: int, count: int, outcomes: Any) -> None:
    """Try some cases in this process, which takes no more memory than it may."""
    with suppress(ImportError):
        import pyarrow as pa  # noqa: PLC0415 - its memory is not that of a case, nor is what it reserves at first

        pa.Table.from_pylist([{"warm": "up"}])
    # of what may be written to, not of addresses: allocators reserve those by the gigabyte
    own = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (own + MOST_MEMORY_BYTES,) * 2)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            outcomes.put((number, None))
            try:
                outcomes.put((number, try_case(number, Path(folder))))
            except Exception:  # noqa: BLE001 - a finding
                outcomes.put((number, Finding(traceback.format_exc())))
                return
    outcomes.put((first + count, "done"))


def try_cases(first: int, count: int) -> Counter[str]:
    """Try cases in a process of their own and return how often what came of them. Raises `Finding`."""
    context = multiprocessing.get_context("spawn")
    outcomes = context.SimpleQueue()
    process = context.Process(target=_try_batch, args=(first, count, outcomes), daemon=True)
    process.start()
    done: Counter[str] = Counter()
    number = first
    try:
        while True:
            until_s = time.thread_time() + 2 * MOST_S
            while outcomes.empty():
                if not process.is_alive() and outcomes.empty():
                    raise Finding(f"case {number} ended its process: {process.exitcode}")
                if time.thread_time() > until_s:
                    raise Finding(f"case {number} hangs")
                process.join(0.01)
            number, outcome = outcomes.get()
            if isinstance(outcome, Finding):
                raise Finding(f"case {number}: {outcome}")
            if outcome == "done":
                return done
            if outcome is not None:
                done[outcome] += 1
    finally:
        process.kill()
        process.join()


def test_inputs_with_mistakes_are_rows_or_are_refused() -> None:
    pytest.importorskip("pyarrow")
    cases = seeds(BATCH)
    done: Counter[str] = Counter()
    for first in cases[::BATCH]:
        done += try_cases(first, min(BATCH, cases.stop - first))
    assert sum(done.values()) == len(cases)
    for form in FORMS.keys() - {InputFormat.JSONL}:  # of which each mistake is one row's
        assert done[f"{form} refused"] > 5, done
    assert sum(done[f"{form} read"] for form in FORMS) > len(cases) // 5, done
