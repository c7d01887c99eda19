"""Whole fleets with faults, a seed each: `python -m capamesh.simulation.world.story --seed N` plays one that fails again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from capamesh.simulation.world.story import Story

FIRST, _, LAST = os.environ.get("CAPAMESH_WORLD_SEEDS", "0:100").partition(":")
"""The seeds that are played: `make test-all` plays others and more."""


@pytest.mark.parametrize("seed", range(int(FIRST), int(LAST)))
def test_story_keeps_what_must_be_true(seed: int) -> None:
    Story(seed).play()


def test_seed_replays_exactly() -> None:
    traces = {
        subprocess.run(
            [sys.executable, "-m", "capamesh.simulation.world.story", "--seed", "1"],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1
