"""The built wheel holds every module, one name, and what the modules need beside them, wherever it is built."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
from wheels import ROOT, Builder, compiled_when_imported, files_of, image_context, source_files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = Builder(ROOT, tmp_path_factory.mktemp("venv"), CAPAMESH_COMPILE="0")
    return builder.wheel(tmp_path_factory.mktemp("dist"))


def test_wheel_is_for_any_machine(wheel: Path) -> None:
    assert wheel.stem.endswith("-py3-none-any")


def test_every_file_of_every_source_root_is_in_the_wheel(wheel: Path) -> None:
    assert files_of(wheel) == source_files()


def test_images_build_the_same_wheel_of_the_files_that_they_are_given(
    wheel: Path, tmp_path: Path
) -> None:
    (tmp_path / "context").mkdir()
    builder = Builder(image_context(tmp_path / "context"), tmp_path / "venv", CAPAMESH_COMPILE="0")
    assert files_of(builder.wheel(tmp_path / "dist")) == files_of(wheel)


def test_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    packed = Builder(ROOT, tmp_path / "venv").sdist(tmp_path)
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / packed.name.removesuffix(".tar.gz")
    builder = Builder(source, tmp_path / "another", CAPAMESH_COMPILE="0")
    assert files_of(builder.wheel(tmp_path / "dist")) == files_of(wheel)


def test_wheel_is_of_sources_where_the_compiler_that_it_may_take_is_missing(
    wheel: Path, tmp_path: Path
) -> None:
    builder = Builder(ROOT, tmp_path / "venv", CAPAMESH_COMPILE="auto", CC="no-such")
    built = builder.wheel(tmp_path / "dist")
    assert (built.name, files_of(built)) == (wheel.name, files_of(wheel))


def test_site_packages_gets_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"capamesh", next(top for top in tops if top.endswith(".dist-info"))}


def test_every_module_of_the_wheel_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    assert compiled_when_imported(wheel, tmp_path) == set()
