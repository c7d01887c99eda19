"""Threads that give way to all others."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from capamesh.node.devices.idle_thread import be_nice, give_way


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such threads")
def test_thread_gives_way_and_no_other_does() -> None:
    kinds: list[int] = []

    def work() -> None:
        assert give_way()
        kinds.append(os.sched_getscheduler(threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert kinds == [os.SCHED_IDLE]
    assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_nice_thread_leaves_the_priority_of_all_others() -> None:
    def nice(by: int) -> int:
        be_nice(by)
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(nice, 7).result() == min(before + 7, 19)
        assert pool.submit(nice, 0).result() == min(before + 7, 19)  # nobody may go back
        # it is less than those have who began as low
        assert pool.submit(nice, 5).result() == min(before + 12, 19)
        assert pool.submit(nice, 19).result() == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
