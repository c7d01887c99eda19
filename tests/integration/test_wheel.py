"""The built wheel holds every module, one name, and what the modules need beside them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from wheels import build, compiled_when_imported, files_of, source_files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"), CAPAMESH_COMPILE="0")


def test_wheel_is_for_any_machine(wheel: Path) -> None:
    assert wheel.stem.endswith("-py3-none-any")


def test_every_file_of_every_source_root_is_in_the_wheel(wheel: Path) -> None:
    assert files_of(wheel) == source_files()


def test_site_packages_gets_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"capamesh", next(top for top in tops if top.endswith(".dist-info"))}


def test_every_module_of_the_wheel_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    assert compiled_when_imported(wheel, tmp_path) == set()
