"""Puts the compiled modules into the wheel as CAPAMESH_COMPILE in the environment says; hatchling calls it.

1: compile them, or fail. auto: compile them where a C compiler is. Otherwise, and in an editable installation, the wheel is
of pure Python and runs anywhere. It imports nothing but hatchling: nothing else is there in an isolated build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

UNREAD: Final = ("libp2p", "onnxruntime")
"""The dependencies whose types compiling does not read. The first needs GMP where fastecdsa's stand-in is not given."""


class CompiledModules(BuildHookInterface[Any]):
    """A step of the build of a wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what an isolated build installs beside hatchling."""
        if not _asked():
            return []
        project = tomllib.loads(Path(self.root, "pyproject.toml").read_text())
        runtime = (
            each for each in project["project"]["dependencies"] if not each.startswith(UNREAD)
        )
        return [*project["dependency-groups"]["compile"], *runtime]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the modules and add them to the wheel, which is then for this Python and this kind of machine."""
        if version == "editable" or not _asked():
            return
        root = Path(self.root)
        into = root / "build" / "compiled-wheel"
        command = [sys.executable, root / "scripts" / "compile_modules.py", "--into", into]
        if _asked() == "auto":
            command.append("--if-possible")
        shutil.rmtree(into, ignore_errors=True)  # of an older list
        subprocess.run(command, check=True)  # noqa: S603 - our own
        if into.exists():
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["force_include"][str(into)] = "/"


def _asked() -> str:
    asked = os.environ.get("CAPAMESH_COMPILE", "")
    return asked if asked in {"1", "auto"} else ""
