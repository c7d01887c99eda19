"""The shell completes commands and options of `capamesh`, by the script that it shows; bash itself asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BASH = shutil.which("bash") or ""
pytestmark = pytest.mark.skipif(not BASH, reason="there is no bash")
COMMAND = Path(sys.executable).with_name("capamesh")


def shown_script() -> str:
    done = subprocess.run(
        [COMMAND, "--show-completion", "bash"],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def completed(*words: str) -> list[str]:
    """Return what bash offers for the last of `words`."""
    script = (
        f"{shown_script()}\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        '_capamesh_completion "$1"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        [BASH, "--norc", "-c", script, "bash", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.smoke
def test_commands_are_completed() -> None:
    assert sorted(completed(str(COMMAND), "no")) == ["node", "nodes"]


def test_options_of_a_command_are_completed() -> None:
    assert completed(str(COMMAND), "node", "run", "--mesh") == ["--mesh-port"]


def test_values_of_an_option_are_completed() -> None:
    assert completed(str(COMMAND), "model", "check", "x", "--device", "") == ["cpu", "cuda"]
