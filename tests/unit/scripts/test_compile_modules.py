"""The script that compiles the hot modules: its list, its errors, and where it puts what it made. It compiles nothing here."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import compile_modules
import pytest
from compile_modules import RECORD, SUFFIX, CannotCompileError

ROOT = Path(__file__).resolve().parents[3]
ONE = "capamesh.protocol.one"
TWO = "capamesh.router.rooms.two"
ROOM = "capamesh.router.rooms"


def test_no_slice_of_a_listed_module_has_a_bound_with_an_effect() -> None:
    """mypyc 2.4 calls what stands in the bounds of a slice of a memoryview twice: a link sent each record two times."""
    found = [
        f"{module}:{node.lineno}"
        for module, path in compile_modules.listed().items()
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Slice)
        for part in ast.walk(node)
        if isinstance(part, ast.Call | ast.NamedExpr | ast.Await | ast.Yield)
        and not (isinstance(part, ast.Call) and ast.unparse(part.func) == "len")
    ]
    assert found == []


@pytest.fixture(name="checkout")
def made_up_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout of three modules, one of them a package, in which the script works."""
    for part, place in (
        ("protocol", "one.py"),
        ("router", "rooms/__init__.py"),
        ("router", "rooms/two.py"),
    ):
        path = tmp_path / part / "src" / "capamesh" / part / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"PLACE = {place!r}\n")
    write_list(tmp_path, ONE, ROOM, TWO)
    monkeypatch.setattr(compile_modules, "ROOT", tmp_path)
    monkeypatch.setattr(compile_modules, "CACHE", tmp_path / "build" / "compiled")
    return tmp_path


def write_list(checkout: Path, *modules: str, left_out: Sequence[str] = ()) -> None:
    (checkout / "pyproject.toml").write_text(
        f"[tool.capamesh.compiled]\nmodules = {json.dumps(modules)}\n"
        f"[[tool.capamesh.compiled.left_out]]\nmodules = {json.dumps(left_out)}\n"
    )


def result_in(folder: Path) -> Path:
    """Make what compiling the made-up checkout results in."""
    files = ["capamesh__mypyc", "capamesh/protocol/one", "capamesh/router/rooms/__init__"]
    for file in (*files, "capamesh/router/rooms/two"):
        path = folder / (file + SUFFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"compiled {file}")
    record = {
        ONE: "protocol/src/capamesh/protocol/one.py",
        ROOM: "router/src/capamesh/router/rooms/__init__.py",
        TWO: "router/src/capamesh/router/rooms/two.py",
    }
    (folder / RECORD).write_text(json.dumps(record))
    return folder


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


BESIDE = {
    f"protocol/src/capamesh__mypyc{SUFFIX}",
    f"protocol/src/capamesh/protocol/one{SUFFIX}",
    f"router/src/capamesh/router/rooms/__init__{SUFFIX}",
    f"router/src/capamesh/router/rooms/two{SUFFIX}",
}


def test_sources_are_found_in_the_part_that_their_name_says(checkout: Path) -> None:
    assert compile_modules.listed() == {
        ONE: Path("protocol/src/capamesh/protocol/one.py"),
        ROOM: Path("router/src/capamesh/router/rooms/__init__.py"),
        TWO: Path("router/src/capamesh/router/rooms/two.py"),
    }
    assert (checkout / compile_modules.source_of(TWO)).is_file()


def test_folder_is_its_modules_but_those_that_are_left_out(checkout: Path) -> None:
    write_list(checkout, f"{ROOM}.*", ONE)
    assert list(compile_modules.listed()) == [ONE, TWO]
    write_list(checkout, f"{ROOM}.*", ONE, left_out=[TWO])
    assert list(compile_modules.listed()) == [ONE]


@pytest.mark.parametrize("name", ["capamesh.router.rooms.three", "capamesh.nothing", "capamesh"])
@pytest.mark.parametrize(("options", "status"), [([], 1), (["--if-possible"], 0)])
def test_module_that_does_not_exist_is_named(
    checkout: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: list[str],
    status: int,
) -> None:
    write_list(checkout, ONE, name)
    assert compile_modules.main(options) == status
    assert capsys.readouterr().err == (
        f"compile: pyproject.toml lists {name}, which does not exist: "
        "correct [tool.capamesh.compiled]\n"
    )


@pytest.mark.parametrize(("options", "status"), [([], 1), (["--if-possible"], 0)])
def test_missing_compiler_is_named(
    checkout: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    status: int,
) -> None:
    monkeypatch.setenv("CC", "no-such -O2")
    before = files_in(checkout)

    assert compile_modules.main(options) == status

    said = capsys.readouterr()
    assert said.err == (
        "compile: there is no C compiler 'no-such' here: install gcc and python3-dev, or set CC\n"
    )
    assert ("pure Python" in said.out) == (status == 0)
    assert files_in(checkout) == before


GENERATED = """\
static PyMemberDef Link_members[] = {
    {"__weakref__", T_OBJECT_EX, sizeof(capamesh___LinkObject), 0},
    {"__dict__", T_OBJECT_EX, sizeof(capamesh___LinkObject) + sizeof(PyObject *), 0},
    {0}
};
static PyTypeObject CPyType_Link_template_ = {
    .tp_name = "Link",
    .tp_dictoffset = sizeof(capamesh___LinkObject) + sizeof(PyObject *),
    .tp_weaklistoffset = sizeof(capamesh___LinkObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
};
static const char *text = "a .tp_weaklistoffset = of a text,";
"""


def test_generated_classes_lose_their_lists_of_weak_references_and_nothing_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "__native_capamesh.c"
    path.write_text(GENERATED)
    compile_modules.leave_out_weak_references([path])
    lines = GENERATED.splitlines(keepends=True)
    del lines[8], lines[1]
    assert path.read_text() == "".join(lines)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="mypyc makes no such lists there")
@pytest.mark.parametrize(("line", "found"), [(1, "[1, 0]"), (8, "[0, 1]")])
def test_generated_classes_without_a_known_line_are_refused(
    tmp_path: Path, line: int, found: str
) -> None:
    path = tmp_path / "__native_capamesh.c"
    lines = GENERATED.splitlines(keepends=True)
    del lines[line]
    path.write_text("".join(lines))
    with pytest.raises(CannotCompileError, match=re.escape(f"in another way: {found} lines")):
        compile_modules.leave_out_weak_references([path])


def test_modules_are_put_beside_their_sources_with_a_record_of_these(checkout: Path) -> None:
    built = result_in(checkout / "build" / "compiled" / "digest")
    before = files_in(checkout)

    compile_modules.put_beside_sources(built)

    record = f"protocol/src/{RECORD}"
    assert files_in(checkout) - before == {*BESIDE, record}
    two = f"router/src/capamesh/router/rooms/two{SUFFIX}"
    assert (checkout / two).read_text() == "compiled capamesh/router/rooms/two"
    states = json.loads((checkout / record).read_text())
    assert list(states) == [ONE, ROOM, TWO]
    for name, state in states.items():
        source = (checkout / compile_modules.source_of(name)).stat()
        assert state == [source.st_size, source.st_mtime_ns]


def test_library_that_a_process_has_open_stays_whole(checkout: Path) -> None:
    built = result_in(checkout / "build" / "compiled" / "digest")
    compile_modules.put_beside_sources(built)
    one = f"capamesh/protocol/one{SUFFIX}"
    with (checkout / "protocol" / "src" / one).open() as opened:
        (built / one).write_text("compiled anew")
        compile_modules.put_beside_sources(built)
        assert opened.read() == "compiled capamesh/protocol/one"
    assert (checkout / "protocol" / "src" / one).read_text() == "compiled anew"


def test_modules_of_an_older_list_do_not_stay(checkout: Path) -> None:
    old = checkout / "router" / "src" / "capamesh" / "router" / f"old{SUFFIX}"
    old.write_text("compiled")
    compile_modules.put_beside_sources(result_in(checkout / "build" / "compiled" / "digest"))
    assert not old.exists()


def test_removing_leaves_sources_results_and_foreign_libraries(checkout: Path) -> None:
    built = result_in(checkout / "build" / "compiled" / "digest")
    foreign = checkout / ".venv" / "lib" / f"foreign{SUFFIX}"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("foreign")
    before = files_in(checkout)
    compile_modules.put_beside_sources(built)

    assert compile_modules.main(["--remove"]) == 0

    assert files_in(checkout) == before
    assert compile_modules.main(["--remove"]) == 0, "twice does no harm"
