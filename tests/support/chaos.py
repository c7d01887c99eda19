"""Faults for real processes: stopped, slowed, cut off, with another clock. IO: signals, sockets, a compiler.

Whatever is done to a process or a socket here ends with its context.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from unittest import mock

from capamesh.cli.member import Member

CHUNK_BYTES = 65536
CLOCK_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Adds the nanoseconds in the file CHAOS_CLOCK to the wall clock, and to no other clock. */
static volatile int64_t *offset;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("CHAOS_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (file < 0) return;
    void *page = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) offset = page;
}

int clock_gettime(clockid_t id, struct timespec *out) {
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, out);
    if (!failed && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t now_ns = (int64_t)out->tv_sec * 1000000000 + out->tv_nsec + *offset;
        out->tv_sec = now_ns / 1000000000;
        out->tv_nsec = now_ns % 1000000000;
    }
    return failed;
}

int gettimeofday(struct timeval *out, void *zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""

PACER = """
import os, signal, sys, time
period_s, parent = 0.02, os.getppid()
shares = [each.split(":") for each in sys.argv[1:]]
turns = []
for number, (pid, share) in enumerate(shares):
    begin_s = period_s * number / len(shares)
    turns.append((begin_s, int(pid), signal.SIGCONT))
    turns.append(((begin_s + period_s * float(share)) % period_s, int(pid), signal.SIGSTOP))
turns.sort()
start_s = time.monotonic()
while os.getppid() == parent:
    for at_s, pid, number in turns:
        time.sleep(max(0.0, start_s + at_s - time.monotonic()))
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    start_s = max(start_s + period_s, time.monotonic() - period_s)
for _, pid, _ in turns:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
"""


# processes


def worker_pids(member: Member) -> list[int]:
    """Return the processes that run a node's models."""
    return [pid for pid in member.status().get("worker_pids", []) if pid]


def own_pids(member: Member) -> list[int]:
    """Return a member's process and its workers, not its sidecar."""
    return [member.pid, *worker_pids(member)]


def sidecar_pid(member: Member) -> int:
    return int(member.status()["sidecar_pid"])


def send_signal(pids: Sequence[int], number: int) -> None:
    """Signal processes of this test; one that has ended is none."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def frozen(pids: Sequence[int]) -> Iterator[None]:
    """Stop processes where they are; they go on when the context ends."""
    send_signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send_signal(pids, signal.SIGCONT)


@contextmanager
def slowed(shares: Mapping[int, float]) -> Iterator[None]:
    """Let each process run for only its share of the time, at another part of each period than the others.

    A process of its own stops them and lets them go on, so that a busy caller does not change their shares; it
    ends when the caller does.
    """
    each = [f"{pid}:{share}" for pid, share in shares.items()]
    pacing = subprocess.Popen([sys.executable, "-c", PACER, *each])
    try:
        yield
    finally:
        pacing.terminate()
        pacing.wait()
        send_signal(list(shares), signal.SIGCONT)


@contextmanager
def crowded(pids: Sequence[int], *, core: int, hogs: int) -> Iterator[None]:
    """Put all threads of processes on one core and let `hogs` others keep it busy."""
    threads = [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    before = {thread: os.sched_getaffinity(thread) for thread in threads}
    busy = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    started: list[subprocess.Popen[bytes]] = []
    try:
        for thread in threads:
            os.sched_setaffinity(thread, {core})
        started += [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(hogs)]
        yield
    finally:
        for hog in started:
            hog.kill()
            hog.wait()
        for thread, cores in before.items():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)


# the wire


class Proxy:
    """A TCP proxy in this process whose wire can go bad; it sees only what TLS leaves to see.

    `delay_s` and `bytes_per_s` (0: any number) hold in each direction. `reset_after_bytes`: so many more of the answers' bytes, and the
    connection is reset in the midst of them, once.
    """

    def __init__(self, listen: tuple[str, int], target: tuple[str, int]) -> None:
        self._listen = listen
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._is_cut = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.delay_s = 0.0
        self.bytes_per_s = 0.0
        self.reset_after_bytes: int | None = None
        self.accepted = 0
        self.resets = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        """Listen until the context ends."""
        server = await asyncio.start_server(self._accept, *self._listen)
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            self._abort()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self, *, is_held: bool = True) -> None:
        """Accept, and pass nothing on until it is called for the opposite."""
        (self._open.clear if is_held else self._open.set)()

    def cut(self, *, is_cut: bool = True) -> None:
        """End what is open and whatever comes, until it is called for the opposite."""
        self._is_cut = is_cut
        if is_cut:
            self._abort()

    def _abort(self) -> None:
        for writer in list(self._writers):
            made = writer.get_extra_info("socket")
            if made is not None:
                with suppress(OSError):  # a reset, not an orderly end
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.accepted += 1
        outward: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            if self._is_cut:
                return
            back, outward = await asyncio.open_connection(*self._target)
            self._writers.add(outward)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, outward, is_answer=False))
                pumps.create_task(self._pump(back, writer, is_answer=True))
        except* OSError:
            pass
        except* asyncio.CancelledError:
            pass  # the proxy ends; streams log a handler that was cancelled
        finally:
            for each in (writer, outward):
                if each is not None:
                    self._writers.discard(each)
                    each.transport.abort()
            self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._open.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.bytes_per_s:
                await asyncio.sleep(len(data) / self.bytes_per_s)
            left = self.reset_after_bytes
            if is_answer and left is not None:
                if len(data) > left:
                    self.reset_after_bytes = None
                    self.resets += 1
                    writer.write(data[:left])
                    await asyncio.sleep(0)
                    self._abort()
                    return
                self.reset_after_bytes = left - len(data)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # one side has ended: so does the other


# clocks


def why_no_clock() -> str:
    """Return why wall clocks cannot be set here, empty when they can."""
    if sys.platform != "linux":
        return "libraries are preloaded on Linux alone"
    return "" if shutil.which("cc") else "there is no C compiler"


class WallClock:
    """The wall clock of the processes that were started within `applied`; the other clocks stay as they are."""

    def __init__(self, folder: Path, name: str) -> None:
        """Compile what is preloaded, once a folder."""
        self._shim = folder / "clock.so"
        self._file = folder / f"{name}.clock"
        if not self._shim.exists():
            source = folder / "clock.c"
            source.write_text(CLOCK_SHIM)
            command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(self._shim), str(source), "-ldl"]
            subprocess.run(command, check=True, timeout=60)
        self._file.write_bytes(struct.pack("=q", 0))

    def jump_to(self, offset_s: float) -> None:
        """Show what the machine's clock shows and so many seconds more, from now on."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", int(offset_s * 1e9)))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the processes that are started meanwhile use it."""
        variables = {"LD_PRELOAD": str(self._shim), "CHAOS_CLOCK": str(self._file)}
        with mock.patch.dict(os.environ, variables):
            yield
