"""Loads ONNX models with ONNX Runtime. Reads model files, uses devices.

Nothing in a model file runs as code on the host: libraries of operators are never registered, and no
format but ONNX is read.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, cast
from weakref import WeakValueDictionary

from typing_extensions import override

from capamesh.node.devices.host import read_cpu, resident_bytes
from capamesh.node.devices.nvml import Gpu, GpuReader
from capamesh.node.repository import ModelSource
from capamesh.node.runtime.api import Backend, LoadedModel, OutOfMemory
from capamesh.node.runtime.onnxruntime.binding import Untyped, locale_hint, one_line, ort
from capamesh.node.runtime.onnxruntime.decoder_loading import load_decoder
from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderDevice, NotOnDevice
from capamesh.node.runtime.onnxruntime.faults import device_loss, is_out_of_memory
from capamesh.node.runtime.onnxruntime.model import OnnxModel, OnnxStopSwitch
from capamesh.node.runtime.onnxruntime.preload import CUDA_LINE, read_in_cuda
from capamesh.node.runtime.onnxruntime.providers import (
    CPU,
    CUDA,
    TENSORRT,
    DeviceLimits,
    engine_folder,
    provider_options,
)
from capamesh.node.runtime.onnxruntime.raw_texts import (
    MAX_MODEL_BYTES,
    RawTextRuntime,
    RawTextSession,
)
from capamesh.node.runtime.onnxruntime.sessions import session_options
from capamesh.node.runtime.onnxruntime.slot_memory import has_repeated_slots
from capamesh.node.runtime.reshaping import reshaped
from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder
from capamesh.protocol.errors import ConfigError, ModelInvalid, RunFailed
from capamesh.protocol.tasks import Task

DeviceKind = Literal["cpu", "cuda"]

_PROVIDERS: Final[dict[str, tuple[str, ...]]] = {"cpu": (CPU,), "cuda": (CUDA,)}


def _unheard(loss: str) -> None:
    """Stand for an owner that need not know."""


def _unheard_fallback(source: ModelSource, reason: str) -> None:
    """Stand for an owner that need not know."""


class OnnxBackend(Backend):
    """Loads models onto one device: the CPU, or the CUDA device `device_index`.

    `device_uuid` is the GPU's own name (`GPU-…`): CUDA_VISIBLE_DEVICES may make the index another than
    NVML's. `intra_op_threads` is how many threads share one run's work on the CPU. For the next two
    see `DeviceLimits`. `on_lost` is told, in the thread of a run or load that fails of it, that this process
    has lost the GPU for good; `on_fallback`, in the thread of the load, that a model which may use the CPU does so, and why.
    ConfigError: a value out of its range.
    """

    def __init__(
        self,
        device: DeviceKind = "cpu",
        *,
        device_index: int = 0,
        device_uuid: str = "",
        intra_op_threads: int = 1,
        memory_limit_bytes: int = 0,
        cache_folder: Path | None = None,
        on_lost: Callable[[str], None] = _unheard,
        on_fallback: Callable[[ModelSource, str], None] = _unheard_fallback,
    ) -> None:
        if device not in _PROVIDERS:
            raise ConfigError(f"device {device!r} is unknown; it is one of {', '.join(_PROVIDERS)}")
        if intra_op_threads < 1:
            raise ConfigError(f"intra_op_threads is {intra_op_threads}; it must be at least 1")
        if memory_limit_bytes < 0:
            raise ConfigError(f"memory_limit_bytes is {memory_limit_bytes}; 0 is for no limit")
        self._device = device
        self._device_uuid = device_uuid
        self._limits = DeviceLimits(device_index, memory_limit_bytes, cache_folder)
        self._intra_op_threads = intra_op_threads
        self.runtime = f"onnxruntime {ort.__version__}"
        self.streams = intra_op_threads if device == "cpu" else 1
        self._on_lost = on_lost
        self._on_fallback = on_fallback
        self.default_provider = _PROVIDERS[device][0]
        self.missing_libraries = read_in_cuda() if device == "cuda" else ()
        """The libraries of CUDA that could not be read in, each with the reason."""
        self._gpus = GpuReader()
        self._raw_sessions: WeakValueDictionary[str, RawTextSession] = WeakValueDictionary()
        """The raw sessions by digest: the models of one file share one."""

    @override
    def compute_capability(self) -> str:
        gpu = self._gpu() if self._device == "cuda" else None
        return "" if gpu is None else self._gpus.compute_capability(gpu.index)

    @override
    def stop_switch(self) -> OnnxStopSwitch:
        return OnnxStopSwitch()

    @override
    def free_bytes(self) -> int:
        """Return the device's free memory; 0 where its driver does not say.

        It asks the system each time: 0.1 ms for the CPU (measured).
        """
        if self._device == "cpu":
            return read_cpu().memory_free_bytes
        gpu = self._gpu()
        return gpu.memory_free_bytes if gpu is not None else 0

    @override
    def used_bytes(self) -> int:
        if self._device == "cpu":
            return resident_bytes(counts_once=has_repeated_slots())
        gpu = self._gpu()
        return gpu.memory_total_bytes - gpu.memory_free_bytes if gpu is not None else 0

    @override
    def load(self, source: ModelSource) -> LoadedModel:
        if source.manifest.task.task is Task.CHAT:
            return self._decoder(source)
        return self._shaped(source, self._intra_op_threads)

    @override
    def load_stream(self, source: ModelSource) -> LoadedModel:
        return self._shaped(source, 1)

    def _shaped(self, source: ModelSource, threads: int) -> LoadedModel:
        model = self._loaded(source, threads)
        try:
            return reshaped(model, source.declared)
        except ModelInvalid:
            model.close()
            raise

    def _decoder(self, source: ModelSource) -> LoadedDecoder:
        """Return a language model, which is run by CUDA where that is wanted and can, and else by the CPU."""
        wanted = source.manifest.providers or _PROVIDERS[self._device]
        threads = self._intra_op_threads
        if self._device != "cpu" and wanted[0] != CPU:
            try:
                return load_decoder(
                    source,
                    threads=threads,
                    free_bytes=self._free_for_slots(),
                    device=self._decoder_device(source, wanted),
                )
            except NotOnDevice as error:
                why = f"it should run on {' or '.join(wanted)}, but {error.message}{self._missing(wanted)}"
                if CPU not in wanted and not source.manifest.allow_cpu_fallback:
                    raise _not_on(why) from error
                self._on_fallback(source, why)
        return load_decoder(source, threads=threads, free_bytes=read_cpu().memory_free_bytes)

    def _decoder_device(self, source: ModelSource, wanted: Sequence[str]) -> DecoderDevice:
        """Return CUDA as what runs a decoder. Raises `NotOnDevice`: it is not wanted, or not there."""
        if CUDA not in wanted:
            raise NotOnDevice(f"decoders run on {CUDA} and {CPU}")
        available = cast("list[str]", ort.get_available_providers())
        if CUDA not in available:
            raise NotOnDevice(f"this ONNX Runtime has only {', '.join(available)}")
        options = provider_options(CUDA, self._limits, source.digest)
        return DecoderDevice(
            CUDA,
            tuple(options.items()),
            ("cuda", self._limits.device_index),
            is_apart=True,
            on_error=self._look_after_device,
        )

    def _free_for_slots(self) -> int:
        """Return the bytes of the GPU that a model and its slots may take together."""
        free_bytes, limit_bytes = self.free_bytes(), self._limits.memory_limit_bytes
        return min(free_bytes, limit_bytes) if limit_bytes else free_bytes

    def _loaded(self, source: ModelSource, threads: int) -> OnnxModel:
        wanted = source.manifest.providers or _PROVIDERS[self._device]
        may_fall_back = source.manifest.allow_cpu_fallback
        available = cast("list[str]", ort.get_available_providers())
        usable = [name for name in wanted if name in available]
        if not usable and not may_fall_back:
            lacks = f"this ONNX Runtime has only {', '.join(available)}{self._missing(wanted)}"
            raise _not_on(f"it should run on {' or '.join(wanted)}, but {lacks}")
        self._make_engine_folder(usable, source.digest)
        try:
            with source.content.reading() as path:
                session, provider, has_its_work = self._session(
                    path, source.digest, usable or [CPU], threads
                )
                raw = self._raw_session(source, path, session) if provider == CPU else None
        except OSError as exc:
            raise ModelInvalid(f"its file cannot be read: {exc}") from exc
        if provider != wanted[0]:
            # Where a provider's libraries are missing, ONNX Runtime takes the next one without an error.
            why = _why_not_on(wanted, provider, self._missing(wanted), has_its_work=has_its_work)
            if provider not in wanted and not may_fall_back:
                raise _not_on(why)
            self._on_fallback(source, why)
        return OnnxModel(
            session,
            provider,
            source.content.onnx,
            self._limits.device_index,
            self._look_after_device,
            raw,
        )

    def _session(
        self, path: Path, digest: str, providers: Sequence[str], threads: int
    ) -> tuple[Untyped, str, bool]:
        """Return a session of the file at `path`, and what `_provider` says of it."""
        try:
            session = ort.InferenceSession(
                str(path),
                session_options(threads),
                providers=[
                    (name, provider_options(name, self._limits, digest)) for name in providers
                ],
                enable_fallback=False,  # else a failing device turns into the CPU in mid-run
            )
            return session, *_provider(session)
        except Exception as exc:  # ONNX Runtime's errors share no other base
            self._look_after_device(exc)
            refusal = OutOfMemory if is_out_of_memory(exc) else ModelInvalid
            raise refusal(
                f"ONNX Runtime cannot load it: {one_line(exc)}{locale_hint(exc)}"
            ) from exc

    def _raw_session(
        self, source: ModelSource, path: Path, session: Untyped
    ) -> RawTextSession | None:
        """Return what runs the model with texts that are no UTF-8; None where it takes no texts, or nothing can."""
        takes_texts = any(arg.type == "tensor(string)" for arg in session.get_inputs())
        if not takes_texts or source.size_bytes > MAX_MODEL_BYTES:
            return None
        runtime = _raw_text_runtime()
        if runtime is None:
            return None
        raw = self._raw_sessions.get(source.digest)
        if raw is None:
            try:
                raw = self._raw_sessions[source.digest] = RawTextSession(runtime, path)
            except RunFailed:
                return None  # of another version than the binding, it may lack an operator
        return raw

    def _missing(self, wanted: Sequence[str]) -> str:
        """Return which library of CUDA was missed first, and the line that installs them all; empty where CUDA is not wanted."""
        if CUDA not in wanted:
            return ""
        first = "".join(f"; {each}" for each in self.missing_libraries[:1])
        return (
            f"{first}; for CUDA: {CUDA_LINE}, and a driver; capamesh doctor says which is missing"
        )

    def _look_after_device(self, error: Exception) -> None:
        if self._device == "cuda" and (loss := device_loss(error)):
            self._on_lost(loss)

    def _gpu(self) -> Gpu | None:
        for gpu in self._gpus.read():
            if self._device_uuid:
                is_ours = gpu.uuid == self._device_uuid
            else:
                is_ours = gpu.index == self._limits.device_index
            if is_ours:
                return gpu
        return None

    def _make_engine_folder(self, providers: Sequence[str], digest: str) -> None:
        cache_folder = self._limits.cache_folder
        if TENSORRT not in providers or cache_folder is None:
            return
        folder = engine_folder(cache_folder, digest)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ModelInvalid(
                f"the folder for its compiled engines cannot be made: {exc}"
            ) from exc
        with contextlib.suppress(OSError):
            os.utime(folder)  # whoever removes old ones sees that it is in use


@functools.cache
def _raw_text_runtime() -> RawTextRuntime | None:
    """Return ONNX Runtime's C interface where its package brings the library; None where it does not."""
    folder = Path(ort.__file__).parent / "capi"
    for library in sorted(folder.glob("libonnxruntime.so*")):
        with contextlib.suppress(OSError, RunFailed):
            return RawTextRuntime(library)
    return None


def _provider(session: Untyped) -> tuple[str, bool]:
    """Return the best provider that was given operators, and whether a better one was given none.

    A graph without any operator is told as the best provider's.
    """
    providers = cast("list[str]", session.get_providers())
    busy = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    for provider in providers:
        if provider in busy:
            return provider, provider != providers[0]
    return providers[0], False


def _why_not_on(wanted: Sequence[str], provider: str, missing: str, *, has_its_work: bool) -> str:
    """Return why `provider` runs a model which should run on another; `has_its_work`: the better one took no operator."""
    why = f"none of its operators can; {provider} takes all"
    if not has_its_work:
        why = f"ONNX Runtime fell back to {provider}{missing}"
    return f"it should run on {' or '.join(wanted)}, but {why}"


def _not_on(why: str) -> ModelInvalid:
    return ModelInvalid(f"{why}; `allow_cpu_fallback = true` in its capamesh.toml accepts the CPU")
