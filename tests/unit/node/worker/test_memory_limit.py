"""What a worker's runs may take of its machine's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from capamesh.node.worker.memory_limit import MIB, budget_bytes, hold_to, messages_bytes

GIB = 1024 * MIB
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts RLIMIT_DATA so")


def cpu(total: int, free: int) -> int:
    return budget_bytes(is_gpu=False, total_bytes=total, free_bytes=free)


def test_tenth_of_the_machine_or_what_its_agent_needs_is_left() -> None:
    assert (
        cpu(20 * GIB, 17 * GIB) == 12 * GIB
    )  # and a fifth of the rest for all but models and runs
    assert cpu(1000 * MIB, 928 * MIB) == 640 * MIB


def test_half_of_little_free_memory_may_be_used() -> None:
    assert cpu(20 * GIB, GIB) == int(GIB / 2 / 1.25)


def test_link_s_messages_may_take_a_quarter_of_it() -> None:
    assert messages_bytes(1024 * MIB) == 256 * MIB
    assert messages_bytes(100 * MIB) == 64 * MIB
    assert messages_bytes(100 * GIB) == messages_bytes(0) == 512 * MIB


def test_most_of_a_gpu_is_for_models_and_runs() -> None:
    assert budget_bytes(is_gpu=True, total_bytes=80 * GIB, free_bytes=79 * GIB) == 72 * GIB


def test_unknown_memory_is_no_limit() -> None:
    assert cpu(0, 0) == 0
    assert hold_to(0) == 0


def test_system_that_does_not_say_what_a_process_has_gets_no_limit(tmp_path: Path) -> None:
    assert hold_to(GIB, proc=tmp_path) == 0


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=240
    )
    return done.stdout.strip()


@LINUX_ONLY
def test_process_that_is_held_gets_no_more_memory_and_goes_on() -> None:
    assert (
        python(
            "from capamesh.node.worker.memory_limit import MIB, hold_to\n"
            "limit = hold_to(100 * MIB)\n"
            "assert limit > 356 * MIB\n"
            "kept = bytearray(200 * MIB)\n"
            "try:\n"
            "    bytearray(200 * MIB)\n"
            "except MemoryError:\n"
            "    print('refused', len(bytearray(20 * MIB)) // MIB)\n"
        )
        == "refused 20"
    )


@LINUX_ONLY
def test_limit_that_is_there_and_lower_stays() -> None:
    assert (
        python(
            "import resource\n"
            "from capamesh.node.worker.memory_limit import MIB, hold_to\n"
            "resource.setrlimit(resource.RLIMIT_DATA, (300 * MIB, 400 * MIB))\n"
            "print(hold_to(900 * MIB) // MIB)\n"
            "print(resource.getrlimit(resource.RLIMIT_DATA) == (300 * MIB, 400 * MIB))\n"
        )
        == "300\nTrue"
    )
