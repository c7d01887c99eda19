"""Builds wheels as pip does, each in an environment of its own, says what is to be in them, and imports what is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib.metadata import distribution
from pathlib import Path, PurePath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


class Builder:
    """The build backend of a project, in an environment in a folder that has what it asks for and nothing else."""

    def __init__(self, source: Path, folder: Path, **variables: str) -> None:
        venv.create(folder, symlinks=True)
        (self._packages,) = folder.glob("lib/python*/site-packages")
        self._python = folder / "bin" / "python"
        self._source = source
        self._variables = variables
        self.names: set[str] = set()
        project = tomllib.loads((source / "pyproject.toml").read_text())
        self._add(project["build-system"]["requires"])
        self._add(json.loads(self._called("json.dumps(backend.get_requires_for_build_wheel())")))

    def wheel(self, into: Path) -> Path:
        return into / self._called(f"backend.build_wheel({str(into)!r})")

    def sdist(self, into: Path) -> Path:
        return into / self._called(f"backend.build_sdist({str(into)!r})")

    def _called(self, call: str) -> str:
        done = subprocess.run(
            [self._python, "-c", f"import json, hatchling.build as backend; print({call})"],
            cwd=self._source,
            env={**os.environ, **self._variables},
            check=False,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout.splitlines()[-1]

    def _add(self, requirements: Iterable[str]) -> None:
        """Add packages, and what these require, by links to those of the environment that the tests run in."""
        for each in map(Requirement, requirements):
            name = canonicalize_name(each.name)
            if name in self.names or not (each.marker is None or each.marker.evaluate()):
                continue
            self.names.add(name)
            found = distribution(each.name)
            for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
                link = self._packages / top
                if not link.exists():
                    link.symlink_to(str(found.locate_file(top)))
            self._add(found.requires or ())


def image_context(folder: Path) -> Path:
    """Copy what the builder of the images is given into a folder; return the folder."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*", "all is left out but what a later line names"
    for top in (ROOT / line[1:] for line in patterns if line.startswith("!")):
        for file in (top, *top.rglob("*")):
            path = file.relative_to(ROOT)
            if file.is_file() and _is_given(path, patterns):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / path)
    return folder


def _is_given(path: PurePath, patterns: Iterable[str]) -> bool:
    """Return whether .dockerignore lets a file in: the last line decides that fits the file or a folder above it."""
    is_given = True
    for line in patterns:
        pattern = line.removeprefix("!")
        if any(_fits(each, pattern) for each in (path, *path.parents[:-1])):
            is_given = line.startswith("!")
    return is_given


def _fits(path: PurePath, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatchcase(path.name, pattern[3:])
    return path.match(pattern) and len(path.parts) == len(PurePath(pattern).parts)


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
