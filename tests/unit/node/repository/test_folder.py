"""The model store over folders built for each test. Its files need not be runnable, only protobufs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
from model_files import onnx_model

from capamesh.node.repository import (
    ContentChanged,
    DeclaredIo,
    Manifest,
    Refused,
    Scan,
    file_stamp,
    folder_files,
    scan,
)
from capamesh.node.repository.labels import (
    EVERY_OUTPUT,
    MAX_LABELS,
    MAX_LABELS_BYTES,
    read_labels,
)
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.tensors import Datatype, TensorSpec

NOW_NS = 10**18
OLD_NS = NOW_NS - 10**10
JUNK = b"\x0b junk"
OUTSIDE = "outside the model folder; copy it inside"


def onnx_bytes(name: str = "g", location: str | None = None) -> bytes:
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[4])
    if location is None:
        tensor.raw_data = bytes(16)
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    return onnx_model([], weights=[tensor]).SerializeToString()


ONNX = onnx_bytes()


def put(
    root: Path,
    *models: str,
    files: Mapping[str, bytes | str] | None = None,
    modified_ns: int = OLD_NS,
) -> None:
    """Write ONNX files, and `files`, as they were at a time."""
    for name, content in {**dict.fromkeys(models, ONNX), **(files or {})}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        os.utime(path, ns=(modified_ns, modified_ns))


def names(found: Scan) -> list[str]:
    return [f"{source.name}/{source.version}" for source in found.models]


def reasons(found: Scan) -> dict[str, str]:
    return {f"{one.name}/{one.version}": one.reason for one in found.refused}


def only_reason(found: Scan) -> str:
    (reason,) = reasons(found).values()
    return reason


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def _ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every change give another time, however soon it is made."""
    monkeypatch.setattr(file_stamp, "TICK_NS", -(10**12))


# what is found


def test_both_layouts_and_every_version_are_found_in_order(root: Path) -> None:
    put(root, *(f"digits/{version}/model.onnx" for version in (1, 2, 10)), "iris.v2.onnx")
    found = scan(root)
    assert names(found) == ["digits/1", "digits/2", "digits/10", "iris.v2/1"]
    assert found.refused == ()
    assert found.models[2].path == root / "digits/10/model.onnx"
    assert found.models[3].path == root / "iris.v2.onnx"
    assert found.models[3].size_bytes == len(ONNX)


def test_folder_that_is_no_model_is_left_alone(root: Path) -> None:
    strays = ("README.md", ".git/1/model.onnx", ".hidden.onnx", "digits/cache/model.onnx")
    put(root, "digits/1/model.onnx", files=dict.fromkeys((*strays, "digits/notes.txt"), JUNK))
    found = scan(root)
    assert (names(found), found.refused) == (["digits/1"], ())


def test_folder_that_is_not_there_is_a_config_error_that_says_what_to_do(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"'.*gone' cannot be read: No such file.*; create it"):
        scan(root / "gone")


def test_config_of_tritons_applies_where_there_is_no_manifest(root: Path) -> None:
    config = "max_batch_size: 4 input { name: 'x' data_type: TYPE_FP32 dims: 2 } runtime: 'r'"
    files = {
        "a/config.pbtxt": config,
        "b/config.pbtxt": "junk is not read",
        "b/capamesh.toml": "max_queue = 3",
        "c/config.pbtxt": "name: 'd'",
    }
    put(root, *(f"{name}/1/model.onnx" for name in "abc"), files=files)
    found = scan(root)
    a, b = found.models
    assert a.manifest.rules.batching.max_rows == 4
    assert a.declared == DeclaredIo((TensorSpec("x", Datatype.FP32, (2,)),), has_batch_axis=True)
    assert a.notes == ("runtime is ignored: ONNX Runtime is the only one",)
    assert b.manifest == Manifest(max_queue=3)
    assert b.notes == ("config.pbtxt is ignored: capamesh.toml is there too",)
    reason = "c/config.pbtxt, line 1: name: is 'd' in the folder 'c'; make them the same"
    assert found.refused == (Refused("c", "", reason, ("1",)),)


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
def test_policy_is_by_number(root: Path, toml: str, pbtxt: str | None, expected: list[str]) -> None:
    files = {"m/capamesh.toml": toml} if toml else {}
    files |= {"m/config.pbtxt": pbtxt} if pbtxt is not None else {}
    put(root, *(f"m/{version}/model.onnx" for version in (1, 2, 10)), files=files)
    found = scan(root)
    assert [source.version for source in found.models] == expected
    assert found.refused == ()


def test_version_that_is_asked_for_and_is_not_there_or_broken_is_refused(root: Path) -> None:
    put(root, "m/1/model.onnx", files={"m/capamesh.toml": "versions = {specific = [1, 7]}"})
    found = scan(root)
    reason = "version 7 is asked for and has no folder; put the model at 7/model.onnx"
    assert (names(found), reasons(found)) == (["m/1"], {"m/7": reason})
    put(root, files={"m/capamesh.toml": "versions = {latest = 1}", "m/2/model.onnx": JUNK})
    found = scan(root)
    assert (names(found), [*reasons(found)]) == ([], ["m/2"])  # and none takes its place


# pipelines


STEPS = "[[step]]\nmodel = 'a'\ninputs = {x = 'in'}\noutputs = {y = 'out'}\n"


def test_folder_with_steps_is_a_pipeline_without_a_file_of_its_own(root: Path) -> None:
    put(root, files={"chain/capamesh.toml": STEPS, "two/capamesh.toml": STEPS})
    (root / "two/1").mkdir()
    (root / "two/3").mkdir()
    found = scan(root)
    assert names(found) == ["chain/1", "two/1", "two/3"]
    chain = found.models[0]
    assert chain.is_pipeline
    assert (chain.path, chain.size_bytes) == (root / "chain", len(STEPS))
    assert [file.path for file in chain.files] == [root / "chain/capamesh.toml"]
    assert len({source.digest for source in found.models}) == 1
    put(root, files={"chain/capamesh.toml": STEPS + "version = 2\n"})
    assert scan(root).models[0].digest != chain.digest


def test_steps_and_a_file_of_its_own_exclude_each_other(root: Path) -> None:
    files = {
        "a/capamesh.toml": STEPS.replace("'a'", "'other'"),
        "b.capamesh.toml": STEPS,
        "self/capamesh.toml": STEPS.replace("'a'", "'self'"),
    }
    put(root, "a/1/model.onnx", "b.onnx", files=files)
    found = scan(root)
    assert found.models == ()
    said = reasons(found)
    assert "a pipeline has no file of its own; remove its steps or" in said.pop("a/1")
    b = "b.capamesh.toml has steps, and b.onnx is there; remove one of the two"
    assert said.pop("b/") == b
    assert "a pipeline cannot contain itself" in said.pop("self/")
    assert said == {}


# files beside a model


def test_files_that_warm_ups_name_lie_beside_the_manifest(root: Path) -> None:
    toml = "[[warm_up]]\nfiles = {y = 'two.npy', x = 'one.npy'}\n[[warm_up]]\n"
    files = {f"{name}/capamesh.toml": toml for name in "ac"}
    files |= {f"{name}/two.npy": "array" for name in "ac"}
    files |= {"a/one.npy": "array", "b.capamesh.toml": toml}
    put(root, "a/1/model.onnx", "c/1/model.onnx", "b.onnx", files=files)
    (root / "c/one.npy").symlink_to("/etc/hostname")
    found = scan(root)
    (source,) = found.models
    beside = [(file.name, file.path) for file in source.warm_up_files]
    assert beside == [(name, root / "a" / name) for name in ("one.npy", "two.npy")]
    said = [*reasons(found).values()]
    assert "one.npy' cannot be read: No such file or directory" in said[0]
    assert OUTSIDE in said[1]


def test_files_of_one_warm_up_are_no_larger_than_a_request_may_be(root: Path) -> None:
    toml = (
        "[[warm_up]]\nfiles = {x = 'one.npy', y = 'two.npy'}\n[[warm_up]]\nfiles = {x = 'one.npy'}"
    )
    files = {"m/capamesh.toml": toml, "m/one.npy": "", "m/two.npy": "1"}
    put(root, "m/1/model.onnx", files=files)
    os.truncate(root / "m/one.npy", 2**28 - 1)  # sparse
    assert names(scan(root)) == ["m/1"]
    put(root, files={"m/two.npy": "12"})
    assert only_reason(scan(root)) == (
        "one.npy, two.npy of a warm-up have 268435457 bytes, at most 268435456 are allowed; warm up with "
        "fewer rows"
    )


def test_config_pbtxt_may_call_the_model_s_file_otherwise(root: Path) -> None:
    file, whole = "sub/folder/net.bin", onnx_bytes(location="w.bin")
    config = f"default_model_filename: '{file}' version_policy {{ all {{}} }}"
    files = {
        "plain/1/model.onnx": whole,
        "plain/1/w.bin": "weights",
        f"m/1/{file}": whole,
        "m/1/sub/folder/w.bin": "weights",
        "m/config.pbtxt": config,
    }
    put(root, "m/2/model.onnx", files=files)
    found = scan(root)
    assert names(found) == ["m/1", "plain/1"]
    m, plain = found.models
    assert (m.path, m.folder) == (root / "m/1" / file, root / "m")
    assert [stamp.name for stamp in m.files] == ["model.onnx", "w.bin"]
    # Only what it is called differs.
    assert (m.digest, m.size_bytes) == (plain.digest, plain.size_bytes)
    assert f"m/2/{file}' cannot be read: No such file or directory" in only_reason(found)


def test_bare_file_owns_its_external_data_and_nothing_else_beside_it(root: Path) -> None:
    big = {"big.onnx": onnx_bytes(location="./big.data"), "big.data": "weights"}
    put(root, "other.onnx", files=big)
    found = scan(root)
    files = [[file.name for file in source.files] for source in found.models]
    assert files == [["big.data", "model.onnx"], ["model.onnx"]]
    put(root, files={"big.data": "weighty"})
    assert scan(root).models[0].digest != found.models[0].digest


# what is refused


def test_one_broken_model_never_hides_the_others(root: Path) -> None:
    good = ("broken/2", "good/1", "toml/1", "zero/01")
    files = {
        "broken/1/model.onnx": JUNK,
        "empty/1/model.onnx": "",
        "half/1/other.onnx": ONNX,
        "toml/capamesh.toml": "colour = 'red'",
    }
    put(
        root,
        *(f"{name}/model.onnx" for name in good),
        "iris/1/model.onnx",
        "iris.onnx",
        files=files,
    )
    (root / "void").mkdir()
    found = scan(root)
    assert names(found) == ["broken/2", "good/1", "iris/1"]
    assert reasons(found) == {
        "broken/1": "not an ONNX file, or a damaged one (no field begins at byte 0: wire type 3)",
        "empty/1": (
            "model.onnx has 0 bytes, 1 to 2147483647 are allowed; keep larger weights as "
            "external data"
        ),
        "half/1": "'half/1/model.onnx' cannot be read: No such file or directory",
        "iris/1": "version 1 is there twice, as a folder and as 'iris.onnx'; remove one",
        "toml/": (
            "toml/capamesh.toml: unknown key colour; allowed keys are description, "
            "providers, allow_cpu_fallback, max_queue, instances, pinned, idempotent, deterministic, versions, "
            "batching, sequence, loop, window, warm_up, step, task, text, embedding, image, file, generation"
        ),
        "void/": "'void' has no version folder; put the model at 1/model.onnx",
        "zero/01": "version '01' is not a decimal number from 1 without a leading zero",
    }


@pytest.mark.parametrize("name", ["a b", "é"])
def test_name_that_no_url_should_carry_is_refused(root: Path, name: str) -> None:
    put(root, f"{name}/1/model.onnx")
    reason = f"{name!r} is no model name: 1 to 256 letters, digits, '.', '_' and '-', no dot first"
    assert scan(root).refused == (Refused(name, "", reason, ("1",)),)


@pytest.mark.parametrize(
    ("location", "complaint"),
    [
        ("../secret", "external data location '../secret' leaves the model's folder"),
        ("gone.bin", "gone.bin' cannot be read: No such file or directory"),
        ("sub", "sub' is not an ordinary file"),
    ],
)
def test_external_data_outside_of_the_folder_is_refused(
    root: Path, location: str, complaint: str
) -> None:
    put(root, files={"m/1/model.onnx": onnx_bytes(location=location), "m/secret": "weights"})
    (root / "m/1/sub").mkdir()
    assert complaint in only_reason(scan(root))


def test_links_that_leave_the_folder_are_refused_everywhere(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside/1/model.onnx"
    put(tmp_path, "outside/1/model.onnx", "outside/1/sub/net.onnx")
    put(tmp_path, files={"outside/capamesh.toml": ""})
    files = {
        "data/1/model.onnx": onnx_bytes(location="w.bin"),
        "below.onnx": onnx_bytes(location="weights/model.onnx"),
        "named/config.pbtxt": "default_model_filename: 'sub/net.onnx'",
        "placed/config.pbtxt": "default_model_filename: 'sub/net.onnx'",
    }
    put(root, "extra/1/model.onnx", "toml/1/model.onnx", files=files)
    links = {
        "data/1/w.bin": outside,
        "extra/1/notes": outside,
        "bare.onnx": outside,
        "weights": outside.parent,
        "file/1/model.onnx": outside,
        "model": tmp_path / "outside",
        "toml/capamesh.toml": tmp_path / "outside/capamesh.toml",
        "version/1": outside.parent,
        "named/1/sub/net.onnx": outside.parent / "sub/net.onnx",
        "placed/1/sub": outside.parent / "sub",
    }
    for link, target in links.items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(target)
    found = scan(root)
    assert found.models == ()
    said = reasons(found)
    versions = {f"{name}/1" for name in ("bare", "below", "data", "extra", "file", "version")}
    assert {*said} == versions | {"model/", "toml/", "weights/", "named/1", "placed/1"}
    assert all(OUTSIDE in reason for reason in said.values())


def test_links_that_stay_inside_are_followed_and_loops_are_refused(root: Path) -> None:
    put(root, "m/1/model.onnx", "round/1/model.onnx")
    (root / "m/2").symlink_to("1")
    (root / "alias.onnx").symlink_to("m/1/model.onnx")
    (root / "loop/1").mkdir(parents=True)
    (root / "loop/1/model.onnx").symlink_to("model.onnx")
    (root / "round/1/again").symlink_to(".")
    found = scan(root)
    assert names(found) == ["alias/1", "m/1", "m/2"]
    assert len({source.digest for source in found.models}) == 1
    loop, around = reasons(found).values()
    assert "Too many levels of symbolic links" in loop
    assert "is a link to a folder; copy it inside" in around


def test_pipe_is_refused_without_waiting_for_its_writer(root: Path) -> None:
    (root / "m/1").mkdir(parents=True)
    os.mkfifo(root / "m/1/model.onnx")
    assert "is not an ordinary file" in only_reason(scan(root))


def test_sizes_and_counts_over_the_limits_are_refused_before_anything_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, "m/1/model.onnx", files={"m/1/notes": "abc"})
    monkeypatch.setattr(folder_files, "MAX_VERSION_BYTES", len(ONNX) + 2)
    assert "at most 10000 files of" in only_reason(scan(root))
    monkeypatch.setattr(folder_files, "MAX_VERSION_FILES", 1)
    assert "holds more than 1 files" in only_reason(scan(root))
    os.truncate(root / "m/1/model.onnx", 2**31)  # sparse
    assert "has 2147483648 bytes, 1 to 2147483647" in only_reason(scan(root))


# labels


SCORES = TensorSpec("y", Datatype.FP32, (-1, 3))
OTHER = TensorSpec("z", Datatype.UINT8, (4,))
NO_SCORES = (
    TensorSpec("best", Datatype.INT64, (-1,)),
    TensorSpec("text", Datatype.BYTES, (-1, 3)),
    TensorSpec("mask", Datatype.BOOL, (-1, 3)),
)
OUTPUTS = (SCORES, OTHER, *NO_SCORES)


def test_labels_beside_a_model_are_found_and_another_file_is_another_model(root: Path) -> None:
    put(root, "m/1/model.onnx", "bare.onnx")
    without = scan(root)
    assert [source.label_files for source in without.models] == [(), ()]
    put(root, files={"m/labels.txt": "cat\r\n\n dog \n", "bare.labels.txt": "a\n"})
    bare, m = scan(root).models
    assert m.digest == without.models[1].digest
    assert m != without.models[1]
    labels = ("cat", "", "dog")
    assert read_labels(m.label_files, OUTPUTS) == ({"y": labels, "z": labels}, ())
    assert read_labels(bare.label_files, [SCORES]) == ({"y": ("a",)}, ())


def test_labels_outside_of_the_folder_are_left_out_with_a_note(root: Path, tmp_path: Path) -> None:
    put(root, "m/1/model.onnx", files={"../secret.txt": "secret"})
    (root / "m/labels.txt").symlink_to(tmp_path / "secret.txt")
    (source,) = scan(root).models
    assert source.label_files == ()
    (note,) = source.notes
    assert note.startswith("labels.txt is ignored: 'm/labels.txt' leads to ")
    assert note.endswith(OUTSIDE)


def stamp(folder: Path, name: str, content: bytes) -> file_stamp.FileStamp:
    path = folder / name
    path.write_bytes(content)
    return file_stamp.stamp_of(name, path, path.stat())


def test_outputs_may_have_files_of_their_own(tmp_path: Path) -> None:
    y, z = stamp(tmp_path, "y.txt", b"cat"), stamp(tmp_path, "z.txt", b"dog\n")
    found = read_labels([("y", y), ("z", z), ("text", y), ("gone", z)], OUTPUTS)
    assert found == ({"y": ("cat",), "z": ("dog",)}, ())


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ("cat\x1b[2J\u202e".encode(), "cat\ufffd[2J\ufffd"),
        ("\ufeffcat\tdog".encode(), "cat dog"),
        (b"x" * 300, "x" * 256),
    ],
)
def test_labels_are_plain_and_short(tmp_path: Path, content: bytes, label: str) -> None:
    file = stamp(tmp_path, "labels.txt", content)
    assert read_labels([(EVERY_OUTPUT, file)], [SCORES]) == ({"y": (label,)}, ())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x" * (MAX_LABELS_BYTES + 1), "labels of 1048577 bytes, 1048576 of 1048576 for one"),
        (b"x\n" * (MAX_LABELS + 1), "it has 65537 lines, at most 65536 are read; shorten it"),
        (b"cat\n\xff", "it is not UTF-8: "),
    ],
)
def test_labels_that_are_too_many_are_ignored(tmp_path: Path, content: bytes, reason: str) -> None:
    labels, (note,) = read_labels([("y", stamp(tmp_path, "labels.txt", content))], [SCORES])
    assert labels == {}
    assert note.startswith(f"labels.txt is ignored: {reason}")


def test_files_of_one_model_share_the_bytes(tmp_path: Path) -> None:
    y, z = stamp(tmp_path, "y.txt", b"x" * (MAX_LABELS_BYTES - 2)), stamp(tmp_path, "z.txt", b"cat")
    labels, (note,) = read_labels([("y", y), ("z", z)], OUTPUTS)
    assert list(labels) == ["y"]
    assert note.startswith("z.txt is ignored: labels of 3 bytes, 2 of 1048576 for one model are")


def test_file_that_changed_or_went_or_is_a_pipe_now_is_ignored_with_a_note(tmp_path: Path) -> None:
    file = stamp(tmp_path, "labels.txt", b"cat")

    def note() -> str:
        (found,) = read_labels([("y", file)], [SCORES])[1]
        return found

    file.path.write_bytes(b"a dog")
    assert "was changed while it was read" in note()
    file.path.unlink()
    assert note() == "labels.txt is ignored: No such file or directory"
    os.mkfifo(file.path)  # to read it would wait for ever
    assert note() == "labels.txt is ignored: not an ordinary file"


# one scan after another


def poll(root: Path, before: Scan) -> Scan:
    return scan(root, before=before, now_ns=NOW_NS)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened from now on, by name."""
    seen: list[str] = []
    real = file_stamp.open_ordinary
    monkeypatch.setattr(
        file_stamp, "open_ordinary", lambda path: (seen.append(path.name), real(path))[1]
    )
    return seen


def test_scan_opens_again_only_what_changed(root: Path, opened: list[str]) -> None:
    files = {
        "a/1/model.onnx": onnx_bytes(location="w.bin"),
        "a/1/w.bin": "weights",
        "a/capamesh.toml": "max_queue = 3",
        "b/config.pbtxt": "max_batch_size: 3",
        "bare.onnx": onnx_bytes(location="bare.data"),
        "bare.data": "weights",
        "broken.onnx": JUNK,
        "chain/capamesh.toml": "colour = 'red'",
    }
    put(root, "b/1/model.onnx", files=files)
    before = scan(root)
    assert (len(before.models), len(before.refused)) == (3, 2)
    opened.clear()
    after = poll(root, before)
    assert after == poll(root, after) == before
    assert opened == []
    put(root, files={"bare.data": "WEIGHTS"}, modified_ns=OLD_NS + 1)
    changed = scan(root, before=before)
    assert opened == ["bare.data"]  # the chunks of the other file are known
    same = [one == other for one, other in zip(changed.models, before.models, strict=True)]
    assert same == [True, True, False]


def test_file_put_in_anothers_place_with_its_size_and_time_is_noticed(root: Path) -> None:
    put(root, files={"a.onnx": onnx_bytes("one"), "b": onnx_bytes("two")})
    (before,) = scan(root).models
    (root / "b").rename(root / "a.onnx")
    (after,) = poll(root, Scan((before,))).models
    stamps = {(file.size_bytes, file.modified_ns) for one in (before, after) for file in one.files}
    assert len(stamps) == 1
    assert after.digest != before.digest


def test_changed_manifest_makes_another_source_of_the_same_digest(root: Path) -> None:
    put(root, "a/1/model.onnx", files={"a/capamesh.toml": "max_queue = 3"})
    before = scan(root)
    rows = {"a/capamesh.toml": "[batching]\nmax_rows = 2"}
    put(root, files=rows, modified_ns=OLD_NS + 1)
    after = poll(root, before)
    assert after.models[0] != before.models[0]
    assert after.models[0].digest == before.models[0].digest
    put(root, files={"a/capamesh.toml": "batching.max_rows = 2 # another way"})
    assert poll(root, after) == after


@pytest.mark.parametrize(
    ("age_ns", "is_settled"), [(10**9 - 1, False), (10**9, True), (1 - 10**9, False)]
)
def test_model_is_settled_when_its_files_are_a_second_old(
    root: Path, age_ns: int, is_settled: bool
) -> None:
    put(root, "a/1/model.onnx")
    put(root, files={"a/1/words.txt": "w"}, modified_ns=NOW_NS - age_ns)
    assert len(poll(root, Scan()).models) == is_settled


@pytest.mark.parametrize("changed", ["m/1/model.onnx", "m/capamesh.toml", "m/3/model.onnx"])
def test_model_that_is_being_changed_stays_as_it_was(root: Path, changed: str) -> None:
    files = {"m/2/model.onnx": JUNK, "m/capamesh.toml": "max_queue = 3"}
    put(root, "m/1/model.onnx", files=files)
    before = scan(root)
    put(root, files={changed: "half"}, modified_ns=NOW_NS)
    during = poll(root, before)
    assert during == before
    assert [*reasons(during)] == ["m/2"]
    put(root, files={changed: onnx_bytes("whole")})
    assert poll(root, during) != before


def test_external_data_and_warm_up_files_are_waited_for_too(root: Path) -> None:
    toml = "[[warm_up]]\nfiles = {x = 'b.npy'}"
    put(root, "b.onnx", files={"a.onnx": onnx_bytes(location="a.data"), "b.capamesh.toml": toml})
    put(root, files={"a.data": "weights", "b.npy": "array"}, modified_ns=NOW_NS)
    assert poll(root, Scan()) == Scan()


def test_files_that_were_too_new_to_tell_of_a_change_are_read_once_more(
    root: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    put(root, "a/1/model.onnx", files={"a/capamesh.toml": "max_queue = 3"})
    with monkeypatch.context() as patch:
        patch.setattr(file_stamp, "TICK_NS", 10**12)
        before = scan(root)
    opened.clear()
    after = poll(root, before)
    # what the model holds is read apart from its bytes, and one must not be of other bytes than the other
    assert opened == ["capamesh.toml", "model.onnx", "model.onnx"]
    opened.clear()
    assert poll(root, after) == before
    assert opened == []


def test_file_that_changed_while_it_was_read_is_read_again_though_it_looks_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(stream: object) -> None:
        raise ContentChanged("it was changed while it was read")

    put(root, "a.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(folder_files, "contents_of", changing)
        before = scan(root)
    assert only_reason(before) == "it was changed while it was read"
    assert names(poll(root, before)) == ["a/1"]
