"""Which implementation runs, decided on made-up folders: a checkout with compiled modules beside its sources, and a wheel."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from capamesh.protocol.implementation import PURE, SHARED, SourceFinder, decide

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
MODULES = ("capamesh.protocol.values", "capamesh.router.fleet.endpoint", "capamesh.router.http")
"""The last is a package."""
COMPILED = frozenset(MODULES)


def source_of(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if module.endswith(".http") else path.with_suffix(".py")


def written(root: Path, module: str) -> Path:
    """Write a source and what it was compiled to; return the source."""
    source = source_of(root, module)
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(f"NAME = {module!r}\n")
    source.with_name(source.stem + SUFFIX).write_bytes(b"compiled")
    return source


def record_in(root: Path, states: object) -> Path:
    record = root / "capamesh" / "protocol" / "compiled.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(states))
    return record


def checkout(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Make a checkout whose modules lie compiled beside their sources; return its record and its sources."""
    sources = {module: written(folder / module.split(".")[1] / "src", module) for module in MODULES}
    states = {
        module: [source.stat().st_size, source.stat().st_mtime_ns]
        for module, source in sources.items()
    }
    return record_in(folder / "protocol" / "src", states), sources


def wheel(folder: Path) -> Path:
    """Make an installed wheel, where no source is changed; return its record."""
    for module in MODULES:
        written(folder, module)
    return record_in(folder, dict.fromkeys(MODULES))


def test_compiled_modules_of_a_wheel_run_whenever_its_sources_were_written(tmp_path: Path) -> None:
    record = wheel(tmp_path / "site-packages")
    os.utime(source_of(tmp_path / "site-packages", MODULES[0]), (1, 1))
    assert decide(record, {}) == ("compiled", "3 modules", COMPILED)


def test_sources_run_where_the_record_is_broken_or_the_environment_asks_for_them(
    tmp_path: Path,
) -> None:
    record, _ = checkout(tmp_path)
    for value in ("1", "yes"):
        assert decide(record, {PURE: value}) == ("pure", "CAPAMESH_PURE is set", COMPILED)
    for value in ("", "0"):
        assert decide(record, {PURE: value}) == ("compiled", "3 modules", COMPILED)
    for content in (b"", b"\xff\xfe\x00", b"null", b'["capamesh.protocol.values"]'):
        record.write_bytes(content)
        assert decide(record, {}) == ("pure", "no compiled modules are installed", frozenset())


def test_finder_takes_all_sources_where_nobody_knows_which_are_compiled(tmp_path: Path) -> None:
    record, sources = checkout(tmp_path)
    (tmp_path / "protocol" / "src" / SHARED).write_bytes(b"compiled")
    record.unlink()

    running, reason, modules = decide(record, {})

    assert (running, reason) == ("pure", "compiled modules lie here without a record of them")
    finder = SourceFinder(modules)
    for module, source in sources.items():
        folder = source.parents[1] if source.name == "__init__.py" else source.parent
        spec = finder.find_spec(module, [str(folder)])
        assert spec is not None
        assert spec.origin == str(source)
    foreign = tmp_path / "endpoint.py"
    foreign.write_text("")
    assert finder.find_spec("endpoint", [str(tmp_path)]) is None
    (tmp_path / "router/src/capamesh/router/only_a_folder").mkdir()
    folder = str(tmp_path / "router/src/capamesh/router")
    assert finder.find_spec("capamesh.router.only_a_folder", [folder]) is None


def grow(source: Path, later_ns: int = 0, more: str = "\n") -> None:
    before = source.stat()
    source.write_text(source.read_text() + more)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns + later_ns))


def touch(source: Path) -> None:
    grow(source, 1, "")


def rename_library(source: Path) -> None:
    library = source.with_name(source.stem + SUFFIX)
    library.rename(source.with_name(source.stem + ".cpython-399-x86_64-linux-gnu.so"))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (grow, "was changed since it was compiled"),
        (touch, "was changed since it was compiled"),
        (Path.unlink, "was changed since it was compiled"),
        (rename_library, "is not compiled for this Python"),
    ],
)
def test_all_sources_run_where_one_is_not_what_was_compiled(
    tmp_path: Path, module: str, change: Callable[[Path], object], why: str
) -> None:
    record, sources = checkout(tmp_path)
    assert decide(record, {}) == ("compiled", "3 modules", COMPILED)
    change(sources[module])
    assert decide(record, {}) == ("pure", f"{module} {why}", COMPILED)


def test_finder_takes_the_source_that_a_library_lies_beside(tmp_path: Path) -> None:
    _, sources = checkout(tmp_path)
    module = "capamesh.router.fleet.endpoint"
    folder = str(sources[module].parent)
    plain = importlib.machinery.PathFinder.find_spec(module, [folder])
    assert plain is not None
    assert str(plain.origin).endswith(SUFFIX), "the library would be taken without the finder"
    finder = SourceFinder(COMPILED)
    spec = finder.find_spec(module, [str(tmp_path / "empty"), folder])
    assert spec is not None
    assert spec.origin == str(sources[module])
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert module == made.NAME
    package = sources["capamesh.router.http"]
    spec = finder.find_spec("capamesh.router.http", [str(package.parents[1])])
    assert spec is not None
    assert (spec.origin, spec.submodule_search_locations) == (str(package), [str(package.parent)])
