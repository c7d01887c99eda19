"""The wheel that is built with CAPAMESH_COMPILE=1: for this Python and machine, with libraries beside all sources.

Compiling takes half a minute where a listed module was changed, and is why this is not in `test_wheel`, which
every change has to pass.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import zipfile
from pathlib import Path

import compile_modules
import pytest
from compile_modules import RECORD, SUFFIX, CannotCompileError
from wheels import build, compiled_when_imported, files_of, source_files

from capamesh.protocol.implementation import SHARED


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        compile_modules.compiled()  # what it makes is kept, and packed by the build
    except CannotCompileError as error:
        if "is missing" in str(error) or "there is no" in str(error):
            pytest.skip(str(error))
        raise
    return build(tmp_path_factory.mktemp("dist"), CAPAMESH_COMPILE="1")


def test_compiled_wheel_is_for_this_python_and_machine(wheel: Path) -> None:
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    machine = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.stem.endswith(f"-{python}-{python}-{machine}")


def test_compiled_wheel_has_all_sources_and_a_library_for_each_module_of_the_list(
    wheel: Path,
) -> None:
    inside = [Path(*path.parts[2:]) for path in compile_modules.listed().values()]
    libraries = {str(path.with_name(path.stem + SUFFIX)) for path in inside}
    assert files_of(wheel) == source_files() | libraries | {SHARED, str(RECORD)}


def test_record_of_a_compiled_wheel_has_no_states(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        record = json.loads(archive.read(str(RECORD)))
    assert record == dict.fromkeys(compile_modules.listed())


def test_compiled_wheel_runs_compiled_unless_sources_are_asked_for(
    wheel: Path, tmp_path: Path
) -> None:
    assert compiled_when_imported(wheel, tmp_path, CAPAMESH_PURE="0") == {*compile_modules.listed()}
    assert compiled_when_imported(wheel, tmp_path, CAPAMESH_PURE="1") == set()
