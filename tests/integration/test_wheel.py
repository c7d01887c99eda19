"""The built wheel holds every module, one name, and what the modules need beside them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("protocol", "node", "router", "client", "simulation", "cli")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = folder.glob("capamesh-*.whl")
    return built


def test_every_file_of_every_source_root_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.startswith("capamesh-")}
    expected = {
        str(file.relative_to(ROOT / part / "src"))
        for part in PARTS
        for file in (ROOT / part / "src").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert packed == expected


def test_site_packages_gets_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"capamesh", next(top for top in tops if top.endswith(".dist-info"))}


def test_every_module_of_the_wheel_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "import importlib, pathlib, sys\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "sys.path.insert(0, str(root))\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "import capamesh\n"
        "capamesh.__path__ = [str(root / 'capamesh')]\n"
        "for file in sorted((root / 'capamesh').rglob('*.py')):\n"
        "    name = '.'.join(file.relative_to(root).with_suffix('').parts)\n"
        "    if not name.endswith('__main__'):\n"
        "        module = importlib.import_module(name.removesuffix('.__init__'))\n"
        "        assert module.__file__.startswith(str(root)), module.__file__\n"
        "print('imported')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "imported", done.stderr
