"""What a result was measured on, and where results are kept. Reads the machine, writes files."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


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


def memory_bytes(pid: int) -> int:
    """Return a process's resident memory, what it shares with others included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
