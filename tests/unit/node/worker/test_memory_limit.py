"""What a worker's runs may take of its machine's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from capamesh.node.worker.memory_limit import MIB, budget_bytes, hold_to, messages_bytes

GIB = 1024 * MIB
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts RLIMIT_DATA so")


@pytest.mark.parametrize(
    ("total", "free", "limit"),
    [
        (20 * GIB, 17 * GIB, 12 * GIB),  # a tenth and a fifth of the rest are left
        (1000 * MIB, 928 * MIB, 640 * MIB),  # what its agent needs
        (20 * GIB, GIB, int(GIB / 2 / 1.25)),  # half of little free memory
        (0, 0, 0),  # it is not known
    ],
)
def test_part_of_the_machine_is_for_models_and_runs(total: int, free: int, limit: int) -> None:
    assert budget_bytes(is_gpu=False, total_bytes=total, free_bytes=free) == limit


def test_link_s_messages_may_take_a_quarter_of_it() -> None:
    assert messages_bytes(1024 * MIB) == 256 * MIB
    assert messages_bytes(100 * MIB) == 64 * MIB
    assert messages_bytes(100 * GIB) == messages_bytes(0) == 512 * MIB


def test_most_of_a_gpu_is_for_models_and_runs() -> None:
    assert budget_bytes(is_gpu=True, total_bytes=80 * GIB, free_bytes=79 * GIB) == 72 * GIB


def test_system_that_does_not_say_what_a_process_has_gets_no_limit(tmp_path: Path) -> None:
    assert hold_to(0) == hold_to(GIB, proc=tmp_path) == 0


HELD = """
from capamesh.node.worker.memory_limit import MIB, hold_to
assert hold_to(100 * MIB) > 356 * MIB
kept = bytearray(200 * MIB)
try:
    bytearray(200 * MIB)
except MemoryError:
    print("refused", len(bytearray(20 * MIB)) // MIB)
"""
LOWER = """
import resource
from capamesh.node.worker.memory_limit import MIB, hold_to
resource.setrlimit(resource.RLIMIT_DATA, (300 * MIB, 400 * MIB))
print(hold_to(900 * MIB) // MIB)
print(resource.getrlimit(resource.RLIMIT_DATA) == (300 * MIB, 400 * MIB))
"""


@LINUX_ONLY
@pytest.mark.parametrize(
    ("code", "says"),
    [(HELD, "refused 20"), (LOWER, "300\nTrue")],
    ids=["it gets no more memory and goes on", "a limit that is there and lower stays"],
)
def test_process_is_held_to_the_lower_limit(code: str, says: str) -> None:
    python = [sys.executable, "-c", code]
    done = subprocess.run(python, check=True, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == says
