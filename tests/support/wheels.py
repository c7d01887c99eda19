"""Builds wheels of this checkout, says what is to be in them, and imports what is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("protocol", "node", "router", "client", "simulation", "cli")
_IMPORT_ALL = """
import importlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(root))
sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]
import capamesh
capamesh.__path__ = [str(root / 'capamesh')]
for file in sorted((root / 'capamesh').rglob('*.py')):
    name = '.'.join(file.relative_to(root).with_suffix('').parts).removesuffix('.__init__')
    if not name.endswith('__main__'):
        module = importlib.import_module(name)
        assert module.__file__.startswith(str(root)), module.__file__
        if not module.__file__.endswith('.py'):
            print(name)
"""


def build(folder: Path, **environment: str) -> Path:
    """Build a wheel into a folder, which is empty before; return it."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    (built,) = folder.glob("capamesh-*.whl")
    return built


def files_of(wheel: Path) -> set[str]:
    """Return the files in a wheel, without those that tell of the wheel itself."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.startswith("capamesh-")}


def source_files() -> set[str]:
    """Return all files of all source roots, as they lie in a wheel, without what was compiled beside them."""
    return {
        str(file.relative_to(ROOT / part / "src"))
        for part in PARTS
        for file in (ROOT / part / "src").rglob("*")
        if file.is_file()
        and "__pycache__" not in file.parts
        and file.suffix != ".so"
        and file.name != "compiled.json"
    }


def compiled_when_imported(wheel: Path, folder: Path, **environment: str) -> set[str]:
    """Unpack a wheel into a folder and import every module from there; return those that are compiled."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return set(done.stdout.split())
