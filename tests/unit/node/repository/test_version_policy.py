"""Which versions of a model a scan offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from capamesh.node.repository import Refused, scan

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


def test_version_that_is_not_chosen_may_be_broken(tmp_path: Path) -> None:
    model(tmp_path, "1", "2", toml="versions = {latest = 1}")
    (tmp_path / "m/1/model.onnx").write_bytes(b"\x0b junk")
    assert served(tmp_path) == ["2"]
    assert scan(tmp_path).refused == ()


def test_folder_that_is_no_version_is_refused_whatever_the_policy(tmp_path: Path) -> None:
    model(tmp_path, "01", "2", toml="versions = {latest = 1}")
    assert served(tmp_path) == ["2"]
    assert [one.version for one in scan(tmp_path).refused] == ["01"]
