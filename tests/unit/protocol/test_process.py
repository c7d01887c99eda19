"""What a process sets of itself: its collector, its imports, its descriptors, its memory, and a watch over its loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import numpy as np
from fleet_fakes import in_virtual_time

from capamesh.protocol import memory
from capamesh.protocol.descriptors import (
    DescriptorShares,
    shares_of,
)
from capamesh.protocol.loop_watch import BEAT_S, TELL_S, LoopWatch
from capamesh.protocol.memory import CLASS_BYTES, BodyMemories, body_memory


def output_of(program: str) -> str:
    """Return what a process with this program prints; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loaded_objects_are_spared_and_the_collector_goes_on() -> None:
    output_of(
        """
import gc
from capamesh.protocol.gc_tuning import THRESHOLDS, freeze_loaded_objects
freeze_loaded_objects()
assert gc.get_freeze_count() > 1000, gc.get_freeze_count()
assert gc.get_threshold() == THRESHOLDS
assert gc.isenabled()
"""
    )


def test_imports_leave_out_what_services_do_not_use_and_others_may_still_read() -> None:
    output_of(
        """
import gc, sys
from capamesh.protocol.quick_imports import quick_imports
with quick_imports():
    assert not gc.isenabled()
    import capamesh.protocol.logs
assert gc.isenabled()
read = {name.split(".")[0] for name in sys.modules} & {"rich", "pygments", "greenlet"}
assert not read, read
import rich.console
with quick_imports():
    try:
        import rich.table
    except ImportError:
        pass
    else:
        raise AssertionError("rich was read in")
import rich.table
assert sys.modules["rich"].console is rich.console
"""
    )


def test_each_use_has_a_share_of_the_limit_which_a_process_raises_to_what_it_may_have() -> None:
    shares = {
        256: DescriptorShares(own=64, links=64, clients=128),
        1024: DescriptorShares(own=64, links=256, clients=704),
        1_048_576: DescriptorShares(own=64, links=8192, clients=1_040_320),
        1: DescriptorShares(own=1, links=1, clients=1),
    }
    assert {limit: shares_of(limit) for limit in shares} == shares
    program = """
import resource
from capamesh.protocol.descriptors import descriptor_limit, raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
events = []
class Log:
    def warning(self, event, **fields): events.append((event, fields["limit"]))
print(raise_descriptor_limit(Log()), descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE), events)
print(raise_descriptor_limit())
"""
    said = output_of(program).splitlines()
    assert said == ["300 300 (300, 300) [('descriptors_low', 300)]", "300"]


SIZE = 10 * CLASS_BYTES


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def test_memory_is_writable_and_not_lent_again_while_something_lies_in_it() -> None:
    for size in (0, 1, memory.ZEROED_BYTES, 100_001, memory.MOST_KEPT_BYTES + 1):
        view = body_memory(size)
        assert (len(view), view.nbytes, view.readonly) == (size, size, False)
        view[:] = bytes(size)
    memories = BodyMemories()
    first = memories.lend(SIZE)
    tensor = np.frombuffer(first[100:200], np.float32)
    at = address(first)
    del first
    assert memories.free_bytes == 0
    second = memories.lend(SIZE)
    assert address(second) != at
    del tensor
    assert memories.free_bytes == SIZE
    assert address(memories.lend(SIZE)) == at


def test_free_memory_is_bounded_and_the_size_longest_unused_goes_first() -> None:
    memories = BodyMemories(most_bytes=3 * SIZE)
    old = memories.lend(SIZE)
    del old
    lent = [memories.lend(2 * SIZE) for _ in range(4)]
    lent.clear()
    assert (memories.free_bytes, list(memories._free)) == (2 * SIZE, [2 * SIZE])
    assert memories._lent == {}
    # one whose last user is another thread is not kept
    memories = BodyMemories()
    held = [memories.lend(SIZE)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert (held, memories.free_bytes, memories._lent) == ([], 0, {})


class Watched:
    """This loop under watch, on clocks of its own: its beats, and what the watch logged."""

    def __init__(self, look_every_s: float = 3600.0) -> None:
        self.kept_s = 0.0
        self.used_s = 0.0
        self.lines: list[dict[str, Any]] = []
        self.beats: list[tuple[float, float]] = []
        """Of each, how late it was and the CPU time since the one before."""
        loop = asyncio.get_running_loop()
        self.watch = LoopWatch(
            self,  # type: ignore[arg-type]  # the one method of a log that it calls
            lambda late_s, busy_s: self.beats.append((round(late_s, 6), round(busy_s, 6))),
            lambda: "model m",
            steady_s=lambda: loop.time() + self.kept_s,
            used_s=lambda: self.used_s,
            look_every_s=look_every_s,
        )

    def warning(self, event: str, **values: Any) -> None:
        self.lines.append({"event": event, **values})

    def keeps_the_loop(self, kept_s: float, used_s: float) -> None:
        self.kept_s += kept_s
        self.used_s += used_s
        self.watch.look()


@in_virtual_time
async def test_loop_that_was_kept_is_reported_with_what_kept_it() -> None:
    seen = Watched()
    seen.watch.start()
    await asyncio.sleep(2.5 * BEAT_S)
    seen.keeps_the_loop(TELL_S, 0.01)  # as one that waits for a disk, or is not scheduled
    await asyncio.sleep(BEAT_S)
    seen.keeps_the_loop(TELL_S / 4, 0.06)  # all of which counts, though it is hardly late
    await asyncio.sleep(BEAT_S)
    seen.watch.stop()
    await asyncio.sleep(10 * BEAT_S)
    assert seen.beats == [(0.0, 0.0), (0.0, 0.0), (TELL_S, 0.01), (TELL_S / 4, 0.06)]
    (line,) = seen.lines
    assert "keeps_the_loop" in line.pop("ran")
    assert line == {"event": "loop_late", "late_s": TELL_S, "busy_s": 0.01, "doing": "model m"}


@in_virtual_time
async def test_thread_looks_until_the_watch_stops() -> None:
    watch, looked = Watched(look_every_s=0.001).watch, threading.Event()
    watch.look = looked.set  # type: ignore[method-assign]
    before = set(threading.enumerate())
    watch.start()
    (thread,) = set(threading.enumerate()) - before
    assert looked.wait()
    watch.stop()
    thread.join()
