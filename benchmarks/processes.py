"""Other programs that a benchmark runs beside it: started, waited for, ended, and what they used. IO: processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

START_LIMIT_S = 60.0
STOP_LIMIT_S = 5.0
POLL_S = 0.05
CHILD_FIELDS = slice(11, 13)
"""User and system time among the fields of `/proc/PID/stat` that come after the command's name."""


@asynccontextmanager
async def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    is_ready: Callable[[], Awaitable[bool]],
) -> AsyncIterator[int]:
    """Run `command` until the block ends; enter it with its process id once `is_ready` says so.

    SystemExit: it ended, or was not ready in time; the message has the end of its log.
    """
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **environment},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        await _until_ready(process, command[0], log, is_ready)
        yield process.pid
    finally:
        await _stop(process)


async def _until_ready(
    process: asyncio.subprocess.Process,
    name: str,
    log: Path,
    is_ready: Callable[[], Awaitable[bool]],
) -> None:
    try:
        async with asyncio.timeout(START_LIMIT_S):
            while not await is_ready():
                if process.returncode is not None:
                    raise SystemExit(f"{name} ended; {_end_of(log)}")
                await asyncio.sleep(POLL_S)
    except TimeoutError as exc:
        raise SystemExit(
            f"{name} was not ready within {START_LIMIT_S:g} s; {_end_of(log)}"
        ) from exc


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End a program and all that it has started; some of them ignore SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_LIMIT_S)


def _end_of(log: Path) -> str:
    return f"its log ends with:\n{log.read_text(errors='replace')[-2000:]}"


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tree_cpu_s(pid: int) -> float:
    """Return the CPU time that a process and all that descends from it have used, in seconds."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            used[int(folder.name)] = sum(map(int, fields[CHILD_FIELDS]))
    return sum(ticks for one, ticks in used.items() if _descends(one, pid, parents)) / os.sysconf(
        "SC_CLK_TCK"
    )


def _descends(one: int, pid: int, parents: Mapping[int, int]) -> bool:
    while one and one != pid:
        one = parents.get(one, 0)
    return one == pid
