"""Clients of others, each in an environment of its own, made from the pins of requirements/clients. IO: pip, processes.

Their programs are in tests/clients/programs: what they print as JSON is looked at here, where our packages are.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from benchmark_modules import load

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests" / "clients" / "programs"
LIMIT_S = 300.0
"""Far more than a program takes, for machines that do much else."""


@functools.cache
def folder_of(client: str) -> Path:
    """Return the folder of a client's programs, which is made first where it is missing or its pins have changed.

    The test is left out where it cannot be made, with the reason.
    """
    environments = load("environments")
    home = ROOT / "build" / "clients" / client
    try:
        python: Path = environments.python_of(
            ROOT / "requirements" / "clients" / f"{client}.txt", home
        )
    except environments.NotInstalled as exc:
        pytest.skip(f"{client} cannot be installed here: {exc}")
    return python.parent


def run(client: str, *command: str | Path) -> str:
    """Run a program of a client's environment by its name and return what it printed; fail with all of that if it fails."""
    program, *arguments = command
    # our own sources and settings are not the client's
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    done = subprocess.run(
        [folder_of(client) / program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def answers(client: str, program: str, *arguments: str | Path) -> Any:
    """Run a program of tests/clients/programs in a client's environment; return the JSON of its last line."""
    return json.loads(run(client, "python", PROGRAMS / program, *arguments).splitlines()[-1])
