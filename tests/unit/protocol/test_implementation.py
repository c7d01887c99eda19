"""Which implementation runs, decided on made-up folders: a checkout with compiled modules beside its sources, and a wheel."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
from pathlib import Path

import pytest

from capamesh.protocol.implementation import PURE, SHARED, SourceFinder, decide

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
MODULES = ("capamesh.protocol.values", "capamesh.router.fleet.endpoint", "capamesh.router.http")
"""The last is a package."""


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


def test_compiled_modules_run_beside_sources_that_are_as_they_were(tmp_path: Path) -> None:
    record, _ = checkout(tmp_path)
    assert decide(record, {}) == ("compiled", "3 modules", frozenset(MODULES))


def test_compiled_modules_of_a_wheel_run_whenever_its_sources_were_written(tmp_path: Path) -> None:
    record = wheel(tmp_path / "site-packages")
    os.utime(source_of(tmp_path / "site-packages", MODULES[0]), (1, 1))
    assert decide(record, {}) == ("compiled", "3 modules", frozenset(MODULES))


def test_sources_run_where_nothing_was_compiled(tmp_path: Path) -> None:
    record = tmp_path / "capamesh" / "protocol" / "compiled.json"
    assert decide(record, {}) == ("pure", "no compiled modules are installed", frozenset())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"capamesh.protocol.values": [1, 2',
        b"\xff\xfe\x00",
        b"null",
        b"7",
        b'["capamesh.protocol.values"]',
    ],
)
def test_sources_run_where_the_record_is_broken(tmp_path: Path, content: bytes) -> None:
    record, _ = checkout(tmp_path)
    record.write_bytes(content)
    assert decide(record, {}) == ("pure", "no compiled modules are installed", frozenset())


@pytest.mark.parametrize("value", ["1", "yes"])
def test_sources_run_where_the_environment_asks_for_them(tmp_path: Path, value: str) -> None:
    record, _ = checkout(tmp_path)
    assert decide(record, {PURE: value}) == ("pure", "CAPAMESH_PURE is set", frozenset(MODULES))


@pytest.mark.parametrize("value", ["", "0"])
def test_environment_may_say_that_it_asks_for_nothing(tmp_path: Path, value: str) -> None:
    record, _ = checkout(tmp_path)
    assert decide(record, {PURE: value})[0] == "compiled"


def test_all_sources_run_where_one_has_another_size(tmp_path: Path) -> None:
    record, sources = checkout(tmp_path)
    changed = sources[MODULES[1]]
    before = changed.stat()
    changed.write_text(changed.read_text() + "\n")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert decide(record, {}) == (
        "pure",
        "capamesh.router.fleet.endpoint was changed since it was compiled",
        frozenset(MODULES),
    )


def test_all_sources_run_where_one_was_written_since(tmp_path: Path) -> None:
    record, sources = checkout(tmp_path)
    changed = sources[MODULES[2]]
    before = changed.stat()
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert decide(record, {}) == (
        "pure",
        "capamesh.router.http was changed since it was compiled",
        frozenset(MODULES),
    )


def test_sources_run_where_one_is_gone(tmp_path: Path) -> None:
    record, sources = checkout(tmp_path)
    sources[MODULES[0]].unlink()
    assert decide(record, {})[:2] == (
        "pure",
        "capamesh.protocol.values was changed since it was compiled",
    )


@pytest.mark.parametrize("module", MODULES)
def test_all_sources_run_where_a_library_is_missing(tmp_path: Path, module: str) -> None:
    record, sources = checkout(tmp_path)
    sources[module].with_name(sources[module].stem + SUFFIX).unlink()
    assert decide(record, {}) == (
        "pure",
        f"{module} is not compiled for this Python",
        frozenset(MODULES),
    )


def test_sources_run_where_a_wheel_was_made_for_another_python(tmp_path: Path) -> None:
    record = wheel(tmp_path)
    library = source_of(tmp_path, MODULES[0]).with_name("values" + SUFFIX)
    library.rename(library.with_name("values.cpython-399-x86_64-linux-gnu.so"))
    assert decide(record, {})[:2] == (
        "pure",
        "capamesh.protocol.values is not compiled for this Python",
    )


def test_finder_takes_the_source_that_a_library_lies_beside(tmp_path: Path) -> None:
    _, sources = checkout(tmp_path)
    module = "capamesh.router.fleet.endpoint"
    folder = str(sources[module].parent)
    plain = importlib.machinery.PathFinder.find_spec(module, [folder])
    assert plain is not None
    assert str(plain.origin).endswith(SUFFIX), "the library would be taken without the finder"

    spec = SourceFinder(frozenset(MODULES)).find_spec(module, [folder])

    assert spec is not None
    assert spec.origin == str(sources[module])
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert module == made.NAME


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


def test_finder_takes_the_source_of_a_package_as_a_package(tmp_path: Path) -> None:
    _, sources = checkout(tmp_path)
    source = sources["capamesh.router.http"]
    spec = SourceFinder(frozenset(MODULES)).find_spec(
        "capamesh.router.http", [str(source.parents[1])]
    )
    assert spec is not None
    assert spec.origin == str(source)
    assert spec.submodule_search_locations == [str(source.parent)]


def test_finder_looks_into_each_folder_in_turn(tmp_path: Path) -> None:
    _, sources = checkout(tmp_path)
    module = "capamesh.protocol.values"
    folders = [str(tmp_path / "empty"), str(sources[module].parent)]
    spec = SourceFinder(frozenset(MODULES)).find_spec(module, folders)
    assert spec is not None
    assert spec.origin == str(sources[module])


def test_finder_leaves_other_modules_to_others(tmp_path: Path) -> None:
    _, sources = checkout(tmp_path)
    finder = SourceFinder(frozenset(MODULES[:1]))
    folder = str(sources[MODULES[1]].parent)
    assert finder.find_spec(MODULES[1], [folder]) is None
    assert finder.find_spec("endpoint", [folder]) is None


@pytest.mark.parametrize("path", [None, []])
def test_finder_finds_nothing_without_folders(path: list[str] | None) -> None:
    assert SourceFinder(frozenset(MODULES)).find_spec(MODULES[0], path) is None


def test_finder_finds_nothing_where_the_source_is_missing(tmp_path: Path) -> None:
    _, sources = checkout(tmp_path)
    source = sources[MODULES[0]]
    source.unlink()
    assert SourceFinder(frozenset(MODULES)).find_spec(MODULES[0], [str(source.parent)]) is None
