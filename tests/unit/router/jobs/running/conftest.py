"""Routers that run jobs, and what is left of their work."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from job_runners import Rig

SHARED = Path("/dev/shm")  # noqa: S108 - where there is one, a disk need not be waited for
MEMORY = SHARED if SHARED.is_dir() else None


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        rig = Rig(Path(folder))
        yield rig
        await rig.close()
