"""Says in a worker's log which device its models run on, and why one does not. Writes to the log alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.node.runtime.onnxruntime.preload import CUDA_LINE

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.contract.messages import Start
    from capamesh.node.repository import ModelSource
    from capamesh.node.runtime.onnxruntime.backend import OnnxBackend


def log_device(log: FilteringBoundLogger, start: Start, backend: OnnxBackend) -> None:
    """Say what this worker runs models on, and which libraries of CUDA it lacks, with the line that installs them."""
    is_gpu = start.device_kind == "cuda"
    log.info(
        "device",
        kind=start.device_kind,
        name=start.device_name,
        provider=backend.default_provider,
        because="the NVIDIA driver shows it" if is_gpu else "the NVIDIA driver shows no GPU",
    )
    if backend.missing_libraries:
        log.error("cuda_libraries_missing", missing=list(backend.missing_libraries), run=CUDA_LINE)


def log_fallback(log: FilteringBoundLogger, source: ModelSource, reason: str) -> None:
    """Say that a model runs on the CPU which should not, but may."""
    log.warning("model_fell_back", model=source.name, version=source.version, reason=reason)
