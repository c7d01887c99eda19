from __future__ import annotations

import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from capamesh.node.runtime.onnxruntime.slot_memory import HostMemory


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages are what they are")
def test_slot_costs_what_is_in_it_whatever_its_length() -> None:
    memory = HostMemory((8, 8, 4, 4096, 64), np.float32)
    assert memory.size_bytes == 2**28
    before = resident_bytes()
    memory.load(0, 0, np.ones((8, 4, 1, 64), np.float32), 1)
    for slot in range(1, 8):
        memory.copy(0, slot, 1)
    assert resident_bytes() - before < 2**25
    assert memory.save(7, 0, 2).tolist() == [[[[1.0] * 64, [0.0] * 64]] * 4] * 8
    memory.free()


def test_copy_of_a_slot_takes_no_memory_of_its_own() -> None:
    memory = HostMemory((8, 2, 4, 256, 64), np.float32)
    memory.load(0, 0, np.ones((8, 4, 256, 64), np.float32), 256)
    tracemalloc.start()
    try:
        memory.copy(0, 1, 256)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < memory.size_bytes // 16
    assert memory.save(1, 255, 256).tolist() == [[[[1.0] * 64]] * 4] * 8
    memory.free()
