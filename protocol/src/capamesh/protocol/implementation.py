"""Decides whether a process runs the compiled modules or their sources. IO: looks at the sources once, at import.

The hot modules may lie compiled beside their sources (docs/decisions/0044). They are one piece: each calls the others
without looking them up. So all of them run, or none: their sources run where CAPAMESH_PURE=1 is in the environment, where
one of the sources was changed since, and where the compiled ones were made for another Python.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final, Literal, TypeAlias

Implementation: TypeAlias = Literal["compiled", "pure"]
PURE: Final = "CAPAMESH_PURE"
"""The variable of the environment that has the sources run where it is set to anything but 0."""
_SUFFIX: Final = importlib.machinery.EXTENSION_SUFFIXES[0]
SHARED: Final = f"capamesh__mypyc{_SUFFIX}"
"""The name of the library that has the code of all compiled modules, at the source root of `protocol`."""


class SourceFinder:
    """A finder of modules that takes the sources of these modules, whatever else lies beside them.

    Args:
        modules: their names; None: all modules of the project.
    """

    def __init__(self, modules: frozenset[str] | None) -> None:
        self._modules = modules

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where the source of a module lies; None for a module that is not one of these, or has no source."""
        del target
        if not (name.startswith("capamesh.") if self._modules is None else name in self._modules):
            return None
        loader = (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES)
        for folder in path or ():
            spec = importlib.machinery.FileFinder(folder, loader).find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
        return None


def decide(
    record: Path, environment: dict[str, str]
) -> tuple[Implementation, str, frozenset[str] | None]:
    """Return what is to run, why in a few words, and the modules that may lie compiled beside their sources.

    None stands for all modules: there is no record of them, but some may lie there.

    Args:
        record: the file in which scripts/compile_modules.py told what it compiled; in capamesh/protocol.
        environment: the environment of the process.
    """
    try:
        states: dict[str, list[int] | None] = json.loads(record.read_bytes())
        modules = frozenset(states.keys())
    except (OSError, ValueError, AttributeError):
        if (record.parents[2] / SHARED).exists():
            return "pure", "compiled modules lie here without a record of them", None
        return "pure", "no compiled modules are installed", frozenset()
    if environment.get(PURE, "0") not in {"", "0"}:
        return "pure", f"{PURE} is set", modules
    for name, state in states.items():
        source = _source_of(name, record)
        if not _library_of(source).exists():
            return "pure", f"{name} is not compiled for this Python", modules
        if state is not None and _state_of(source) != state:
            return "pure", f"{name} was changed since it was compiled", modules
    return "compiled", f"{len(modules)} modules", modules


def _source_of(module: str, record: Path) -> Path:
    """Return the source of a module: in a checkout each part of the project has a source root, in a wheel all are one."""
    place = Path(*module.split("."))
    part = module.split(".")[1]
    root = record.parents[2]
    if root.name == "src":
        root = root.parents[1] / part / "src"
    path = root / place
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _library_of(source: Path) -> Path:
    return source.with_name(source.stem + _SUFFIX)


def _state_of(source: Path) -> list[int] | None:
    try:
        state = source.stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


RUNNING, REASON, _modules = decide(Path(__file__).with_name("compiled.json"), dict(os.environ))
"""The implementation that runs in this process, and the reason for it."""
if RUNNING == "pure" and _modules != frozenset():
    sys.meta_path.insert(0, SourceFinder(_modules))
