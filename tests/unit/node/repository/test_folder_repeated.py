"""Repeated scans: what has changed is noticed, what has not is not opened, what is not settled waits."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
from onnx import helper

from capamesh.node.repository import (
    ContentChanged,
    Scan,
    file_stamp,
    folder_files,
    scan,
)

NOW_NS = 10**18
OLD_NS = NOW_NS - 10**10


def onnx_bytes(name: str = "g", location: str | None = None) -> bytes:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    if location is None:
        tensor.raw_data = bytes(16)
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph([], name, [], [], [tensor])
    return helper.make_model(graph, ir_version=10).SerializeToString()


@pytest.fixture(autouse=True)
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every change give another time, however soon it is made."""
    monkeypatch.setattr(file_stamp, "TICK_NS", -(10**12))


def put(path: Path, content: bytes, modified_ns: int = OLD_NS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(modified_ns, modified_ns))
    return path


def poll(root: Path, before: Scan) -> Scan:
    return scan(root, before=before, now_ns=NOW_NS)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened from now on, by name."""
    names: list[str] = []
    real = file_stamp.open_ordinary

    def logged(path: Path) -> object:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(file_stamp, "open_ordinary", logged)
    return names


def test_scan_of_unchanged_models_opens_no_file(tmp_path: Path, opened: list[str]) -> None:
    put(tmp_path / "a/1/model.onnx", onnx_bytes(location="w.bin"))
    put(tmp_path / "a/1/w.bin", b"weights")
    put(tmp_path / "a/capamesh.toml", b"max_queue = 3")
    put(tmp_path / "b/1/model.onnx", onnx_bytes())
    put(tmp_path / "b/config.pbtxt", b"max_batch_size: 3")
    put(tmp_path / "bare.onnx", onnx_bytes(location="bare.data"))
    put(tmp_path / "bare.data", b"weights")
    put(tmp_path / "broken.onnx", b"\x0b junk")
    put(tmp_path / "chain/capamesh.toml", b"colour = 'red'")
    before = scan(tmp_path)
    assert len(before.models) == 3
    assert len(before.refused) == 2
    assert opened
    opened.clear()
    after = poll(tmp_path, before)
    assert after == before
    assert poll(tmp_path, after) == before
    assert opened == []


def test_scan_opens_again_only_what_changed(tmp_path: Path, opened: list[str]) -> None:
    put(tmp_path / "a.onnx", onnx_bytes(location="a.data"))
    put(tmp_path / "a.data", b"weights")
    put(tmp_path / "b.onnx", onnx_bytes())
    before = scan(tmp_path)
    put(tmp_path / "a.data", b"WEIGHTS", OLD_NS + 1)
    opened.clear()
    after = scan(tmp_path, before=before)
    assert opened == ["a.data"]  # the chunks of the other file are known
    assert after.models[0] != before.models[0]
    assert after.models[1] == before.models[1]


def test_file_put_in_anothers_place_with_its_size_and_time_is_noticed(tmp_path: Path) -> None:
    put(tmp_path / "a.onnx", onnx_bytes("one"))
    before = scan(tmp_path)
    put(tmp_path / "b", onnx_bytes("two")).rename(tmp_path / "a.onnx")
    after = poll(tmp_path, before)
    stamps = [found.models[0].files[0] for found in (before, after)]
    assert len({(stamp.size_bytes, stamp.modified_ns) for stamp in stamps}) == 1
    assert after.models[0].digest != before.models[0].digest


def test_changed_manifest_makes_another_source_of_the_same_digest(tmp_path: Path) -> None:
    put(tmp_path / "a/1/model.onnx", onnx_bytes())
    put(tmp_path / "a/capamesh.toml", b"max_queue = 3")
    before = scan(tmp_path)
    put(tmp_path / "a/capamesh.toml", b"[batching]\nmax_rows = 2", OLD_NS + 1)
    after = poll(tmp_path, before)
    assert after.models[0] != before.models[0]
    assert after.models[0].digest == before.models[0].digest
    put(tmp_path / "a/capamesh.toml", b"batching.max_rows = 2 # another way", OLD_NS + 2)
    assert poll(tmp_path, after) == after


@pytest.mark.parametrize(
    ("age_ns", "is_settled"), [(10**9 - 1, False), (10**9, True), (1 - 10**9, False)]
)
def test_model_is_settled_when_its_newest_file_is_a_second_from_now(
    tmp_path: Path, age_ns: int, is_settled: bool
) -> None:
    put(tmp_path / "a/1/model.onnx", onnx_bytes())
    put(tmp_path / "a/1/words.txt", b"w", NOW_NS - age_ns)
    found = poll(tmp_path, Scan())
    assert len(found.models) == is_settled


@pytest.mark.parametrize("changed", ["m/1/model.onnx", "m/capamesh.toml", "m/3/model.onnx"])
def test_model_that_is_being_changed_stays_as_it_was(tmp_path: Path, changed: str) -> None:
    put(tmp_path / "m/1/model.onnx", onnx_bytes())
    put(tmp_path / "m/2/model.onnx", b"\x0b junk")
    put(tmp_path / "m/capamesh.toml", b"max_queue = 3")
    before = scan(tmp_path)
    put(tmp_path / changed, b"half", NOW_NS)
    during = poll(tmp_path, before)
    assert during == before
    assert [one.version for one in during.refused] == ["2"]
    put(tmp_path / changed, onnx_bytes("whole"))
    assert poll(tmp_path, during) != before


def test_external_data_and_warm_up_files_are_waited_for_too(tmp_path: Path) -> None:
    put(tmp_path / "a.onnx", onnx_bytes(location="a.data"))
    put(tmp_path / "a.data", b"weights", NOW_NS)
    put(tmp_path / "b.onnx", onnx_bytes())
    put(tmp_path / "b.capamesh.toml", b"[[warm_up]]\nfiles = {x = 'b.npy'}")
    put(tmp_path / "b.npy", b"array", NOW_NS)
    assert poll(tmp_path, Scan()) == Scan()


def test_files_that_were_too_new_to_tell_of_a_change_are_read_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    put(tmp_path / "a/1/model.onnx", onnx_bytes())
    put(tmp_path / "a/capamesh.toml", b"max_queue = 3")
    monkeypatch.setattr(file_stamp, "TICK_NS", 10**12)
    before = scan(tmp_path)
    monkeypatch.setattr(file_stamp, "TICK_NS", -(10**12))
    opened.clear()
    after = poll(tmp_path, before)
    # what the model holds is read apart from its bytes, and one must not be of other bytes than the other
    assert opened == ["capamesh.toml", "model.onnx", "model.onnx"]
    opened.clear()
    assert poll(tmp_path, after) == before
    assert opened == []


def test_file_that_changed_while_it_was_read_is_read_again_though_it_looks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(stream: object) -> None:
        raise ContentChanged("it was changed while it was read")

    put(tmp_path / "a.onnx", onnx_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(folder_files, "contents_of", changing)
        before = scan(tmp_path)
    assert [one.reason for one in before.refused] == ["it was changed while it was read"]
    assert [one.name for one in poll(tmp_path, before).models] == ["a"]
