"""Ranges of rows in a text: the same whatever chunks it is read in, within their bounds, and with their digests."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.router.jobs.errors import InputChanged, InputInvalid
from capamesh.router.jobs.inputs import lines
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.lines import header_of, line_ranges, read_range
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.values import RowRange


def ranges_of(
    path: Path, limits: ShardLimits, *, has_header: bool = False, has_quotes: bool = False
) -> list[RowRange]:
    return list(line_ranges(LocalFile(path), limits, has_header=has_header, has_quotes=has_quotes))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("data", [b"123456789012\n1\n", b"1\n123456789012\n", b"1\n12345678901"])
def test_row_that_is_too_long_is_refused_by_its_number(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path / "in", data)
    number = data[:2].count(b"\n")
    with pytest.raises(InputInvalid, match=rf"row {number} .* bytes or more, the limit is 10"):
        ranges_of(path, ShardLimits(100, in_bytes=10))


@given(
    texts=st.lists(st.binary(max_size=12).map(lambda each: each.replace(b"\n", b"")), max_size=60),
    rows=st.integers(1, 7),
    in_bytes=st.integers(14, 40),
    chunk=st.integers(1, 50),
    ends=st.booleans(),
)
def test_ranges_cover_all_bytes_whatever_the_chunks(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[bytes],
    rows: int,
    in_bytes: int,
    chunk: int,
    ends: bool,
) -> None:
    data = b"\n".join(texts) + (b"\n" if ends and texts else b"")
    path = written(tmp_path_factory.mktemp("lines") / "in", data)
    whole = ranges_of(path, ShardLimits(rows, in_bytes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK_BYTES", chunk)
        assert ranges_of(path, ShardLimits(rows, in_bytes)) == whole
    place = row = 0
    for each in whole:
        part = data[place : place + each.size_bytes]
        assert (each.offset, each.first_row) == (place, row)
        assert each.digest == hashlib.sha256(part).digest()
        assert 1 <= each.rows <= rows
        assert each.size_bytes <= in_bytes
        assert part.count(b"\n") + (not part.endswith(b"\n")) == each.rows
        place += each.size_bytes
        row += each.rows
    assert place == len(data)


@given(
    fields=st.lists(st.tuples(*(st.text('ab",\n\r', max_size=4),) * 2), min_size=1, max_size=30),
    rows=st.integers(1, 5),
    chunk=st.integers(1, 30),
)
def test_ranges_of_csv_are_rows_of_csv(
    tmp_path_factory: pytest.TempPathFactory,
    fields: list[tuple[str, str]],
    rows: int,
    chunk: int,
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(
        [("first", "second"), *fields]
    )
    path = written(tmp_path_factory.mktemp("csv") / "in", text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK_BYTES", chunk)
        found = ranges_of(path, ShardLimits(rows), has_header=True, has_quotes=True)
    data = path.read_bytes()
    read: list[tuple[str, ...]] = []
    for each in found:
        part = data[each.offset : each.offset + each.size_bytes].decode()
        more = list(csv.reader(io.StringIO(part, newline="")))
        assert len(more) == each.rows
        read += [tuple(row) for row in more]
    assert read == fields


def test_quote_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "in", b'a,b\n1,"2\n3,4\n')
    with pytest.raises(InputInvalid, match="never closed"):
        ranges_of(path, ShardLimits(10), has_header=True, has_quotes=True)


def test_header_is_found_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "CHUNK_BYTES", 4)
    path = written(tmp_path / "in", b'"a\nb",c\n1,2\n')
    assert header_of(LocalFile(path)) == b'"a\nb",c\n'
    with pytest.raises(InputInvalid, match="no line end"):
        header_of(LocalFile(written(tmp_path / "long", b"x" * 100)))


def test_range_that_is_not_what_was_planned_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "in", b"aa\nbb\n")
    (rows,) = ranges_of(path, ShardLimits(10))
    assert read_range(LocalFile(path), rows)[0] == b"aa\nbb\n"
    for data in (b"aa\nbB\n", b"aa\n"):
        written(path, data)
        with pytest.raises(InputChanged, match="submit a new job"):
            read_range(LocalFile(path), rows)


def test_text_that_changes_while_it_is_planned_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "in", b"aa\nbb\ncc\n")
    planned = line_ranges(LocalFile(path), ShardLimits(1), has_header=False, has_quotes=False)
    next(planned)
    with path.open("ab") as file:
        file.write(b"dd\n")
    with pytest.raises(InputChanged):
        list(planned)
