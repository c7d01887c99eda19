"""The checks of NVIDIA GPUs: driver, MIG, libraries, and whether a model runs there. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from capamesh.cli.checkup.findings import Finding, fail, ok, skip, warn
from capamesh.cli.printing import amount

LIBRARIES: Final = (
    "libcudart.so.13",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
)
"""The libraries that ONNX Runtime 1.31's CUDA provider is linked to, and cuDNN, which it opens for convolutions."""
MIN_DRIVER: Final = 580
"""The driver's first number with which CUDA 13 programs run (NVIDIA's CUDA Toolkit release notes, table of minor version compatibility)."""


@dataclass(frozen=True, slots=True)
class GpuFact:
    """One GPU as NVML tells of it."""

    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    is_partitioned: bool
    """True while MIG divides it."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """All that the checks of GPUs look at."""

    gpus: tuple[GpuFact, ...]
    driver_version: str
    """The driver's version; empty: none answers."""
    has_hardware: bool
    """True where the system shows an NVIDIA GPU, whatever the driver says."""
    has_gpu_runtime: bool
    """True where ONNX Runtime is built with the CUDA provider."""
    found_libraries: tuple[str, ...]
    trial: str | None
    """The reason why a small model did not run on the GPU; empty where it ran, None where that was not tried or took too long."""
    runtime_version: str

    @property
    def cuda_line(self) -> str:
        """The line that installs CUDA's libraries and cuDNN for the ONNX Runtime that is there."""
        return f"pip install 'onnxruntime-gpu[cuda,cudnn]=={self.runtime_version}'"


def check_gpus(facts: GpuFacts) -> tuple[Finding, ...]:
    """Return the findings on GPUs; one alone where there is none."""
    if not facts.gpus:
        return (_without_gpus(facts),)
    return (
        ok("gpu", "; ".join(map(_described, facts.gpus))),
        _driver(facts),
        _partitions(facts),
        _libraries(facts),
        _provider(facts),
    )


def _without_gpus(facts: GpuFacts) -> Finding:
    if facts.has_hardware:
        return fail("gpu", "an NVIDIA GPU is there, but its driver does not answer", "nvidia-smi")
    return ok("gpu", "no NVIDIA GPU; models run on the CPU")


def _described(gpu: GpuFact) -> str:
    return f"{gpu.name}, {amount(gpu.memory_free_bytes)} of {amount(gpu.memory_total_bytes)} free"


def _driver(facts: GpuFacts) -> Finding:
    number = re.match(r"\d+", facts.driver_version)
    if number is None:
        return warn("driver", "it does not say its version", "nvidia-smi")
    if int(number[0]) < MIN_DRIVER:
        return fail(
            "driver",
            f"{facts.driver_version}; CUDA 13 needs {MIN_DRIVER} or later",
            f"sudo apt-get install -y nvidia-driver-{MIN_DRIVER}",
        )
    return ok("driver", facts.driver_version)


def _partitions(facts: GpuFacts) -> Finding:
    count = sum(gpu.is_partitioned for gpu in facts.gpus)
    if not count:
        return ok("mig", "off")
    return warn(
        "mig",
        f"on for {count} of {len(facts.gpus)}: a node uses one instance of each, and takes its memory for the whole GPU's",
        "capamesh node run --memory-limit 8GiB ...",
    )


def _libraries(facts: GpuFacts) -> Finding:
    missing = [each for each in LIBRARIES if each not in facts.found_libraries]
    if missing:
        return fail("cuda libraries", f"not found: {', '.join(missing)}", facts.cuda_line)
    return ok("cuda libraries", "CUDA 13 and cuDNN 9 are there")


def _provider(facts: GpuFacts) -> Finding:
    name = "cuda provider"
    if not facts.has_gpu_runtime:
        return fail(name, "this ONNX Runtime is built without it", facts.cuda_line)
    if facts.trial is None:
        return skip(name, "the trial run did not end in time")
    if facts.trial:
        return fail(name, facts.trial, facts.cuda_line)
    return ok(name, "a small model runs on it")
