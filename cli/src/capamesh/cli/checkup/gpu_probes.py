"""Reads the facts of GPUs that `gpu` judges. IO: the driver, files, a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from capamesh.cli.checkup.gpu import LIBRARIES, GpuFact, GpuFacts
from capamesh.node.devices.nvml import GpuReader

TRIAL_S: Final = 60.0
"""The longest trial run (guess: a first start of CUDA takes some seconds; TensorRT is not tried)."""
LDCONFIG_S: Final = 5.0
"""The longest look at the system's libraries (guess)."""
_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"
"""The class of PCI devices that draw or compute, by its first byte."""


def gpu_facts(runtime_version: str, providers: tuple[str, ...], sample: Path) -> GpuFacts:
    """Return all facts of the GPUs; `sample` is the model that is tried on one where there is one."""
    reader = GpuReader()
    gpus = reader.read()
    facts = tuple(
        GpuFact(
            gpu.name,
            gpu.memory_total_bytes,
            gpu.memory_free_bytes,
            reader.is_partitioned(gpu.index),
        )
        for gpu in gpus
    )
    reader.close()
    has_gpu_runtime = "CUDAExecutionProvider" in providers
    return GpuFacts(
        gpus=facts,
        driver_version=gpus[0].driver_version if gpus else "",
        has_hardware=has_hardware(),
        has_gpu_runtime=has_gpu_runtime,
        found_libraries=tuple(found_libraries()) if gpus else (),
        trial=trial_of(sample) if gpus and has_gpu_runtime else None,
        runtime_version=runtime_version,
    )


def has_hardware(root: Path = Path("/")) -> bool:
    """Return whether the PCI bus has a display or compute device of NVIDIA; False without /sys."""
    return any(
        _read(device / "vendor").strip() == _NVIDIA and _read(device / "class").startswith(_DISPLAY)
        for device in (root / "sys/bus/pci/devices").glob("*")
    )


def found_libraries() -> Iterator[str]:
    """Yield those of `LIBRARIES` that lie where ONNX Runtime looks: in NVIDIA's packages, or where the system's loader does."""
    folders = [path for entry in sys.path for path in Path(entry).glob("nvidia/*/lib")]
    folders += [Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry]
    known = _known_to_the_loader()
    for name in LIBRARIES:
        if name in known or any((folder / name).exists() for folder in folders):
            yield name


def _known_to_the_loader() -> set[str]:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["/sbin/ldconfig", "-p"],
            capture_output=True,
            text=True,
            timeout=LDCONFIG_S,
            check=False,
        )
        return {line.split()[0] for line in done.stdout.splitlines() if "=>" in line}
    return set()


def trial_of(sample: Path) -> str | None:
    """Return why `sample` does not run on the first GPU; empty where it does, None where that takes too long.

    It runs in a process of its own: a driver that crashes or hangs takes that one with it.
    """
    command = (sys.executable, "-P", "-m", "capamesh.cli", "model", "check", str(sample))
    try:
        done = subprocess.run(  # noqa: S603 - this program itself, and a folder of its own
            [*command, "--device", "cuda", "--json"],
            capture_output=True,
            text=True,
            timeout=TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return trial_result(done.returncode, done.stdout)


def trial_result(status: int, printed: str) -> str:
    """Return the reason in what `capamesh model check --json` printed; empty where the model is good."""
    with suppress(ValueError, TypeError, KeyError, IndexError):
        verdict = cast("dict[str, Any]", json.loads(printed)[0])
        return "" if verdict["is_good"] else str(verdict["reason"])
    return f"the trial run ended with status {status}"


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace")
    return ""
