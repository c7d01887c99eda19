"""The script that compiles the hot modules: its list, its errors, and where it puts what it made. It compiles nothing here."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import sysconfig
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


PLACES = {
    ONE: Path("protocol/src/capamesh/protocol/one.py"),
    ROOM: Path("router/src/capamesh/router/rooms/__init__.py"),
    TWO: Path("router/src/capamesh/router/rooms/two.py"),
}


@pytest.fixture(name="checkout")
def made_up_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout of three modules, one of them a package, in which the script works."""
    for place in PLACES.values():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(f"PLACE = {str(place)!r}\n")
    write_list(tmp_path, ONE, ROOM, TWO)
    monkeypatch.setattr(compile_modules, "ROOT", tmp_path)
    monkeypatch.setattr(compile_modules, "CACHE", tmp_path / "build" / "compiled")
    return tmp_path


def write_list(checkout: Path, *modules: str, left_out: Sequence[str] = ()) -> None:
    (checkout / "pyproject.toml").write_text(
        f"[tool.capamesh.compiled]\nmodules = {json.dumps(modules)}\n"
        f"[[tool.capamesh.compiled.left_out]]\nmodules = {json.dumps(left_out)}\n"
    )


@pytest.fixture(name="built")
def result_of_compiling(checkout: Path) -> Path:
    """Make what compiling the made-up checkout results in."""
    folder = checkout / "build" / "compiled" / "digest"
    for file in ("capamesh__mypyc", *COMPILED):
        path = folder / (file + SUFFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"compiled {file}")
    (folder / RECORD).write_text(json.dumps({name: str(at) for name, at in PLACES.items()}))
    return folder


COMPILED = [str(place).partition("src/")[2].removesuffix(".py") for place in PLACES.values()]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_sources_are_found_in_the_part_that_their_name_says(checkout: Path) -> None:
    assert compile_modules.listed() == PLACES
    write_list(checkout, f"{ROOM}.*", ONE)
    assert list(compile_modules.listed()) == [ONE, TWO]
    write_list(checkout, f"{ROOM}.*", ONE, left_out=[TWO])
    assert list(compile_modules.listed()) == [ONE]


@pytest.mark.parametrize(
    ("compiler", "name", "said"),
    [
        *[
            ("sh", name, f"pyproject.toml lists {name}, which does not exist: correct [tool.cap")
            for name in ("capamesh.router.rooms.three", "capamesh.nothing", "capamesh")
        ],
        ("no-such -O2", TWO, "there is no C compiler 'no-such' here: install gcc and python3-dev"),
    ],
)
def test_module_or_compiler_that_does_not_exist_is_named(
    checkout: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    compiler: str,
    name: str,
    said: str,
) -> None:
    monkeypatch.setenv("CC", compiler)
    write_list(checkout, ONE, name)
    before = files_in(checkout)
    for options, status in (([], 1), (["--if-possible"], 0)):
        assert compile_modules.main(options) == status
        told = capsys.readouterr()
        assert told.err.startswith(f"compile: {said}")
        assert ("pure Python" in told.out) == (status == 0)
        assert files_in(checkout) == before


def test_digest_tells_sources_names_and_compilers_apart(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "sh")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(checkout)})
    (checkout / "Python.h").touch()

    def digest() -> str:
        return compile_modules._digest(compile_modules.listed().values())

    seen = [digest()]
    os.utime(checkout / PLACES[ONE], (1, 1))
    assert digest() == seen[0], "when a source was written is no matter"
    for change in (
        lambda: (checkout / PLACES[ONE]).write_text("# more\n"),
        lambda: write_list(checkout, ONE, TWO),
        lambda: monkeypatch.setenv("CC", "sh -O0"),
        lambda: monkeypatch.setattr(compile_modules, "version", "{} of tomorrow".format),
    ):
        change()
        seen.append(digest())
    assert len(set(seen)) == len(seen)


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


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    return tmp_path / "__native_capamesh.c"


def test_generated_classes_lose_their_lists_of_weak_references_and_nothing_else(
    generated: Path,
) -> None:
    generated.write_text(GENERATED)
    compile_modules.leave_out_weak_references([generated])
    lines = GENERATED.splitlines(keepends=True)
    del lines[8], lines[1]
    assert generated.read_text() == "".join(lines)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="mypyc makes no such lists there")
@pytest.mark.parametrize(("line", "found"), [(1, "[1, 0]"), (8, "[0, 1]")])
def test_generated_classes_without_a_known_line_are_refused(
    generated: Path, line: int, found: str
) -> None:
    lines = GENERATED.splitlines(keepends=True)
    del lines[line]
    generated.write_text("".join(lines))
    with pytest.raises(CannotCompileError, match=re.escape(f"in another way: {found} lines")):
        compile_modules.leave_out_weak_references([generated])


def test_modules_are_put_beside_their_sources_and_removed_again(
    checkout: Path, built: Path
) -> None:
    foreign = checkout / ".venv" / "lib" / f"foreign{SUFFIX}"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("foreign")
    before = files_in(checkout)
    old = checkout / "router" / "src" / "capamesh" / "router" / f"old{SUFFIX}"
    old.write_text("compiled, of an older list")
    compile_modules.put_beside_sources(built)
    record = f"protocol/src/{RECORD}"
    shared = f"protocol/src/capamesh__mypyc{SUFFIX}"
    beside = {str(place).removesuffix(".py") + SUFFIX for place in PLACES.values()}
    assert files_in(checkout) - before == {*beside, shared, record}
    states = json.loads((checkout / record).read_text())
    assert list(states) == [ONE, ROOM, TWO]
    for name, state in states.items():
        source = (checkout / PLACES[name]).stat()
        assert state == [source.st_size, source.st_mtime_ns]
    for _ in range(2):  # twice does no harm
        assert compile_modules.main(["--remove"]) == 0
        assert files_in(checkout) == before


def test_library_that_a_process_has_open_stays_whole(checkout: Path, built: Path) -> None:
    compile_modules.put_beside_sources(built)
    one = f"capamesh/protocol/one{SUFFIX}"
    with (checkout / "protocol" / "src" / one).open() as opened:
        (built / one).write_text("compiled anew")
        compile_modules.put_beside_sources(built)
        assert opened.read() == "compiled capamesh/protocol/one"
    assert (checkout / "protocol" / "src" / one).read_text() == "compiled anew"


def test_wheel_has_a_record_without_states(built: Path, tmp_path: Path) -> None:
    compile_modules.put_into(built, tmp_path / "into")
    assert files_in(tmp_path / "into") == files_in(built)
    states = json.loads((tmp_path / "into" / RECORD).read_text())
    assert states == dict.fromkeys(PLACES)
