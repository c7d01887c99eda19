"""Reads NVIDIA GPUs through NVML: the only module that imports it. Talks to the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

import pynvml  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]  # has no types

_pynvml: Final = cast("Any", pynvml)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver sees it, whatever the environment hides from this process."""

    index: int
    """The number of the device in the order of the PCI bus."""
    uuid: str
    """`GPU-…`; names the card for good, also in CUDA_VISIBLE_DEVICES."""
    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    driver_version: str


class GpuReader:
    """Asks the driver again at each `read`; `library` stands in for pynvml in tests."""

    def __init__(self, library: Any = _pynvml) -> None:  # noqa: ANN401  # has no types
        self._library: Any = library
        self._is_open = False

    def read(self) -> tuple[Gpu, ...]:
        """Return every GPU that answers, by index; empty where there is no driver."""
        library = self._library
        try:
            if not self._is_open:
                library.nvmlInit()
                self._is_open = True
            driver_version = _text(library.nvmlSystemGetDriverVersion())
            count = int(library.nvmlDeviceGetCount())
        except library.NVMLError:
            self.close()
            return ()
        found = (self._gpu(index, driver_version) for index in range(count))
        return tuple(gpu for gpu in found if gpu is not None)

    def _gpu(self, index: int, driver_version: str) -> Gpu | None:
        """Return one GPU, or None where it has fallen off the bus or does not say its memory."""
        library = self._library
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
            memory = library.nvmlDeviceGetMemoryInfo(handle)
            return Gpu(
                index=index,
                uuid=_text(library.nvmlDeviceGetUUID(handle)),
                name=_text(library.nvmlDeviceGetName(handle)),
                memory_total_bytes=int(memory.total),
                memory_free_bytes=int(memory.free),
                driver_version=driver_version,
            )
        except library.NVMLError:
            return None

    def compute_capability(self, index: int) -> str:
        """Return what CUDA code the GPU at `index` runs, such as "8.6"; empty where the driver does not say."""
        library = self._library
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
            major, minor = library.nvmlDeviceGetCudaComputeCapability(handle)
        except library.NVMLError:
            return ""
        return f"{int(major)}.{int(minor)}"

    def is_partitioned(self, index: int) -> bool:
        """Return whether MIG divides the GPU at `index`; False where the driver does not say."""
        library = self._library
        try:
            current, _ = library.nvmlDeviceGetMigMode(library.nvmlDeviceGetHandleByIndex(index))
        except library.NVMLError:  # most GPUs have no MIG
            return False
        return bool(current)

    def close(self) -> None:
        """Let go of the driver; the next `read` opens it again."""
        if self._is_open:
            self._is_open = False
            try:
                self._library.nvmlShutdown()
            except self._library.NVMLError:
                return  # the driver is gone, and with it what was to be released


def _text(value: object) -> str:
    """Return a name: bytes from NVML bindings before version 12, text since."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
