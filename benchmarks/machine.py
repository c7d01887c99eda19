"""The machine that a result was measured on, and the place where results are kept. Reads the machine, writes files."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
QUIET_LOOK_S = 0.25
QUIET_SHARE = 0.2
"""The share of one core below which nothing works on requests (guess: a node, a router and a browser idle below a tenth)."""


def machine() -> dict[str, Any]:
    """Return the machine and the versions that matter."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    packages = ("capamesh", "aiohttp", "uvloop", "numpy", "msgpack", "libp2p")
    runtime = "onnxruntime-gpu" if platform.machine() == "x86_64" else "onnxruntime"
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in (*packages, runtime)},
        "measured_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def keep(name: str, figures: dict[str, Any]) -> Path:
    """Write figures with the machine beside them; return the file."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
    return file


def busy_s() -> float:
    """Return the CPU time that all processes of the machine have used, in seconds."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle, waiting = int(fields[3]), int(fields[4])
    return (sum(map(int, fields[:8])) - idle - waiting) / os.sysconf("SC_CLK_TCK")


async def wait_quiet(limit_s: float = 30.0) -> None:
    """Wait until next to nothing runs: a server may go on with what its last client did not wait for.

    SystemExit: something was still running after `limit_s`.
    """
    quiet = 0
    for _ in range(int(limit_s / QUIET_LOOK_S)):
        before_s = busy_s()
        await asyncio.sleep(QUIET_LOOK_S)
        quiet = quiet + 1 if busy_s() - before_s < QUIET_SHARE * QUIET_LOOK_S else 0
        if quiet == 2:
            return
    raise SystemExit(f"the machine was not quiet within {limit_s:g} s: end what else runs on it")


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds; 0 where `/proc` is missing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """Return a process's resident memory, what it shares with others included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def forget_peak(pid: int) -> None:
    """Let `peak_bytes` of a process count from now on (proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process had since its peak was forgotten, counted as in `memory_bytes`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
