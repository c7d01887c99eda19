"""The devices of this machine: its GPUs, or else its CPU within its container's limits. Reads /proc and /sys."""

from __future__ import annotations

import math
import os
import platform
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from capamesh.node.devices.nvml import Gpu, GpuReader

_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device that a worker process can own."""

    index: int
    """0 for the CPU; for a GPU its NVML index. Start its worker with CUDA_VISIBLE_DEVICES=`uuid`: CUDA
    numbers GPUs by speed and hides some, so an index alone may name another card."""
    kind: str
    """`cpu` or `cuda`."""
    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    cores: int
    """CPU cores that its worker may use: the machine's, shared out among the GPUs; at least 1."""
    uuid: str = ""
    """A GPU's own name, `GPU-…`; empty for the CPU."""
    driver_version: str = ""
    """The version of the GPU's driver; empty for the CPU."""


def read_devices(
    gpus: GpuReader, *, visible_gpus: str | None = None, root: Path = Path("/")
) -> tuple[DeviceInfo, ...]:
    """Return the GPUs, or the CPU alone where there are none; never empty.

    `visible_gpus` is the value of CUDA_VISIBLE_DEVICES: indices in the order of the PCI bus, or
    UUIDs; None for all. `root` is where `proc` and `sys` are.
    """
    chosen = _visible(gpus.read(), visible_gpus)
    if not chosen:
        return (read_cpu(root),)
    cores = max(1, usable_cores(root) // len(chosen))
    return tuple(
        DeviceInfo(
            index=gpu.index,
            kind="cuda",
            name=gpu.name,
            memory_total_bytes=gpu.memory_total_bytes,
            memory_free_bytes=gpu.memory_free_bytes,
            cores=cores,
            uuid=gpu.uuid,
            driver_version=gpu.driver_version,
        )
        for gpu in chosen
    )


def read_cpu(root: Path = Path("/")) -> DeviceInfo:
    """Return the CPU with what its container (cgroup v2, or v1 for memory) leaves of cores and memory.

    A limit of the process's own data (`ulimit -d`, systemd's LimitDATA) is one of its worker's, too.
    """
    total_bytes, free_bytes = _machine_memory(root)
    for group in _memory_groups_v1(root):
        limit = _read(group / "memory.limit_in_bytes").strip()
        if not limit.isdecimal() or int(limit) >= total_bytes:
            continue  # without a limit it is a number beyond any memory
        total_bytes = int(limit)
        free_bytes = min(free_bytes, max(0, total_bytes - _charged_bytes_v1(group)))
    for group in _cgroups(root):
        limit = _read(group / "memory.max").strip()
        if not limit.isdecimal():
            continue
        total_bytes = min(total_bytes, int(limit))
        free_bytes = min(free_bytes, max(0, int(limit) - _charged_bytes(group)))
    data_bytes = _data_limit(root)
    if data_bytes is not None:
        total_bytes, free_bytes = min(total_bytes, data_bytes), min(free_bytes, data_bytes)
    return DeviceInfo(
        index=0,
        kind="cpu",
        name=_cpu_name(root),
        memory_total_bytes=total_bytes,
        memory_free_bytes=free_bytes,
        cores=usable_cores(root),
    )


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy: its affinity, within cgroup v2's quota."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone has it
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for group in _cgroups(root):
        quota, _, period = _read(group / "cpu.max").strip().partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def resident_bytes(*, counts_once: bool = False) -> int:
    """Return the memory that this process holds; where the system does not say, the most it ever held.

    With `counts_once` shared pages that lie at several addresses count once, which takes milliseconds: Linux walks through all pages.
    """
    if counts_once:
        kib = _kib_of("status") | _kib_of("smaps_rollup")
        if "Pss_Shmem" in kib:  # before Linux 5.4 they count as often
            return (kib["RssAnon"] + kib["RssFile"] + kib["Pss_Shmem"]) * _KIB
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # macOS has no /proc, and counts in bytes there
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize()


def _kib_of(name: str) -> dict[str, int]:
    """Return the sizes in KiB that a file in /proc tells of this process."""
    lines = [line.split() for line in _read(Path("/proc/self") / name).splitlines()]
    return {line[0].rstrip(":"): int(line[1]) for line in lines if line[2:] == ["kB"]}


def _visible(gpus: tuple[Gpu, ...], visible_gpus: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA would show; like CUDA, stop at the first entry that names none."""
    if visible_gpus is None:
        return gpus
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in visible_gpus.split(",")):
        named = next((gpu for gpu in gpus if _names(entry, gpu)), None)
        if named is None or named in chosen:
            break
        chosen.append(named)
    return tuple(chosen)


def _names(entry: str, gpu: Gpu) -> bool:
    if entry.isdecimal():
        return int(entry) == gpu.index
    return entry.startswith("GPU-") and gpu.uuid.startswith(entry)


def _machine_memory(root: Path) -> tuple[int, int]:
    """Return the machine's total and available memory in bytes."""
    kib: dict[str, int] = {}
    for line in _read(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        number = value.split()[0] if value.split() else ""
        if number.isdecimal():
            kib[key] = int(number)
    if "MemTotal" in kib:
        total_bytes = kib["MemTotal"] * _KIB
        return total_bytes, kib.get("MemAvailable", kib["MemTotal"]) * _KIB
    # No /proc, as on macOS, which does not say what is free either.
    total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total_bytes, total_bytes


def _data_limit(root: Path) -> int | None:
    """Return how many bytes of data the kernel lets this process have; None: it sets no limit."""
    for line in _read(root / "proc/self/limits").splitlines():
        if line.startswith("Max data size"):
            soft = line.split()[3]
            return int(soft) if soft.isdecimal() else None
    return None


def _charged_bytes(group: Path) -> int:
    """Return what a group uses beyond the page cache that the kernel would drop (kubelet's working set)."""
    current = _read(group / "memory.current").strip()
    return max(0, int(current) - _droppable(group, "inactive_file")) if current.isdecimal() else 0


def _droppable(group: Path, name: str) -> int:
    """Return what a group's statistics say under `name`; 0: nothing."""
    for line in _read(group / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0


def _charged_bytes_v1(group: Path) -> int:
    """Return what a group of cgroup v1 uses beyond the page cache that the kernel would drop."""
    current = _read(group / "memory.usage_in_bytes").strip()
    return (
        max(0, int(current) - _droppable(group, "total_inactive_file"))
        if current.isdecimal()
        else 0
    )


def _memory_groups_v1(root: Path) -> Iterator[Path]:
    """Yield this process's memory folder of cgroup v1 and those above it; in a container the top one is its own."""
    mount = root / "sys/fs/cgroup/memory"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
            for count in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:count])
            return


def _cgroups(root: Path) -> Iterator[Path]:
    """Yield this process's cgroup v2 folder and those above it, each of which may set a limit."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::/"):
            parts = [part for part in line[len("0::/") :].split("/") if part not in {"", ".", ".."}]
            for count in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:count])
            return


def _cpu_name(root: Path) -> str:
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "CPU"


def _read(path: Path) -> str:
    """Return a kernel file's text, or nothing where this system has no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
