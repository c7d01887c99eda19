"""The model store over folders built for each test. Its files need not be runnable, only protobufs."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
from onnx import helper

from capamesh.node.repository import (
    ContentChanged,
    DeclaredIo,
    Manifest,
    ModelSource,
    Refused,
    Scan,
    file_stamp,
    folder_files,
    scan,
)
from capamesh.node.repository.labels import read_labels
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.tensors import Datatype, TensorSpec

F32 = onnx.TensorProto.FLOAT


def onnx_bytes(name: str = "g", location: str | None = None) -> bytes:
    tensor = onnx.TensorProto(name="w", data_type=F32, dims=[4])
    if location is None:
        tensor.raw_data = bytes(16)
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph([], name, [], [], [tensor])
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(found: Scan) -> list[tuple[str, str]]:
    return [(source.name, source.version) for source in found.models]


def only_refusal(found: Scan) -> Refused:
    assert found.models == ()
    assert len(found.refused) == 1
    return found.refused[0]


def test_both_layouts_and_every_version_are_found_in_order(tmp_path: Path) -> None:
    for version in ("1", "2", "10"):
        put(tmp_path / "digits" / version / "model.onnx", onnx_bytes(version))
    put(tmp_path / "iris.v2.onnx", onnx_bytes())
    found = scan(tmp_path)
    assert names(found) == [("digits", "1"), ("digits", "2"), ("digits", "10"), ("iris.v2", "1")]
    assert found.refused == ()
    assert found.models[2].path == tmp_path / "digits/10/model.onnx"
    assert found.models[3].path == tmp_path / "iris.v2.onnx"
    assert found.models[3].size_bytes == len(onnx_bytes())


def test_folder_that_is_no_model_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path / "README.md", b"notes")
    put(tmp_path / ".git/1/model.onnx", b"junk")
    put(tmp_path / ".hidden.onnx", b"junk")
    put(tmp_path / "digits/1/model.onnx", onnx_bytes())
    put(tmp_path / "digits/labels.txt", b"zero")
    put(tmp_path / "digits/cache/model.onnx", b"junk")
    found = scan(tmp_path)
    assert names(found) == [("digits", "1")]
    assert found.refused == ()


def test_folder_that_is_not_there_is_a_config_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'.*gone' cannot be read: No such file.*; create it"):
        scan(tmp_path / "gone")


def test_config_of_tritons_applies_where_there_is_no_manifest(tmp_path: Path) -> None:
    config = b"max_batch_size: 4 input { name: 'x' data_type: TYPE_FP32 dims: 2 } runtime: 'r'"
    put(tmp_path / "a/1/model.onnx", onnx_bytes())
    put(tmp_path / "a/config.pbtxt", config)
    put(tmp_path / "b/1/model.onnx", onnx_bytes())
    put(tmp_path / "b/config.pbtxt", b"junk is not read")
    put(tmp_path / "b/capamesh.toml", b"max_queue = 3")
    put(tmp_path / "c/1/model.onnx", onnx_bytes())
    put(tmp_path / "c/config.pbtxt", b"name: 'd'")
    found = scan(tmp_path)
    a, b = found.models
    assert a.manifest.rules.batching.max_rows == 4
    assert a.declared == DeclaredIo((TensorSpec("x", Datatype.FP32, (2,)),), has_batch_axis=True)
    assert a.notes == ("runtime is ignored: ONNX Runtime is the only one",)
    assert b.manifest == Manifest(max_queue=3)
    assert b.notes == ("config.pbtxt is ignored: capamesh.toml is there too",)
    assert found.refused == (
        Refused(
            "c",
            "",
            "c/config.pbtxt, line 1: name: is 'd' in the folder 'c'; make them the same",
            ("1",),
        ),
    )


STEPS = b"[[step]]\nmodel = 'a'\ninputs = {x = 'in'}\noutputs = {y = 'out'}\n"


def test_folder_with_steps_is_a_pipeline_without_a_file_of_its_own(tmp_path: Path) -> None:
    toml = put(tmp_path / "chain/capamesh.toml", STEPS)
    put(tmp_path / "two/capamesh.toml", STEPS)
    (tmp_path / "two/1").mkdir()
    (tmp_path / "two/3").mkdir()
    found = scan(tmp_path)
    assert names(found) == [("chain", "1"), ("two", "1"), ("two", "3")]
    chain = found.models[0]
    assert chain.is_pipeline
    assert chain.path == tmp_path / "chain"
    assert chain.size_bytes == len(STEPS)
    assert [file.path for file in chain.files] == [toml]
    assert len({source.digest for source in found.models}) == 1
    toml.write_bytes(STEPS + b"version = 2\n")
    assert scan(tmp_path).models[0].digest != chain.digest


def test_steps_and_a_file_of_its_own_exclude_each_other(tmp_path: Path) -> None:
    put(tmp_path / "a/1/model.onnx", onnx_bytes())
    put(tmp_path / "a/capamesh.toml", STEPS.replace(b"'a'", b"'other'"))
    put(tmp_path / "b.onnx", onnx_bytes())
    put(tmp_path / "b.capamesh.toml", STEPS)
    put(tmp_path / "self/capamesh.toml", STEPS.replace(b"'a'", b"'self'"))
    found = scan(tmp_path)
    assert found.models == ()
    assert [(one.name, one.version) for one in found.refused] == [
        ("a", "1"),
        ("b", ""),
        ("self", ""),
    ]
    assert "a pipeline has no file of its own; remove its steps or" in found.refused[0].reason
    assert found.refused[1].reason == (
        "b.capamesh.toml has steps, and b.onnx is there; remove one of the two"
    )
    assert "a pipeline cannot contain itself" in found.refused[2].reason


def test_files_that_warm_ups_name_lie_beside_the_manifest(tmp_path: Path) -> None:
    toml = b"[[warm_up]]\nfiles = {y = 'two.npy', x = 'one.npy'}\n[[warm_up]]\n"
    for name in "ac":
        put(tmp_path / name / "1/model.onnx", onnx_bytes())
        put(tmp_path / name / "capamesh.toml", toml)
        put(tmp_path / name / "two.npy", b"array")
    one, two = put(tmp_path / "a/one.npy", b"array"), tmp_path / "a/two.npy"
    put(tmp_path / "b.onnx", onnx_bytes())
    put(tmp_path / "b.capamesh.toml", toml)
    (tmp_path / "c/one.npy").symlink_to("/etc/hostname")
    found = scan(tmp_path)
    (source,) = found.models
    assert [(file.name, file.path) for file in source.warm_up_files] == [
        ("one.npy", one),
        ("two.npy", two),
    ]
    assert "one.npy' cannot be read: No such file or directory" in found.refused[0].reason
    assert "outside the model folder; copy it inside" in found.refused[1].reason


def test_files_of_one_warm_up_are_no_larger_than_a_request_may_be(tmp_path: Path) -> None:
    put(tmp_path / "m/1/model.onnx", onnx_bytes())
    toml = (
        "[[warm_up]]\nfiles = {x = 'one.npy', y = 'two.npy'}\n[[warm_up]]\nfiles = {x = 'one.npy'}"
    )
    put(tmp_path / "m/capamesh.toml", toml.encode())
    for name, size in (("one.npy", 2**28 - 1), ("two.npy", 1)):
        with put(tmp_path / "m" / name, b"").open("r+b") as stream:
            stream.truncate(size)  # sparse
    assert names(scan(tmp_path)) == [("m", "1")]
    put(tmp_path / "m/two.npy", b"12")
    assert only_refusal(scan(tmp_path)).reason == (
        "one.npy, two.npy of a warm-up have 268435457 bytes, at most 268435456 are allowed; warm up with "
        "fewer rows"
    )


@pytest.mark.parametrize("file", ["sub/folder/net.bin"])
def test_config_pbtxt_may_call_the_model_s_file_otherwise(tmp_path: Path, file: str) -> None:
    put(tmp_path / "plain/1/model.onnx", onnx_bytes(location="w.bin"))
    put(tmp_path / "plain/1/w.bin", b"weights")
    put(tmp_path / "m/1" / file, onnx_bytes(location="w.bin"))
    put((tmp_path / "m/1" / file).with_name("w.bin"), b"weights")
    put(tmp_path / "m/2/model.onnx", onnx_bytes())
    put(
        tmp_path / "m/config.pbtxt",
        f"default_model_filename: '{file}' version_policy {{ all {{}} }}".encode(),
    )
    found = scan(tmp_path)
    assert names(found) == [("m", "1"), ("plain", "1")]
    m, plain = found.models
    assert (m.path, m.folder) == (tmp_path / "m/1" / file, tmp_path / "m")
    assert [stamp.name for stamp in m.files] == ["model.onnx", "w.bin"]
    # Only what it is called differs.
    assert (m.digest, m.size_bytes) == (plain.digest, plain.size_bytes)
    assert f"m/2/{file}' cannot be read: No such file or directory" in only_reason(found)


def only_reason(found: Scan) -> str:
    (refused,) = found.refused
    return refused.reason


@pytest.mark.parametrize("link", ["1/sub", "1/sub/net.onnx"])
def test_file_is_not_reached_through_links_that_leave(tmp_path: Path, link: str) -> None:
    root, away = tmp_path / "models", tmp_path / "away"
    put(root / "m/config.pbtxt", b"default_model_filename: 'sub/net.onnx'")
    put(away / "1/sub/net.onnx", onnx_bytes())
    (root / "m" / link).parent.mkdir(parents=True, exist_ok=True)
    (root / "m" / link).symlink_to(away / link)
    assert "outside the model folder; copy it inside" in only_refusal(scan(root)).reason


def test_one_broken_model_never_hides_the_others(tmp_path: Path) -> None:
    put(tmp_path / "broken/1/model.onnx", b"\x0b junk")
    put(tmp_path / "broken/2/model.onnx", onnx_bytes())
    put(tmp_path / "empty/1/model.onnx", b"")
    put(tmp_path / "good/1/model.onnx", onnx_bytes())
    put(tmp_path / "half/1/other.onnx", onnx_bytes())
    put(tmp_path / "toml/1/model.onnx", onnx_bytes())
    put(tmp_path / "toml/capamesh.toml", b"colour = 'red'")
    (tmp_path / "void").mkdir()
    put(tmp_path / "zero/01/model.onnx", onnx_bytes())
    found = scan(tmp_path)
    assert names(found) == [("broken", "2"), ("good", "1")]
    reasons = {(refused.name, refused.version): refused.reason for refused in found.refused}
    assert reasons == {
        (
            "broken",
            "1",
        ): "not an ONNX file, or a damaged one (no field begins at byte 0: wire type 3)",
        ("empty", "1"): (
            "model.onnx has 0 bytes, 1 to 2147483647 are allowed; keep larger weights as "
            "external data"
        ),
        ("half", "1"): ("'half/1/model.onnx' cannot be read: No such file or directory"),
        ("toml", ""): (
            "toml/capamesh.toml: unknown key colour; allowed keys are description, "
            "providers, allow_cpu_fallback, max_queue, instances, pinned, idempotent, deterministic, versions, "
            "batching, sequence, loop, window, warm_up, step, task, text, embedding, image, file, generation"
        ),
        ("void", ""): "'void' has no version folder; put the model at 1/model.onnx",
        ("zero", "01"): "version '01' is not a decimal number from 1 without a leading zero",
    }


@pytest.mark.parametrize("name", ["a b", "é"])
def test_name_that_no_url_should_carry_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path / name / "1" / "model.onnx", onnx_bytes())
    assert scan(tmp_path).refused == (
        Refused(
            name,
            "",
            f"{name!r} is no model name: 1 to 256 letters, digits, '.', '_' and '-', no dot first",
            ("1",),
        ),
    )


def test_version_given_as_a_folder_and_as_a_file_is_served_once(tmp_path: Path) -> None:
    put(tmp_path / "iris/1/model.onnx", onnx_bytes())
    put(tmp_path / "iris.onnx", onnx_bytes())
    found = scan(tmp_path)
    assert names(found) == [("iris", "1")]
    assert found.refused == (
        Refused(
            "iris", "1", "version 1 is there twice, as a folder and as 'iris.onnx'; remove one"
        ),
    )


def test_bare_file_owns_its_external_data_and_nothing_else_beside_it(tmp_path: Path) -> None:
    put(tmp_path / "big.onnx", onnx_bytes(location="./big.data"))
    put(tmp_path / "big.data", b"weights")
    put(tmp_path / "other.onnx", onnx_bytes())
    found = scan(tmp_path)
    assert [[file.name for file in source.files] for source in found.models] == [
        ["big.data", "model.onnx"],
        ["model.onnx"],
    ]
    before = found.models[0].digest
    put(tmp_path / "big.data", b"weighty")
    assert scan(tmp_path).models[0].digest != before


@pytest.mark.parametrize(
    ("location", "complaint"),
    [
        ("../secret", "external data location '../secret' leaves the model's folder"),
        ("gone.bin", "gone.bin' cannot be read: No such file or directory"),
        ("sub", "sub' is not an ordinary file"),
    ],
)
def test_external_data_that_leaves_the_folder_or_is_no_file_is_refused(
    tmp_path: Path, location: str, complaint: str
) -> None:
    put(tmp_path / "m/1/model.onnx", onnx_bytes(location=location))
    (tmp_path / "m/1/sub").mkdir()
    put(tmp_path / "m/secret", b"weights")
    assert complaint in only_refusal(scan(tmp_path)).reason


def test_links_that_leave_the_folder_are_refused_wherever_they_stand(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside/1/model.onnx", onnx_bytes())
    toml = put(tmp_path / "outside/capamesh.toml", b"")
    root = tmp_path / "models"
    put(root / "data/1/model.onnx", onnx_bytes(location="w.bin"))
    (root / "data/1/w.bin").symlink_to(outside)
    put(root / "extra/1/model.onnx", onnx_bytes())
    (root / "extra/1/notes").symlink_to(outside)
    (root / "bare.onnx").symlink_to(outside)
    put(root / "below.onnx", onnx_bytes(location="weights/model.onnx"))
    (root / "weights").symlink_to(outside.parent)
    (root / "file/1").mkdir(parents=True)
    (root / "file/1/model.onnx").symlink_to(outside)
    (root / "model").symlink_to(tmp_path / "outside")
    put(root / "toml/1/model.onnx", onnx_bytes())
    (root / "toml/capamesh.toml").symlink_to(toml)
    (root / "version").mkdir()
    (root / "version/1").symlink_to(outside.parent)
    found = scan(root)
    assert found.models == ()
    assert [(refused.name, refused.version) for refused in found.refused] == [
        ("bare", "1"),
        ("below", "1"),
        ("data", "1"),
        ("extra", "1"),
        ("file", "1"),
        ("model", ""),
        ("toml", ""),
        ("version", "1"),
        ("weights", ""),
    ]
    for refused in found.refused:
        assert "outside the model folder; copy it inside" in refused.reason


def test_links_that_stay_inside_are_followed_and_loops_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "m/1/model.onnx", onnx_bytes())
    (tmp_path / "m/2").symlink_to("1")
    (tmp_path / "alias.onnx").symlink_to("m/1/model.onnx")
    (tmp_path / "loop/1").mkdir(parents=True)
    (tmp_path / "loop/1/model.onnx").symlink_to("model.onnx")
    put(tmp_path / "round/1/model.onnx", onnx_bytes())
    (tmp_path / "round/1/again").symlink_to(".")
    found = scan(tmp_path)
    assert names(found) == [("alias", "1"), ("m", "1"), ("m", "2")]
    assert len({source.digest for source in found.models}) == 1
    assert [refused.name for refused in found.refused] == ["loop", "round"]
    assert "Too many levels of symbolic links" in found.refused[0].reason
    assert "is a link to a folder; copy it inside" in found.refused[1].reason


def test_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    (tmp_path / "m/1").mkdir(parents=True)
    os.mkfifo(tmp_path / "m/1/model.onnx")
    assert "is not an ordinary file" in only_refusal(scan(tmp_path)).reason


def test_sizes_and_counts_over_the_limits_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "m/1/model.onnx", onnx_bytes())
    put(tmp_path / "m/1/notes", b"abc")
    monkeypatch.setattr(
        "capamesh.node.repository.folder_files.MAX_VERSION_BYTES", path.stat().st_size + 2
    )
    assert "at most 10000 files of" in only_refusal(scan(tmp_path)).reason
    monkeypatch.setattr("capamesh.node.repository.folder_files.MAX_VERSION_FILES", 1)
    assert "holds more than 1 files" in only_refusal(scan(tmp_path)).reason
    with path.open("r+b") as stream:
        stream.truncate(2**31)  # sparse
    assert "has 2147483648 bytes, 1 to 2147483647" in only_refusal(scan(tmp_path)).reason


STATEFUL = b"""
sequence_batching {
  state {
    input_name: "IN" output_name: "OUT" data_type: TYPE_INT32 dims: [ 1 ]
    initial_state: { data_type: TYPE_INT32 dims: [ 1 ] data_file: "start" name: "i" }
  }
}
"""


def test_file_that_a_state_begins_with_is_part_of_each_version(tmp_path: Path) -> None:
    put(tmp_path / "m/config.pbtxt", STATEFUL)
    put(tmp_path / "m/initial_state/start", b"\1\0\0\0")
    put(tmp_path / "m/1/model.onnx", onnx_bytes())
    (source,) = scan(tmp_path).models
    assert [file.name for file in source.files] == ["initial_state/start", "model.onnx"]
    assert source.content.read("initial_state/start") == b"\1\0\0\0"
    put(tmp_path / "m/initial_state/start", b"\2\0\0\0")
    assert scan(tmp_path).models[0].digest != source.digest
    put(tmp_path / "m/1/initial_state/start", b"\1\0\0\0")
    assert only_refusal(scan(tmp_path)).reason == (
        "'initial_state/start' is in the version's folder and beside it; remove one"
    )


# labels

Y = TensorSpec("y", Datatype.FP32, (-1, 2))


def labels_of(source: ModelSource) -> tuple[str, ...]:
    labels, notes = read_labels(source.label_files, [Y])
    assert notes == ()
    return labels["y"]


def test_labels_beside_a_model_are_found_and_another_file_is_another_model(tmp_path: Path) -> None:
    put(tmp_path / "m/1/model.onnx", onnx_bytes())
    put(tmp_path / "bare.onnx", onnx_bytes())
    without = scan(tmp_path)
    assert [source.label_files for source in without.models] == [(), ()]
    put(tmp_path / "m/labels.txt", b"cat\r\n\n dog \n")
    put(tmp_path / "bare.labels.txt", "\ufeff\u00e4\n".encode() + b"x" * 300)
    bare, m = scan(tmp_path).models
    assert (labels_of(m), m.digest) == (("cat", "", "dog"), without.models[1].digest)
    assert m != without.models[1]
    assert labels_of(bare) == ("\u00e4", "x" * 256)


def test_labels_that_lead_out_of_the_folder_are_left_out_with_a_note(tmp_path: Path) -> None:
    put(tmp_path / "models/m/1/model.onnx", onnx_bytes())
    outside = put(tmp_path / "secret.txt", b"secret")
    (tmp_path / "models/m/labels.txt").symlink_to(outside)
    (source,) = scan(tmp_path / "models").models
    assert source.label_files == ()
    (note,) = source.notes
    assert note.startswith("labels.txt is ignored: 'm/labels.txt' leads to ")
    assert note.endswith("outside the model folder; copy it inside")


ONNX = b"\x08\x0a"  # a protobuf with an IR version: enough for the store


def model(root: Path, *versions: str, toml: str = "", pbtxt: str | None = None) -> None:
    for version in versions:
        (root / "m" / version).mkdir(parents=True)
        (root / "m" / version / "model.onnx").write_bytes(ONNX)
    if toml:
        (root / "m/capamesh.toml").write_text(toml)
    if pbtxt is not None:
        (root / "m/config.pbtxt").write_text(pbtxt)


def served(root: Path) -> list[str]:
    return [source.version for source in scan(root).models]


@pytest.mark.parametrize(
    ("toml", "pbtxt", "expected"),
    [
        ("", None, ["1", "2", "10"]),
        ("versions = {latest = 2}", None, ["2", "10"]),
        ("versions = {latest = 9}", None, ["1", "2", "10"]),
        ("versions = {specific = [10, 1]}", None, ["1", "10"]),
        ("", "", ["10"]),
        ("", "version_policy { specific { versions: [2] } }", ["2"]),
        ("versions = {latest = 1}", "version_policy { all {} }", ["10"]),
    ],
)
def test_policy_chooses_by_number(
    tmp_path: Path, toml: str, pbtxt: str | None, expected: list[str]
) -> None:
    model(tmp_path, "1", "2", "10", toml=toml, pbtxt=pbtxt)
    assert served(tmp_path) == expected
    assert scan(tmp_path).refused == ()


def test_specific_version_that_is_not_there_is_refused_and_hides_no_other(tmp_path: Path) -> None:
    model(tmp_path, "1", toml="versions = {specific = [1, 7]}")
    assert served(tmp_path) == ["1"]
    reason = "version 7 is asked for and has no folder; put the model at 7/model.onnx"
    assert scan(tmp_path).refused == (Refused("m", "7", reason),)


def test_broken_latest_version_is_refused_and_none_takes_its_place(tmp_path: Path) -> None:
    model(tmp_path, "1", "2", toml="versions = {latest = 1}")
    (tmp_path / "m/2/model.onnx").write_bytes(b"\x0b junk")
    assert served(tmp_path) == []
    assert [(one.name, one.version) for one in scan(tmp_path).refused] == [("m", "2")]


NOW_NS = 10**18
OLD_NS = NOW_NS - 10**10


@pytest.fixture(autouse=True)
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every change give another time, however soon it is made."""
    monkeypatch.setattr(file_stamp, "TICK_NS", -(10**12))


def put_old(path: Path, content: bytes, modified_ns: int = OLD_NS) -> Path:
    put(path, content)
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
    put_old(tmp_path / "a/1/model.onnx", onnx_bytes(location="w.bin"))
    put_old(tmp_path / "a/1/w.bin", b"weights")
    put_old(tmp_path / "a/capamesh.toml", b"max_queue = 3")
    put_old(tmp_path / "b/1/model.onnx", onnx_bytes())
    put_old(tmp_path / "b/config.pbtxt", b"max_batch_size: 3")
    put_old(tmp_path / "bare.onnx", onnx_bytes(location="bare.data"))
    put_old(tmp_path / "bare.data", b"weights")
    put_old(tmp_path / "broken.onnx", b"\x0b junk")
    put_old(tmp_path / "chain/capamesh.toml", b"colour = 'red'")
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
    put_old(tmp_path / "a.onnx", onnx_bytes(location="a.data"))
    put_old(tmp_path / "a.data", b"weights")
    put_old(tmp_path / "b.onnx", onnx_bytes())
    before = scan(tmp_path)
    put_old(tmp_path / "a.data", b"WEIGHTS", OLD_NS + 1)
    opened.clear()
    after = scan(tmp_path, before=before)
    assert opened == ["a.data"]  # the chunks of the other file are known
    assert after.models[0] != before.models[0]
    assert after.models[1] == before.models[1]


def test_file_put_in_anothers_place_with_its_size_and_time_is_noticed(tmp_path: Path) -> None:
    put_old(tmp_path / "a.onnx", onnx_bytes("one"))
    before = scan(tmp_path)
    put_old(tmp_path / "b", onnx_bytes("two")).rename(tmp_path / "a.onnx")
    after = poll(tmp_path, before)
    stamps = [found.models[0].files[0] for found in (before, after)]
    assert len({(stamp.size_bytes, stamp.modified_ns) for stamp in stamps}) == 1
    assert after.models[0].digest != before.models[0].digest


def test_changed_manifest_makes_another_source_of_the_same_digest(tmp_path: Path) -> None:
    put_old(tmp_path / "a/1/model.onnx", onnx_bytes())
    put_old(tmp_path / "a/capamesh.toml", b"max_queue = 3")
    before = scan(tmp_path)
    put_old(tmp_path / "a/capamesh.toml", b"[batching]\nmax_rows = 2", OLD_NS + 1)
    after = poll(tmp_path, before)
    assert after.models[0] != before.models[0]
    assert after.models[0].digest == before.models[0].digest
    put_old(tmp_path / "a/capamesh.toml", b"batching.max_rows = 2 # another way", OLD_NS + 2)
    assert poll(tmp_path, after) == after


@pytest.mark.parametrize(
    ("age_ns", "is_settled"), [(10**9 - 1, False), (10**9, True), (1 - 10**9, False)]
)
def test_model_is_settled_when_its_newest_file_is_a_second_from_now(
    tmp_path: Path, age_ns: int, is_settled: bool
) -> None:
    put_old(tmp_path / "a/1/model.onnx", onnx_bytes())
    put_old(tmp_path / "a/1/words.txt", b"w", NOW_NS - age_ns)
    found = poll(tmp_path, Scan())
    assert len(found.models) == is_settled


@pytest.mark.parametrize("changed", ["m/1/model.onnx", "m/capamesh.toml", "m/3/model.onnx"])
def test_model_that_is_being_changed_stays_as_it_was(tmp_path: Path, changed: str) -> None:
    put_old(tmp_path / "m/1/model.onnx", onnx_bytes())
    put_old(tmp_path / "m/2/model.onnx", b"\x0b junk")
    put_old(tmp_path / "m/capamesh.toml", b"max_queue = 3")
    before = scan(tmp_path)
    put_old(tmp_path / changed, b"half", NOW_NS)
    during = poll(tmp_path, before)
    assert during == before
    assert [one.version for one in during.refused] == ["2"]
    put_old(tmp_path / changed, onnx_bytes("whole"))
    assert poll(tmp_path, during) != before


def test_external_data_and_warm_up_files_are_waited_for_too(tmp_path: Path) -> None:
    put_old(tmp_path / "a.onnx", onnx_bytes(location="a.data"))
    put_old(tmp_path / "a.data", b"weights", NOW_NS)
    put_old(tmp_path / "b.onnx", onnx_bytes())
    put_old(tmp_path / "b.capamesh.toml", b"[[warm_up]]\nfiles = {x = 'b.npy'}")
    put_old(tmp_path / "b.npy", b"array", NOW_NS)
    assert poll(tmp_path, Scan()) == Scan()


def test_files_that_were_too_new_to_tell_of_a_change_are_read_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    put_old(tmp_path / "a/1/model.onnx", onnx_bytes())
    put_old(tmp_path / "a/capamesh.toml", b"max_queue = 3")
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

    put_old(tmp_path / "a.onnx", onnx_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(folder_files, "contents_of", changing)
        before = scan(tmp_path)
    assert [one.reason for one in before.refused] == ["it was changed while it was read"]
    assert [one.name for one in poll(tmp_path, before).models] == ["a"]
