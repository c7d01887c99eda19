"""Arrays from files: what numpy wrote comes back, and what is too large, cut, packed oddly or a pickle does not."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from capamesh.node.repository import array_files
from capamesh.node.repository.array_files import read_npy, read_npz

MIB = 2**20


def saved(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def file(folder: Path, raw: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(raw)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrays")


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.int64, np.uint8, np.bool_, "<U3", "S2", ">i4"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    st.booleans(),
)
def test_array_that_numpy_saved_comes_back(
    folder: Path, array: npt.NDArray[Any], is_turned: bool
) -> None:
    array = array.T if is_turned else array
    raw = saved(array)
    path = file(folder, raw)
    found = read_npy(path, len(raw))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    with pytest.raises(ValueError, match=f"{len(raw)} bytes, at most {len(raw) - 1} are read"):
        read_npy(path, len(raw) - 1)


@given(st.integers(0, 200), st.binary(max_size=4))
def test_file_cut_short_or_too_long_is_refused(folder: Path, keep: int, more: bytes) -> None:
    raw = saved(np.arange(8.0))
    changed = raw[:keep] + more
    if len(changed) == len(raw):
        return
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
        read_npy(file(folder, changed), MIB)


PROMISE = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}}}"


@pytest.mark.parametrize(
    ("header", "why"),
    [
        *(
            (header, ".")
            for header in ("-" * 9000 + "1", "(" * 300, "'\\", "{1: 2, 'a': []}", "{[]: 1}")
        ),
        (PROMISE.format("(1000000000000,)"), r"\[1000000000000\] of float32, and 8 bytes follow"),
        (PROMISE.format("(-1, -2)"), r"\[-1, -2\] of float32, and 8 bytes follow"),
        (PROMISE.format("(3,)"), r"\[3\] of float32, and 8 bytes follow"),
    ],
)
def test_header_that_promises_too_much_or_troubles_pythons_parser_is_refused(
    tmp_path: Path, header: str, why: str
) -> None:
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(8)
    with pytest.raises(ValueError, match=why):
        read_npy(file(tmp_path, raw), MIB)


class Boom:
    """Would say so when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def test_objects_are_never_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pickled = np.array([Boom()], object)
    with pytest.raises(ValueError, match="Python objects"):
        read_npy(file(tmp_path, saved(pickled)), MIB)
    np.savez(tmp_path / "a.npz", x=pickled)
    with pytest.raises(ValueError, match="Python objects"):
        read_npz(tmp_path / "a.npz", MIB)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_an_archive_come_back_by_name(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.npz", x=np.arange(4), **{"in/y:0": np.array(["a", "bc"])})
    found = read_npz(tmp_path / "a.npz", MIB)
    assert {name: array.tolist() for name, array in found.items()} == {
        "x": [0, 1, 2, 3],
        "in/y:0": ["a", "bc"],
    }


def test_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros(MIB, np.uint8), y=np.zeros(MIB, np.uint8))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # nothing is unpacked
    refusal = rf"2 arrays of 20974\d\d bytes .* at most .* {2 * MIB} bytes"
    with pytest.raises(ValueError, match=refusal):
        read_npz(path, 2 * MIB)
    monkeypatch.setattr(array_files, "_MAX_ARRAYS", 1)
    with pytest.raises(ValueError, match=r"2 arrays of .*; at most 1 of"):
        read_npz(path, 3 * MIB)


def test_member_that_is_larger_than_it_says_gives_no_more_than_that(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(MIB, np.uint8))
    raw = (tmp_path / "a.npz").read_bytes()
    reported, real = struct.pack("<I", 1000), struct.pack("<I", MIB + 128)
    assert real in raw
    with pytest.raises(ValueError, match=r"bytes follow|not an archive"):
        read_npz(file(tmp_path, raw.replace(real, reported)), MIB)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing_are_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("x.npy", saved(np.ones(3)))
    with pytest.raises(ValueError, match=r"'x\.npy' is packed otherwise than"):
        read_npz(tmp_path / "a.npz", MIB)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda junk: b"PK\x03\x04" + junk))
def test_junk_is_refused(folder: Path, raw: bytes) -> None:
    path = file(folder, raw)
    for read in (read_npy, read_npz):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
            read(path, MIB)
