"""Every form gives the same rows, range by range, and says what is wrong with a file that is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_files import ANYWHERE, write_csv, write_jsonl, write_npz

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.jobs.errors import InputChanged, InputInvalid
from capamesh.router.jobs.inputs import arrow_library, csv_rows, lines, number_lines, opening
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.reader import Reader
from capamesh.router.jobs.inputs.rows import RowBatch, columns_of, read_windows
from capamesh.router.jobs.spec import InputFormat, InputSpec
from capamesh.router.jobs.values import BadRow

COLUMNS = {"x": ("a", "b"), "k": ("n",)}
INPUTS = {
    "x": TensorSpec("x", Datatype.FP32, (-1, 2)),
    "k": TensorSpec("k", Datatype.INT64, (-1,)),
}


ROWS = [{"a": at / 2, "b": -float(at), "n": at * 10**9, "id": f"r{at}"} for at in range(23)]


def npz(path: Path) -> Path:
    columns = {name: np.array([row[name] for row in ROWS]) for name in ROWS[0]}
    return write_npz(path.with_suffix(".npz"), **columns)


def parquet(path: Path) -> Path:
    pytest.importorskip("pyarrow.parquet").write_table(
        pytest.importorskip("pyarrow").Table.from_pylist(ROWS), path, row_group_size=5
    )
    return path


def arrow_file(path: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=5)
    return path


MADE: list[tuple[InputFormat, Callable[[Path], Path]]] = [
    (InputFormat.JSONL, lambda path: write_jsonl(path, ROWS)),
    (InputFormat.CSV, lambda path: write_csv(path, ROWS)),
    (InputFormat.NPZ, npz),
    (InputFormat.PARQUET, parquet),
    (InputFormat.ARROW, arrow_file),
]


def spec_of(path: Path, form: InputFormat, id_column: str = "id", **columns: Any) -> InputSpec:
    return InputSpec(str(path), form, columns or COLUMNS, id_column)


def open_reader(spec: InputSpec) -> Reader:
    return opening.open_reader(spec, "t", ANYWHERE)


def all_batches(
    spec: InputSpec, shard_rows: int, inputs: dict[str, TensorSpec] | None = None
) -> tuple[list[RowBatch], list[BadRow]]:
    reader = open_reader(spec)
    reader.check_columns(columns_of(spec))
    batches: list[RowBatch] = []
    bad: list[BadRow] = []
    planned = list(reader.ranges(ShardLimits(shard_rows)))
    # another router reads them, in another order
    for each in reversed(planned):
        windows = list(read_windows(open_reader(spec), each, spec, inputs or INPUTS))
        batches = [one for window in windows for one in window.batches] + batches
        bad = [one for window in windows for one in window.bad] + bad
    assert [each.first_row for each in planned] == list(
        np.cumsum([0, *(each.rows for each in planned)])[:-1]
    )
    return batches, bad


@pytest.mark.parametrize(("form", "make"), MADE)
@pytest.mark.parametrize("shard_rows", [1, 3, 5, 7, 100])
def test_rows_are_read_range_by_range(
    tmp_path: Path, form: InputFormat, make: Callable[[Path], Path], shard_rows: int
) -> None:
    batches, bad = all_batches(spec_of(make(tmp_path / "in"), form), shard_rows)
    assert bad == []
    assert [number for each in batches for number in each.numbers] == list(range(len(ROWS)))
    assert [row_id for each in batches for row_id in each.ids] == [row["id"] for row in ROWS]
    x = np.concatenate([each.inputs["x"] for each in batches])
    k = np.concatenate([each.inputs["k"] for each in batches])
    assert (x.dtype, x.shape, k.dtype, k.shape) == (
        np.float32,
        (len(ROWS), 2),
        np.int64,
        (len(ROWS),),
    )
    np.testing.assert_array_equal(x, [[row["a"], row["b"]] for row in ROWS])
    np.testing.assert_array_equal(k, [row["n"] for row in ROWS])


@pytest.mark.parametrize(("form", "make"), MADE[:2])
@pytest.mark.parametrize(("bound", "most"), [("WINDOW_ROWS", 4), ("WINDOW_BYTES", 60)])
def test_lines_are_held_a_window_at_a_time(
    tmp_path: Path,
    form: InputFormat,
    make: Callable[[Path], Path],
    bound: str,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (lines, csv_rows):
        monkeypatch.setattr(module, bound, most)
    if bound == "WINDOW_BYTES":
        monkeypatch.setattr(number_lines, bound, most)
    else:  # it counts rows whose values are Python's
        monkeypatch.setattr(csv_rows, "csv_numbers", lambda *_: None)
    spec = spec_of(make(tmp_path / "in"), form)
    (planned,) = open_reader(spec).ranges(ShardLimits(100))
    windows = list(read_windows(open_reader(spec), planned, spec, INPUTS))
    assert len(windows) > 5
    numbers = [at for each in windows for one in each.batches for at in one.numbers]
    assert numbers == list(range(len(ROWS)))
    assert len({each.sha256 for each in windows}) == 1


@pytest.mark.parametrize(("form", "make"), MADE)
def test_changed_file_has_another_fingerprint_or_is_told(
    tmp_path: Path, form: InputFormat, make: Callable[[Path], Path]
) -> None:
    spec = spec_of(make(tmp_path / "in"), form)
    reader = open_reader(spec)
    before = reader.fingerprint()
    (planned,) = reader.ranges(ShardLimits(100))
    path = Path(spec.url)
    data = path.read_bytes()
    path.write_bytes(data[:-60] + b"x" * 70)
    assert open_reader(spec).fingerprint() != before
    with pytest.raises((InputChanged, InputInvalid)):
        list(reader.windows(planned, columns_of(spec)))


def test_bad_lines_are_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(
        b'{"n": 1, "id": 1}\nnonsense\n{"n": 2.5, "id": 2}\n[1]\n{"id": 3}\n\n{"n": 4, "id": 1.5}\n'
        b'{"n": 5, "id": 9007199254740993}\n{"n": null, "id": 6}'
    )
    spec = spec_of(path, InputFormat.JSONL, k=("n",))
    (batch,), bad = all_batches(spec, 100, {"k": INPUTS["k"]})
    assert (batch.numbers, batch.ids) == ([0, 7], ["1", "9007199254740993"])
    assert [(each.row, each.row_id) for each in bad] == [
        *((at, str(at)) for at in range(1, 7)),
        (8, "6"),
    ]
    assert {each.code for each in bad} == {"input_invalid"}
    texts = " ".join(each.text for each in bad)
    said = ("column 'n': 2.5 does not fit INT64", "the row has no column 'n'")
    for words in (*said, "the line is [1], expected an object", "1.5 is no name of a row"):
        assert words in texts


def test_texts_of_csv_may_have_line_ends_and_quotes(tmp_path: Path) -> None:
    texts = ["a\nb", 'say "x", y', "", "\r\n", "ü"]
    path = write_csv(tmp_path / "in", [{"t": each} for each in texts])
    path.write_bytes("\N{ZERO WIDTH NO-BREAK SPACE}".encode() + path.read_bytes())
    spec = spec_of(path, InputFormat.CSV, "", s=("t",))
    batches, _ = all_batches(spec, 2, {"s": TensorSpec("s", Datatype.BYTES, (-1,))})
    assert [each.decode() for one in batches for each in one.inputs["s"].tolist()] == texts


def test_row_of_csv_with_other_fields_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_text("n,id\n1,a\n2\n3,c,d\n4,e\n")
    (batch,), bad = all_batches(spec_of(path, InputFormat.CSV, k=("n",)), 100, {"k": INPUTS["k"]})
    assert batch.ids == ["a", "e"]
    assert [each.text for each in bad] == [
        f"the row has {fields} fields, the names are 2" for fields in (1, 3)
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no row of names"),
        (b"a,b,a\n1,2,3\n", "'a' twice"),
        (b"\xff\n1\n", "not in UTF-8"),
        (b"a\rb\n1\n", "the row of names of .*new-line"),
        (b'a,b\nx"y,1\n2",3\n', "quote within a field"),
    ],
)
def test_csv_that_is_none_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "in"
    path.write_bytes(data)
    spec = spec_of(path, InputFormat.CSV, "", s=("a",))
    with pytest.raises(InputInvalid, match=words):
        all_batches(spec, 100, {"s": TensorSpec("s", Datatype.BYTES, (-1,))})


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros(3), "b": np.zeros(4)}, "other numbers of rows: a has 3, b has 4"),
        ({"a": np.array(3)}, "single value"),
        ({"a": np.asfortranarray(np.zeros((3, 4)))}, "Fortran"),
        ({"a": np.array([{}], dtype=object)}, "Python objects"),
        ({}, "no array"),
    ],
)
def test_arrays_that_are_no_rows_are_refused(
    tmp_path: Path, arrays: dict[str, Any], words: str
) -> None:
    path = write_npz(tmp_path / "in.npz", **arrays)
    with pytest.raises(InputInvalid, match=words):
        open_reader(spec_of(path, InputFormat.NPZ)).columns()
    np.savez_compressed(path, a=np.zeros(10))
    with pytest.raises(InputInvalid, match=r"'a' is compressed; save it with numpy\.savez"):
        open_reader(spec_of(path, InputFormat.NPZ)).columns()


def test_row_of_arrays_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "in.npz", a=np.zeros((3, 100)))
    reader = open_reader(spec_of(path, InputFormat.NPZ))
    with pytest.raises(InputInvalid, match="800 bytes, the limit is 100"):
        list(reader.ranges(ShardLimits(10, in_bytes=100)))
    assert [each.rows for each in reader.ranges(ShardLimits(10, in_bytes=1700))] == [2, 1]


def folder_reader(path: Path) -> Reader:
    return open_reader(InputSpec(str(path), InputFormat.FOLDER, {"s": ("content",)}))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    for name in ("b", "a", "sub/c", "z"):
        (top / name).write_text(f"in {name}")
    (top / "link").symlink_to("/etc/passwd")
    os.mkfifo(top / "pipe")
    return top


def test_files_of_a_folder_are_rows_in_the_order_of_their_paths(files: Path) -> None:
    spec = InputSpec(str(files), InputFormat.FOLDER, {"s": ("content",), "p": ("path",)})
    text = TensorSpec("s", Datatype.BYTES, (-1,))
    batches, bad = all_batches(spec, 3, {"s": text, "p": text})
    assert bad == []
    assert [each.ids for each in batches] == [["a", "b", "sub/c"], ["z"]]
    assert batches[0].inputs["s"].tolist() == [b"in a", b"in b", b"in sub/c"]
    assert batches[0].inputs["p"].tolist() == [b"a", b"b", b"sub/c"]


def test_folder_that_changes_is_told(files: Path) -> None:
    reader = folder_reader(files)
    before = reader.fingerprint()
    (planned,) = reader.ranges(ShardLimits(10))
    (files / "a").write_text("longer now")
    assert folder_reader(files).fingerprint() != before
    with pytest.raises(InputChanged, match="the file a was changed"):
        list(reader.windows(planned, ["content"]))
    (files / "a").unlink()
    (raw,) = reader.windows(planned, ["content"])
    assert [(each.row, each.row_id) for each in raw.bad] == [(0, "a")]


def test_folder_is_cut_by_bytes_and_a_large_file_is_refused(files: Path) -> None:
    limits = ShardLimits(10, in_bytes=9)
    assert [each.rows for each in folder_reader(files).ranges(limits)] == [2, 1, 1]
    with pytest.raises(InputInvalid, match="the file sub/c has 8 bytes, the limit is 7"):
        list(folder_reader(files).ranges(ShardLimits(10, in_bytes=7)))


@pytest.mark.parametrize("form", list(InputFormat))
def test_input_that_is_not_there_is_refused(tmp_path: Path, form: InputFormat) -> None:
    if form in {InputFormat.PARQUET, InputFormat.ARROW}:
        pytest.importorskip("pyarrow")
    with pytest.raises(InputInvalid, match="No such file"):
        open_reader(spec_of(tmp_path / "none", form)).fingerprint()


def test_pipe_and_folder_are_no_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        reader = open_reader(spec_of(path, InputFormat.JSONL))
        with pytest.raises(InputInvalid, match="not a plain file"):
            list(reader.ranges(ShardLimits(10)))


def test_missing_library_is_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    (tmp_path / "in").touch()
    monkeypatch.setattr(arrow_library, "import_module", missing)
    with pytest.raises(ConfigError, match=r"capamesh\[jobs\]"):
        open_reader(spec_of(tmp_path / "in", InputFormat.PARQUET)).columns()
