"""The command `capamesh`, as people run it: in a process of its own, without the settings of whoever runs the tests. IO: processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT_S = 180.0
"""Far more than a command takes, for machines that do much else."""


def words_of(*words: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "capamesh.cli", *map(str, words)]


def environment(router: str = "") -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("CAPAMESH_")}
    return own | ({"CAPAMESH_ROUTER": router} if router else {})


def run(
    *words: str | Path, router: str = "", folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `capamesh` with these words in a folder, with a router in its environment."""
    return subprocess.run(
        words_of(*words),
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=folder,
        env=environment(router),
    )


def run_json(*words: str | Path, router: str = "") -> Any:
    """Return the JSON that a command prints, which must end well."""
    done = run(*words, "--json", router=router)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def command(
    *words: str | Path, router: str = "", folder: Path | None = None
) -> tuple[int, str, str]:
    """Run `capamesh` beside the loop; return its exit status, and what it prints and says beside that."""
    done = await asyncio.to_thread(run, *words, router=router, folder=folder)
    return done.returncode, done.stdout, done.stderr
