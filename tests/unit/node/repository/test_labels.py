from __future__ import annotations

import os
from pathlib import Path

import pytest

from capamesh.node.repository.file_stamp import FileStamp, stamp_of
from capamesh.node.repository.labels import (
    EVERY_OUTPUT,
    MAX_LABELS,
    MAX_LABELS_BYTES,
    read_labels,
)
from capamesh.protocol.tensors import Datatype, TensorSpec

SCORES = TensorSpec("y", Datatype.FP32, (-1, 3))
OTHER = TensorSpec("z", Datatype.UINT8, (4,))
NO_SCORES = (
    TensorSpec("best", Datatype.INT64, (-1,)),
    TensorSpec("text", Datatype.BYTES, (-1, 3)),
    TensorSpec("mask", Datatype.BOOL, (-1, 3)),
)


def put(path: Path, content: bytes) -> FileStamp:
    path.write_bytes(content)
    return stamp_of(path.name, path, path.stat())


def test_file_for_every_output_is_for_those_that_can_be_scores(tmp_path: Path) -> None:
    file = put(tmp_path / "labels.txt", b"cat\r\n\n dog \n")
    labels = ("cat", "", "dog")
    found = read_labels([(EVERY_OUTPUT, file)], [SCORES, OTHER, *NO_SCORES])
    assert found == ({"y": labels, "z": labels}, ())


def test_outputs_may_have_files_of_their_own(tmp_path: Path) -> None:
    y, z = put(tmp_path / "y.txt", b"cat"), put(tmp_path / "z.txt", b"dog\n")
    found = read_labels([("y", y), ("z", z), ("text", y), ("gone", z)], [SCORES, OTHER, *NO_SCORES])
    assert found == ({"y": ("cat",), "z": ("dog",)}, ())


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("cat\x1b[2J\u202e".encode(), ("cat\ufffd[2J\ufffd",)),
        ("\ufeffcat\tdog".encode(), ("cat dog",)),
        (b"x" * 300, ("x" * 256,)),
    ],
)
def test_labels_are_plain_and_short(
    tmp_path: Path, content: bytes, labels: tuple[str, ...]
) -> None:
    file = put(tmp_path / "labels.txt", content)
    assert read_labels([("y", file)], [SCORES]) == ({"y": labels}, ())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x" * (MAX_LABELS_BYTES + 1), "labels of 1048577 bytes, 1048576 of 1048576 for one"),
        (b"x\n" * (MAX_LABELS + 1), "it has 65537 lines, at most 65536 are read; shorten it"),
        (b"cat\n\xff", "it is not UTF-8: "),
    ],
)
def test_labels_that_are_too_many_or_no_text_are_ignored_with_a_note(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    file = put(tmp_path / "labels.txt", content)
    labels, (note,) = read_labels([("y", file)], [SCORES])
    assert labels == {}
    assert note.startswith(f"labels.txt is ignored: {reason}")


def test_files_of_one_model_share_the_bytes(tmp_path: Path) -> None:
    y = put(tmp_path / "y.txt", b"x" * (MAX_LABELS_BYTES - 2))
    z = put(tmp_path / "z.txt", b"cat")
    labels, (note,) = read_labels([("y", y), ("z", z)], [SCORES, OTHER])
    assert list(labels) == ["y"]
    assert note.startswith("z.txt is ignored: labels of 3 bytes, 2 of 1048576 for one model are")


def test_file_that_changed_or_went_or_is_a_pipe_now_is_ignored_with_a_note(tmp_path: Path) -> None:
    file = put(tmp_path / "labels.txt", b"cat")
    put(tmp_path / "labels.txt", b"a dog")
    (changed,) = read_labels([("y", file)], [SCORES])[1]
    file.path.unlink()
    (gone,) = read_labels([("y", file)], [SCORES])[1]
    os.mkfifo(file.path)  # to read it would wait for ever
    (pipe,) = read_labels([("y", file)], [SCORES])[1]
    assert "was changed while it was read" in changed
    assert gone == "labels.txt is ignored: No such file or directory"
    assert pipe == "labels.txt is ignored: not an ordinary file"
