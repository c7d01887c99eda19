"""Limits what this process may allocate, so that a lack of memory fails one thing that it does. IO: rlimit, /proc."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def limit_memory(more_bytes: int, *, proc: Path = Path("/proc/self")) -> int:
    """Let this process allocate so much more than it has now; return the limit in bytes, 0: there is none.

    The kernel counts private writable memory, the stacks of threads among it. A lower limit that is there stays.
    """
    if sys.platform != "linux":
        return 0
    data_bytes = _data_bytes(proc)
    if not data_bytes:
        return 0
    limit = data_bytes + more_bytes
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    for known in (soft, hard):
        if known != resource.RLIM_INFINITY:
            limit = min(limit, known)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return limit


def _data_bytes(proc: Path) -> int:
    """Return the private writable memory of this process, as `RLIMIT_DATA` counts it; 0: it is not told."""
    try:
        lines = (proc / "status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
