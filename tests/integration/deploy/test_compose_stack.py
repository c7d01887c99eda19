"""The commands that `make compose-test` runs: one that hangs is ended with its children, and what it said last is told."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest
from compose_stack import Failed, Stack

HANGS = """#!/bin/sh
exec 3> "$(dirname "$0")/alive"
echo '#7 fetching packages'
echo said >&3
sleep 600 &
wait
"""
"""A `docker` whose plugin outlives it, and holds the pipe `alive` open."""
LIMIT_S = 120.0
"""Nothing here takes long; whatever is not over by then hangs."""


def test_command_that_hangs_is_ended_with_its_children_and_said_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(HANGS)
    docker.chmod(0o700)
    os.mkfifo(tmp_path / "alive")
    alive = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    wait = subprocess.Popen.wait

    def wait_for_one_that_hangs(self: subprocess.Popen[str], timeout: float | None = None) -> int:
        """Begin to wait when it has said what it does: a process may take long to start."""
        if timeout is not None:
            assert select.select([alive], [], [], LIMIT_S)[0] == [alive]
            assert os.read(alive, 5) == b"said\n"
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_for_one_that_hangs)
    with pytest.raises(Failed) as failed:
        Stack(str(docker), 0, 0).run("compose", "build", limit_s=3)
    assert str(failed.value) == (
        "`docker compose build` took over 3 s and was ended; it said last:\n#7 fetching packages"
    )
    ended, _, _ = select.select([alive], [], [], LIMIT_S)
    assert ended == [alive]
    assert os.read(alive, 1) == b""
    os.close(alive)
