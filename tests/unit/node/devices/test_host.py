"""Devices from a pretended driver, and the CPU from a pretended /proc and /sys."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from capamesh.node.devices.host import DeviceInfo, read_cpu, read_devices, usable_cores
from capamesh.node.devices.nvml import Gpu, GpuReader

GIB = 2**30


@dataclass
class Card:
    name: str | bytes
    uuid: str
    total: int
    free: int


class NVMLError(Exception):
    """As pynvml raises for everything."""


def driver(*cards: Card | None) -> SimpleNamespace:
    """Return what stands in for pynvml; None is a card that is lost."""

    def handle(index: int) -> Card:
        card = cards[index]
        if card is None:
            raise NVMLError("GPU is lost")
        return card

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.65.06",
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetName=lambda card: card.name,
        nvmlDeviceGetUUID=lambda card: card.uuid,
        nvmlDeviceGetMemoryInfo=lambda card: card,
    )


H100 = Card("NVIDIA H100", "GPU-aaaa-1", 80 * GIB, 79 * GIB)
L4 = Card(b"NVIDIA L4", "GPU-bbbb-2", 24 * GIB, 20 * GIB)

MEMINFO = "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\nHugePages: 0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the root of a machine with 16 GiB, 8 GiB of them available, 8 cores and no limits."""
    put(tmp_path / "proc/meminfo", MEMINFO)
    put(tmp_path / "proc/cpuinfo", "processor : 0\nmodel name\t: Fast CPU @ 3 GHz\n")
    return tmp_path


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_every_gpu_of_the_driver_is_a_device_and_they_share_the_cores(root: Path) -> None:
    assert read_devices(GpuReader(driver(H100, L4)), root=root) == (
        DeviceInfo(0, "cuda", "NVIDIA H100", 80 * GIB, 79 * GIB, 4, "GPU-aaaa-1", "580.65.06"),
        DeviceInfo(1, "cuda", "NVIDIA L4", 24 * GIB, 20 * GIB, 4, "GPU-bbbb-2", "580.65.06"),
    )


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["GPU-aaaa-1", "GPU-bbbb-2"]),
        ("1,0", ["GPU-bbbb-2", "GPU-aaaa-1"]),
        (" GPU-bbbb ", ["GPU-bbbb-2"]),
        ("0,7,1", ["GPU-aaaa-1"]),
        ("-1", [""]),
    ],
)
def test_cuda_visible_devices_is_obeyed(
    root: Path, visible: str | None, expected: list[str]
) -> None:
    devices = read_devices(GpuReader(driver(H100, L4)), visible_gpus=visible, root=root)
    assert [device.uuid for device in devices] == expected
    assert devices[0].kind == ("cuda" if expected[0] else "cpu")


def test_lost_gpu_does_not_hide_the_others() -> None:
    gpus = GpuReader(driver(None, H100)).read()
    assert gpus == (Gpu(1, "GPU-aaaa-1", "NVIDIA H100", 80 * GIB, 79 * GIB, "580.65.06"),)


def test_memory_limit_of_a_container_counts_and_its_page_cache_is_free(root: Path) -> None:
    group = root / "sys/fs/cgroup/pod/worker"
    put(root / "proc/self/cgroup", "1:name=systemd:/x\n0::/pod/worker\n")
    put(group / "memory.max", f"{4 * GIB}\n")
    put(group / "memory.current", f"{3 * GIB}\n")
    put(group / "memory.stat", f"anon 5\ninactive_file {1 * GIB}\nactive_file 7\n")
    cpu = read_cpu(root)
    assert (cpu.memory_total_bytes, cpu.memory_free_bytes) == (4 * GIB, 2 * GIB)


def test_tightest_limit_up_the_tree_counts_and_max_is_none(root: Path) -> None:
    mount = root / "sys/fs/cgroup"
    put(root / "proc/self/cgroup", "0::/pod/worker\n")
    put(mount / "pod/worker/memory.max", "max\n")
    put(mount / "pod/memory.max", f"{2 * GIB}\n")
    put(mount / "pod/memory.current", f"{3 * GIB}\n")
    put(mount / "memory.max", f"{64 * GIB}\n")
    cpu = read_cpu(root)
    assert (cpu.memory_total_bytes, cpu.memory_free_bytes) == (2 * GIB, 0)


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("", 8)]
)
def test_cores_are_the_affinity_within_the_quota(root: Path, quota: str, cores: int) -> None:
    put(root / "proc/self/cgroup", "0::/\n")
    put(root / "sys/fs/cgroup/cpu.max", quota)
    assert usable_cores(root) == cores


def test_cgroup_path_never_leads_out_of_the_mount(root: Path) -> None:
    put(root / "proc/self/cgroup", "0::/../../etc\n")
    put(root / "sys/etc/memory.max", "1\n")
    assert read_cpu(root).memory_total_bytes == 16 * GIB


def test_memory_limit_of_a_container_of_cgroup_v1_counts_wherever_it_is_set(root: Path) -> None:
    put(root / "proc/self/cgroup", "5:cpu:/a\n4:name=x,memory:/docker/abc\n0::/\n")
    group = root / "sys/fs/cgroup/memory"
    put(group / "memory.limit_in_bytes", f"{2 * GIB}\n")  # as a container sees its own
    put(group / "memory.usage_in_bytes", f"{GIB}\n")
    put(group / "memory.stat", f"cache 1\ntotal_inactive_file {GIB // 4}\n")
    device = read_cpu(root)
    assert device.memory_total_bytes == 2 * GIB
    assert device.memory_free_bytes == 2 * GIB - (GIB - GIB // 4)
    put(group / "docker/abc/memory.limit_in_bytes", f"{GIB}\n")  # as the machine sees it
    put(group / "docker/abc/memory.usage_in_bytes", f"{GIB // 2}\n")
    device = read_cpu(root)
    assert (device.memory_total_bytes, device.memory_free_bytes) == (GIB, GIB // 2)


def test_limit_of_the_process_s_own_data_counts(root: Path) -> None:
    def limited(soft: str) -> tuple[int, int]:
        line = f"Max data size             {soft:<20} unlimited            bytes     \n"
        (root / "proc/self").mkdir(exist_ok=True)
        (root / "proc/self/limits").write_text(f"Limit  Soft Limit  Hard Limit  Units\n{line}")
        device = read_cpu(root)
        return device.memory_total_bytes, device.memory_free_bytes

    unlimited = limited("unlimited")
    assert min(unlimited) > 1_000_000
    assert limited("1000000") == (1_000_000, 1_000_000)
