"""The commands that `make compose-test` runs: one that hangs is ended with its children, and what it said last is told."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest
from compose_stack import Failed, Stack

HANGS = """#!/bin/sh
exec 3> "$(dirname "$0")/alive"
echo '#7 fetching packages'
sleep 600 &
wait
"""
"""A `docker` whose plugin outlives it, and holds the pipe `alive` open."""


def test_command_that_hangs_is_ended_with_its_children_and_said_what_it_did(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(HANGS)
    docker.chmod(0o700)
    os.mkfifo(tmp_path / "alive")
    alive = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(Failed) as failed:
        Stack(str(docker), 0, 0).run("compose", "build", limit_s=3)
    assert str(failed.value) == (
        "`docker compose build` took over 3 s and was ended; it said last:\n#7 fetching packages"
    )
    ended, _, _ = select.select([alive], [], [], 30.0)
    assert ended == [alive]
    assert os.read(alive, 1) == b""
    os.close(alive)
