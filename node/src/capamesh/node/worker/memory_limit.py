"""The memory that a worker's runs may take, and the limit by which the kernel holds the process to it. IO: rlimit, /proc.

A lack of memory must fail one run, by an allocation that is refused, and not end the process, by the kernel's choice
of a victim: that takes all requests of all models with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from capamesh.protocol.sandbox.memory import limit_memory

MIB: Final = 1024 * 1024
RESERVE_SHARE: Final = 0.1
RESERVE_BYTES: Final = 128 * MIB
"""The reserve and the share of a machine's or container's memory of which the larger is left to the agent and the sidecar, which grow by
some tens of MB, and to the kernel (guess)."""
GPU_SHARE: Final = 0.9
"""The share of a GPU's memory that models and runs may take: CUDA has its own there (guess)."""
SLACK_SHARE: Final = 0.25
LIMIT_SLACK_BYTES: Final = 256 * MIB
"""The bytes beyond what is for models and runs that this process may take, the larger of the two: the stacks of its threads, 8
MiB each, what loading a model takes twice, messages on their way (guess)."""
LEAST_MESSAGES_BYTES: Final = 64 * MIB
MOST_MESSAGES_BYTES: Final = 512 * MIB
"""A link's messages may take, each way, a quarter of the budget within these bounds (guess: one of 256 MiB in 1 GiB)."""


def budget_bytes(*, is_gpu: bool, total_bytes: int, free_bytes: int) -> int:
    """Return what models and runs of one device may take together; 0 where nobody knows what there is.

    `free_bytes` is before any model is loaded. The operator's limit is for models alone: where they fill it, runs
    would have no room.
    """
    if is_gpu:
        return int(GPU_SHARE * total_bytes)
    reserve = max(RESERVE_BYTES, int(RESERVE_SHARE * total_bytes))
    return int(max(free_bytes - reserve, free_bytes // 2) / (1 + SLACK_SHARE))


def messages_bytes(budget: int) -> int:
    """Return what the messages of one link may take each way; `budget` as `budget_bytes` returns it."""
    if not budget:
        return MOST_MESSAGES_BYTES
    return min(MOST_MESSAGES_BYTES, max(LEAST_MESSAGES_BYTES, int(SLACK_SHARE * budget)))


def hold_to(budget: int, *, proc: Path = Path("/proc/self")) -> int:
    """Limit what this process may allocate to what it has, `budget` and some slack; return the limit in bytes, 0: none."""
    if not budget:
        return 0
    return limit_memory(budget + max(LIMIT_SLACK_BYTES, int(SLACK_SHARE * budget)), proc=proc)
