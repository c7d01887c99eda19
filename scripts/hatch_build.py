"""Puts the compiled modules into the wheel where CAPAMESH_COMPILE=1 is in the environment; hatchling calls it.

Without it, and in an editable installation, the wheel is of pure Python and runs anywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from typing_extensions import override


class CompiledModules(BuildHookInterface[Any]):
    """A step of the build of a wheel."""

    PLUGIN_NAME = "custom"

    @override
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the modules and add them to the wheel, which is then for this Python and this kind of machine."""
        if version == "editable" or os.environ.get("CAPAMESH_COMPILE", "0") in {"", "0"}:
            return
        root = Path(self.root)
        into = root / "build" / "compiled-wheel"
        script = root / "scripts" / "compile_modules.py"
        shutil.rmtree(into, ignore_errors=True)  # of an older list
        subprocess.run([sys.executable, script, "--into", into], check=True)  # noqa: S603 - our own
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"][str(into)] = "/"
