"""Compiles the hot modules with mypyc, beside their sources or into another folder.

    python scripts/compile_modules.py                   beside the sources of this checkout; does nothing if nothing changed
    python scripts/compile_modules.py --if-possible     where that cannot be, say why in one line and be content
    python scripts/compile_modules.py --into FOLDER     into FOLDER, laid out as in a wheel
    python scripts/compile_modules.py --remove          remove what was compiled beside the sources

`[tool.capamesh.compiled]` in pyproject.toml lists the modules and folders. The source of a compiled module stays where it is and runs
where the compiled one cannot: see capamesh.protocol.implementation. docs/decisions/0044 says why and what it brings.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
CACHE: Final = ROOT / "build" / "compiled"
GROUP: Final = "capamesh"
"""The name of the group that is compiled as one: its modules call each other without a look-up."""
RECORD: Final = Path("capamesh/protocol/compiled.json")
SUFFIX: Final = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
KEPT: Final = 3
"""The number of results that stay in the cache: those of the last branches that were looked at."""

_WEAK_REFERENCES: Final = tuple(
    re.compile(line, re.MULTILINE)
    for line in (r"^\s*\.tp_weaklistoffset = .*,\n", r'^\s*\{"__weakref__", T_OBJECT_EX, .*\},\n')
)
"""The two lines in generated C that give a class a list of weak references."""


class CannotCompileError(Exception):
    """Something that compiling needs is missing here, or a module is not as it has to be."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    options = _options(arguments)
    if options.remove:
        remove()
        return 0
    try:
        built = compiled()
    except CannotCompileError as error:
        print(f"compile: {error}", file=sys.stderr)
        if options.if_possible:
            print(
                "compile: what runs is pure Python, which does the same, at twice the CPU time a request in the router"
            )
        return 0 if options.if_possible else 1
    if options.into is None:
        put_beside_sources(built)
    else:
        put_into(built, options.into)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--into", type=Path, metavar="FOLDER", help="where the compiled modules go")
    place.add_argument("--remove", action="store_true", help="remove what lies beside the sources")
    parser.add_argument(
        "--if-possible", action="store_true", help="exit 0 where it cannot be compiled"
    )
    return parser.parse_args(arguments)


def listed() -> dict[str, Path]:
    """Return the modules that are to be compiled, in order, with their sources as paths from the root of the project.

    Raises:
        CannotCompileError: one that the list names does not exist, or is left out of a folder that is not on it.
    """
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["capamesh"]["compiled"]
    found = {module for entry in table["modules"] for module in _modules_of(entry)}
    for group in table.get("left_out", ()):
        for module in group["modules"]:
            if module not in found:
                raise CannotCompileError(
                    f"pyproject.toml leaves out {module}, which is in no folder of its list: "
                    "correct [tool.capamesh.compiled]"
                )
            found.remove(module)
    return {module: source_of(module) for module in sorted(found)}


def _modules_of(entry: str) -> list[str]:
    """Return the modules of an entry of the list: itself, or all in the folder before its `.*`."""
    folder = entry.removesuffix(".*")
    if folder == entry:
        return [entry]
    place = ROOT / source_of(folder)
    return [f"{folder}.{path.stem}" for path in place.parent.glob("*.py") if path != place]


def source_of(module: str) -> Path:
    """Return the source of a module as a path from the root of the project.

    Raises:
        CannotCompileError: there is no such module.
    """
    place = Path(*module.split("."))
    for part in module.split(".")[1:2]:
        for inside in (place.with_suffix(".py"), place / "__init__.py"):
            source = Path(part, "src") / inside
            if (ROOT / source).is_file():
                return source
    raise CannotCompileError(
        f"pyproject.toml lists {module}, which does not exist: correct [tool.capamesh.compiled]"
    )


def compiled() -> Path:
    """Compile all modules of the list, unless that was done before; return the folder of the result.

    Raises:
        CannotCompileError: mypy or a C compiler is missing, or a module does not compile.
    """
    sources = listed()
    folder = CACHE / _digest(sources.values())
    if (folder / RECORD).exists():
        folder.touch()
        return folder
    work = CACHE / f"work-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _compile(sources, work)
        record = {name: str(path) for name, path in sources.items()}
        (work / "out" / RECORD).parent.mkdir(parents=True, exist_ok=True)
        (work / "out" / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        (work / "out").rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _forget_old_results()
    return folder


def _digest(sources: Iterable[Path]) -> str:
    """Return what tells this result from all others: the sources, this script, the compilers and the machine."""
    digest = hashlib.blake2b(digest_size=12)
    try:
        tools = [f"{name} {version(name)}" for name in ("mypy", "setuptools")]
    except PackageNotFoundError as error:
        raise CannotCompileError(
            f"{error.name} is not installed here: run `make demo` or `make test`, which install it"
        ) from None
    for text in (
        *tools,
        sys.version,
        sysconfig.get_platform(),
        *_compiler(),
        Path(__file__).read_text(),
    ):
        digest.update(text.encode() + b"\0")
    for path in sources:
        content = (ROOT / path).read_bytes()
        digest.update(f"{path} {len(content)}\0".encode() + content)
    return digest.hexdigest()


def _compiler() -> list[str]:
    """Return the command of the C compiler that Python was made with, or that CC names."""
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    if shutil.which(command[0]) is None:
        raise CannotCompileError(
            f"there is no C compiler {command[0]!r} here: install gcc and python3-dev, or set CC"
        )
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        raise CannotCompileError("Python's headers are missing here: install python3-dev")
    return command


def _compile(sources: dict[str, Path], work: Path) -> None:
    """Make C of the modules and objects of the C, on all cores, and link them into work/out."""
    generated = work / "c"
    program = (
        "import json, sys; from mypyc.build import mypycify\n"
        "made = mypycify(sys.argv[3:], opt_level='2', multi_file=True, group_name=sys.argv[1], target_dir=sys.argv[2])\n"
        "print('made: ' + json.dumps([[e.name, e.sources, e.include_dirs, e.extra_compile_args] for e in made]))\n"
    )
    command = [
        *(sys.executable, "-c", program, GROUP, str(generated)),
        f"--config-file={ROOT / 'pyproject.toml'}",
        "--follow-imports=silent",  # what the modules import may import what is not installed here
        *map(str, sources.values()),
    ]
    print(
        f"compile: {len(sources)} modules (two minutes on two cores; the result is kept)",
        flush=True,
    )
    translated = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    found = re.search(r"^made: (.*)$", translated.stdout, re.MULTILINE)
    if translated.returncode != 0 or found is None:
        raise CannotCompileError(
            f"mypyc refuses the modules:\n{translated.stdout[-4000:]}{translated.stderr[-4000:]}"
        )
    leave_out_weak_references(generated.glob(f"__native_{GROUP}*.c"))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, files, includes, arguments in json.loads(found[1]):
            headers = [
                sysconfig.get_paths()["include"],
                sysconfig.get_paths()["platinclude"],
                *includes,
            ]
            flags = [
                *_variable("CFLAGS"),
                *_variable("CCSHARED"),
                *(
                    each for each in arguments if each != "-Werror"
                ),  # a newer compiler warns of more
                *(f"-I{folder}" for folder in headers),
            ]
            objects = list(
                pool.map(lambda file, flags=flags: _object_of(Path(file), flags, work), files)
            )
            _link(objects, work / "out" / Path(*name.split(".")))


def leave_out_weak_references(generated: Iterable[Path]) -> None:
    """Have the classes in files of generated C take no weak references.

    mypyc 2.4 counts the list of weak references to an object as something that the object owns: a collection frees what
    is in use (https://github.com/mypyc/mypyc/issues/1102). Without the list, `weakref.ref` raises a TypeError. From
    Python 3.12 on mypyc makes none.

    Raises:
        CannotCompileError: one of the two lines that make such a list is in no file, before Python 3.12.
    """
    removed = [0] * len(_WEAK_REFERENCES)
    for path in generated:
        text = path.read_text()
        for index, line in enumerate(_WEAK_REFERENCES):
            text, count = line.subn("", text)
            removed[index] += count
        path.write_text(text)
    if 0 in removed and sys.version_info < (3, 12):
        raise CannotCompileError(
            f"mypyc of mypy {version('mypy')} makes lists of weak references in another way: {removed} lines of the two "
            "kinds in _WEAK_REFERENCES were found; correct these patterns, or delete them if mypyc#1102 is mended"
        )


def _variable(name: str) -> list[str]:
    return str(sysconfig.get_config_var(name) or "").split()


def _object_of(source: Path, flags: Sequence[str], work: Path) -> Path:
    path = (
        work / "objects" / f"{source.stem}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}.o"
    )
    path.parent.mkdir(exist_ok=True)
    _run([*_compiler(), *flags, "-g0", "-c", str(ROOT / source), "-o", str(path)])
    return path


def _link(objects: Sequence[Path], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    linker = _variable("LDSHARED") or [*_compiler(), "-shared"]
    _run([*linker, *map(str, objects), "-o", str(target.with_name(target.name + SUFFIX))])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the C compiler
    if done.returncode != 0:
        raise CannotCompileError(
            f"{command[0]} ended with {done.returncode}:\n{done.stderr[-4000:]}"
        )


def _forget_old_results() -> None:
    results = sorted(
        (path for path in CACHE.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    for path in results[:-KEPT]:
        if not path.name.startswith("work-"):
            shutil.rmtree(path, ignore_errors=True)


def put_beside_sources(built: Path) -> None:
    """Put each compiled module beside its source, and a record by which a source that is changed later is noticed."""
    remove()
    sources = json.loads((built / RECORD).read_text())
    shared = [path for path in built.iterdir() if path.is_file()]
    for path in shared:
        _put(path, ROOT / "protocol" / "src" / path.name)
    for source in sources.values():
        root, inside = _split(Path(source))
        _put(built / _library_of(inside), ROOT / root / _library_of(inside))
    states = {
        name: [(ROOT / source).stat().st_size, (ROOT / source).stat().st_mtime_ns]
        for name, source in sources.items()
    }
    record = ROOT / "protocol" / "src" / RECORD
    record.write_text(json.dumps(states, indent=1) + "\n")
    print(
        f"compile: {len(states)} compiled modules lie beside their sources; `make pure` removes them"
    )


def put_into(built: Path, folder: Path) -> None:
    """Put the compiled modules into a folder as they lie in a wheel, where no source changes."""
    sources = json.loads((built / RECORD).read_text())
    for path in built.rglob(f"*{SUFFIX}"):
        _put(path, folder / path.relative_to(built))
    record = folder / RECORD
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(dict.fromkeys(sources), indent=1) + "\n")


def remove() -> None:
    """Remove all compiled modules of this checkout.

    Their record goes first and the library that they share goes last: a process that starts meanwhile runs the sources.
    """
    (ROOT / "protocol" / "src" / RECORD).unlink(missing_ok=True)
    shared = set(ROOT.glob(f"*/src/*{SUFFIX}"))
    modules = set(ROOT.glob(f"*/src/**/*{SUFFIX}")) - shared
    for path in (*modules, *shared):
        path.unlink()


def _split(source: Path) -> tuple[Path, Path]:
    """Return the source root of a path like protocol/src/capamesh/…, and the rest."""
    return Path(*source.parts[:2]), Path(*source.parts[2:])


def _library_of(inside: Path) -> Path:
    return inside.with_name(inside.stem + SUFFIX)


def _put(path: Path, target: Path) -> None:
    """Copy a file so that a process which has the old one open keeps it whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    shutil.copy2(path, part)
    part.replace(target)


if __name__ == "__main__":
    sys.exit(main())
