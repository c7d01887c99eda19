"""The wheel that images build, with CAPAMESH_COMPILE=1: for this Python and machine, with libraries beside all sources.

Compiling takes half a minute where a listed module was changed, and is why this is not in `test_wheel`, which
every change has to pass.
"""

from __future__ import annotations

import json
import re
import sys
import sysconfig
import zipfile
from pathlib import Path

import compile_modules
import pytest
from compile_modules import RECORD, SUFFIX, CannotCompileError
from wheels import (
    ROOT,
    Builder,
    compiled_when_imported,
    files_of,
    image_context,
    source_files,
)

from capamesh.protocol.implementation import SHARED


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Return what builds the wheel as the images do: from the files that they are given."""
    try:
        compile_modules.compiled()  # what it makes is kept, and packed by the build
    except CannotCompileError as error:
        if "is missing" in str(error) or "there is no" in str(error):
            pytest.skip(str(error))
        raise
    context = image_context(tmp_path_factory.mktemp("context"))
    (context / "build").mkdir()
    (context / "build" / "compiled").symlink_to(compile_modules.CACHE)
    return Builder(context, tmp_path_factory.mktemp("venv"), CAPAMESH_COMPILE="1")


@pytest.fixture(scope="module")
def wheel(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builder.wheel(tmp_path_factory.mktemp("dist"))


def test_images_install_what_the_build_asks_for(builder: Builder) -> None:
    pinned = "".join(
        (ROOT / f"requirements/{name}.txt").read_text() for name in ("runtime", "build")
    )
    assert builder.names - set(re.findall(r"^([a-z0-9-]+)==", pinned, re.MULTILINE)) == set()


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
