"""Runs ONNX models with ONNX Runtime: the only module that imports it. Reads model files, uses devices.

Nothing in a model file runs as code on the host: libraries of operators are never registered, and no
format but ONNX is read.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]  # has no types
from onnxruntime.capi.onnxruntime_pybind11_state import (  # type: ignore[import-untyped]  # likewise
    InvalidArgument,  # pyright: ignore[reportUnknownVariableType]  # likewise
)

from capamesh.node.devices.host import read_cpu, resident_bytes
from capamesh.node.devices.nvml import Gpu, GpuReader
from capamesh.node.repository import ModelSource
from capamesh.node.repository.onnx_scan import Contents, contents_of, precision
from capamesh.node.runtime.api import LoadedModel, StopSwitch
from capamesh.node.runtime.onnxruntime.arena import ArenaWatch
from capamesh.node.runtime.onnxruntime.cuda_faults import device_loss
from capamesh.node.runtime.onnxruntime.io_binding import BoundRuns
from capamesh.node.runtime.onnxruntime.memory_errors import is_out_of_memory
from capamesh.node.runtime.onnxruntime.providers import (
    CPU,
    CUDA,
    CUDA_PROVIDERS,
    TENSORRT,
    DeviceLimits,
    engine_folder,
    provider_options,
    shrinking,
)
from capamesh.node.runtime.onnxruntime.raw_texts import (
    MAX_MODEL_BYTES,
    RawTextRuntime,
    RawTextSession,
)
from capamesh.node.runtime.reshaping import reshaped
from capamesh.node.runtime.signature import NotUtf8, Signature, cut, declared, texts
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    InvalidRequest,
    ModelInvalid,
    ModelUnavailable,
    RunFailed,
)
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

_Untyped = Any
"""An object of ONNX Runtime, which has no types."""

_ort: Final = cast("_Untyped", onnxruntime)
_INVALID_ARGUMENT: Final = cast("type[Exception]", InvalidArgument)

DeviceKind = Literal["cpu", "cuda"]

_PROVIDERS: Final[dict[str, tuple[str, ...]]] = {"cpu": (CPU,), "cuda": (CUDA,)}

_ONNX_BF16: Final = 16  # TensorProto.DataType.BFLOAT16 in onnx.proto
_LOG_FATAL: Final = 4  # errors reach us as exceptions; a caller must not fill the node's log
_SHRINK_KEY: Final = "memory.enable_memory_arena_shrinkage"
_HELD_BYTES: Final = 256 * 1024 * 1024
"""After a run that gave more, which no message carries, the pool gives back what it holds: others need it more."""
_EMPTY_TEXT_BYTES: Final = 4  # its length, on the wire
_COPIED_BYTES: Final = 4096  # measured: up to here a copy (0.1 µs) is cheaper than a view (0.16 µs)


def _unheard(loss: str) -> None:
    """Stand for an owner that need not know."""


class OnnxStopSwitch:
    """Ends one run of ONNX Runtime early; see `StopSwitch`."""

    __slots__ = ("_more", "is_used", "options")

    def __init__(self) -> None:
        self.options: _Untyped = _ort.RunOptions()
        self.is_used = False
        self._more: Callable[[], None] | None = None

    def stop(self) -> None:
        """End the run before its next operator; see `StopSwitch.stop`."""
        self.is_used = True
        self.options.terminate = True
        if self._more is not None:
            self._more()

    def also(self, stop: Callable[[], None]) -> None:
        """Have `stop` end the run, too; at once where the switch was used already."""
        self._more = stop
        if self.is_used:
            stop()


class OnnxBackend:
    """Loads models onto one device: the CPU, or the CUDA device `device_index`.

    `device_uuid` is the GPU's own name (`GPU-…`): CUDA_VISIBLE_DEVICES may make the index another than
    NVML's. `intra_op_threads` is how many threads share one run's work on the CPU. For the next two
    see `DeviceLimits`. `on_lost` is told, in the thread of a run or load that fails of it, that this process
    has lost the GPU for good. ConfigError: a value out of its range.
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
        self._on_lost = on_lost
        self._gpus = GpuReader()
        self._raw_sessions: WeakValueDictionary[str, RawTextSession] = WeakValueDictionary()
        """By digest: the models of one file share one."""

    @property
    def runtime(self) -> str:
        """What executes the models; see `Backend.runtime`."""
        return f"onnxruntime {_ort.__version__}"

    @property
    def streams(self) -> int:
        """See `Backend.streams`."""
        return self._intra_op_threads if self._device == "cpu" else 1

    def compute_capability(self) -> str:
        """Return the GPU's compute capability, such as "8.6"; empty for a CPU, or where its driver does not say."""
        gpu = self._gpu() if self._device == "cuda" else None
        return "" if gpu is None else self._gpus.compute_capability(gpu.index)

    def stop_switch(self) -> OnnxStopSwitch:
        """Return a new switch for one run."""
        return OnnxStopSwitch()

    def free_bytes(self) -> int:
        """Return the device's free memory; 0 where its driver does not say.

        It asks the system each time: 0.1 ms for the CPU (measured).
        """
        if self._device == "cpu":
            return read_cpu().memory_free_bytes
        gpu = self._gpu()
        return gpu.memory_free_bytes if gpu is not None else 0

    def used_bytes(self) -> int:
        """Return the memory in use; see `Backend.used_bytes`."""
        if self._device == "cpu":
            return resident_bytes()
        gpu = self._gpu()
        return gpu.memory_total_bytes - gpu.memory_free_bytes if gpu is not None else 0

    def load(self, source: ModelSource) -> LoadedModel:
        """Return the model at `source`, ready to run; see `Backend.load`."""
        return self._shaped(source, self._intra_op_threads)

    def load_stream(self, source: ModelSource) -> LoadedModel:
        """Return the model at `source` on one thread; see `Backend.load_stream`."""
        return self._shaped(source, 1)

    def _shaped(self, source: ModelSource, threads: int) -> LoadedModel:
        model = self._loaded(source, threads)
        try:
            return reshaped(model, source.declared)
        except ModelInvalid:
            model.close()
            raise

    def _loaded(self, source: ModelSource, threads: int) -> OnnxModel:
        wanted = source.manifest.providers or _PROVIDERS[self._device]
        may_fall_back = source.manifest.allow_cpu_fallback
        available = cast("list[str]", _ort.get_available_providers())
        usable = [name for name in wanted if name in available]
        if not usable and not may_fall_back:
            raise _not_on(wanted, f"this ONNX Runtime has only {', '.join(available)}")
        contents = _contents(source.path)
        self._make_engine_folder(usable, source.digest)
        try:
            session = _ort.InferenceSession(
                str(source.path),
                _session_options(threads),
                providers=[
                    (name, provider_options(name, self._limits, source.digest))
                    for name in usable or [CPU]
                ],
                enable_fallback=False,  # else a failing device turns into the CPU in mid-run
            )
            provider, has_its_work = _provider(session)
        except Exception as exc:  # ONNX Runtime's errors share no other base
            self._look_after_device(exc)
            raise ModelInvalid(f"ONNX Runtime cannot load it: {_one_line(exc)}") from exc
        if provider not in wanted and not may_fall_back:
            # Where a provider's libraries are missing, ONNX Runtime logs it and takes the CPU.
            why = f"ONNX Runtime fell back to {provider}, as its log above explains"
            raise _not_on(
                wanted, f"none of its operators can; {provider} takes all" if has_its_work else why
            )
        return OnnxModel(
            session,
            provider,
            contents,
            self._limits.device_index,
            self._look_after_device,
            self._raw_session(source, session) if provider == CPU else None,
        )

    def _raw_session(self, source: ModelSource, session: _Untyped) -> RawTextSession | None:
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
                raw = self._raw_sessions[source.digest] = RawTextSession(runtime, source.path)
            except RunFailed:
                return None  # of another version than the binding, it may lack an operator
        return raw

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


class OnnxModel:
    """One loaded model: a session of ONNX Runtime behind the `LoadedModel` protocol."""

    def __init__(
        self,
        session: _Untyped,
        provider: str,
        contents: Contents,
        device_index: int,
        on_error: Callable[[Exception], None],
        raw: RawTextSession | None = None,
    ) -> None:
        """`on_error` is told what ONNX Runtime raises in a run, in the thread of the run; `raw` runs other texts."""
        self.provider = provider
        self._on_error = on_error
        self.is_data_dependent = contents.is_data_dependent
        self.inputs = tuple(
            declared("input", arg.name, arg.type, arg.shape) for arg in session.get_inputs()
        )
        self.outputs = tuple(
            declared("output", arg.name, arg.type, arg.shape) for arg in session.get_outputs()
        )
        self.precision = precision(contents.weights, (*self.inputs, *self.outputs))
        self._signature = Signature(self.inputs, self.outputs, reads_texts=raw is None)
        self._raw = raw
        self._output_names = [spec.name for spec in self.outputs]
        self._output_datatypes = {spec.name: spec.datatype for spec in self.outputs}
        # Made once: options made for each run are 0.6 µs of a run of 6.4 (measured).
        self._options: _Untyped = _ort.RunOptions()
        self._shrinking: _Untyped = _ort.RunOptions()
        self._shrinking_value = shrinking(provider, device_index)
        self._shrinking.add_run_config_entry(_SHRINK_KEY, self._shrinking_value)
        self._has_bf16_output = Datatype.BF16 in self._output_datatypes.values()
        self._refuse_text_beside_bf16()
        self._arena = ArenaWatch()
        bound = None
        has_text = any(spec.datatype is Datatype.BYTES for spec in (*self.inputs, *self.outputs))
        if provider in CUDA_PROVIDERS and not has_text and not self._has_bf16_output:
            bound = BoundRuns(session, "cuda", device_index)
        # In one attribute, so that a thread that runs sees all or none while another closes.
        self._live: tuple[_Untyped, BoundRuns | None] | None = session, bound

    def _refuse_text_beside_bf16(self) -> None:
        # A BF16 output needs every input as an OrtValue (run), and there is none of text.
        named = [spec.name for spec in self.inputs if spec.datatype is Datatype.BYTES]
        if self._has_bf16_output and named:
            name = next(spec.name for spec in self.outputs if spec.datatype is Datatype.BF16)
            raise ModelInvalid(
                f"output {name!r} is bfloat16 beside the string input {named[0]!r}, which ONNX Runtime "
                "cannot return to Python: add a Cast to float after it"
            )

    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        """Check a request; see `LoadedModel.validate`."""
        self._signature.validate(inputs, outputs)

    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] = (),
        stop: StopSwitch | None = None,
    ) -> list[Tensor]:
        """Run the model; see `LoadedModel.run`. A switch of another backend stops nothing."""
        live = self._live
        if live is None:
            raise ModelUnavailable("the model has been unloaded")
        session, bound = live
        names = list(outputs) if outputs else self._output_names
        try:
            feed: dict[str, object] = {}
            size_bytes = 0
            for tensor in inputs:
                size_bytes += len(tensor.data)
                feed[tensor.name] = _fed(tensor)
            is_shrinking = self._arena.is_due(size_bytes)
            if not isinstance(stop, OnnxStopSwitch):
                options = self._shrinking if is_shrinking else self._options
            else:
                options = stop.options
                if is_shrinking:
                    options.add_run_config_entry(_SHRINK_KEY, self._shrinking_value)
            if self._has_bf16_output:
                return self._run_ort_values(session, feed, names, options)
            if bound is not None:
                values = bound.run(_wrapped(feed), names, options, keep_buffers=not is_shrinking)
            else:
                # The wrapper's own checks are a tenth of a small model's run (measured), and made above.
                values = session._sess.run(names, feed, options)  # noqa: SLF001  # no other way around them
        except (NotUtf8, UnicodeDecodeError) as exc:
            return self._run_raw(inputs, names, stop, exc)
        except CapameshError:
            raise
        except Exception as exc:  # ONNX Runtime's errors share no other base
            self._on_error(exc)
            if is_out_of_memory(exc):
                self._shrink(session)
                raise RunFailed(
                    f"the model's run needed more memory than this node has: {_one_line(exc)}"
                ) from exc
            if isinstance(stop, OnnxStopSwitch) and stop.is_used:
                raise RunFailed("the run was stopped before its end") from exc
            raise _run_error(exc) from exc
        results = self._tensors(names, values)
        if sum(tensor.size_bytes for tensor in results) > _HELD_BYTES:
            self._shrink(session)
        return results

    def give_back(self) -> None:
        """Give pooled memory back; see `LoadedModel.give_back`."""
        live = self._live
        if live is not None:
            self._shrink(live[0])

    def _shrink(self, session: _Untyped) -> None:
        """Let the session's pools shrink, which it does after a run: after one that ends before its first operator."""
        options: _Untyped = _ort.RunOptions()
        options.add_run_config_entry(_SHRINK_KEY, self._shrinking_value)
        options.terminate = True
        names = self._output_names
        feed = {spec.name: _fed(_smallest(spec)) for spec in self.inputs}
        with contextlib.suppress(Exception):  # that it was ended is an error of the runtime's
            if self._has_bf16_output:
                session.run_with_ort_values(names, _wrapped(feed), options)
            else:
                session._sess.run(names, feed, options)  # noqa: SLF001  # as in `run`

    def _run_raw(
        self,
        inputs: Sequence[Tensor],
        names: Sequence[str],
        stop: StopSwitch | None,
        error: NotUtf8 | UnicodeDecodeError,
    ) -> list[Tensor]:
        """Run with texts that the Python binding can neither take nor give, which `error` has told."""
        raw = self._raw
        if raw is None:
            if isinstance(error, NotUtf8):
                raise error
            raise RunFailed(
                "an output has text that is not UTF-8, which ONNX Runtime's Python binding cannot return"
            ) from error
        switch = stop if isinstance(stop, OnnxStopSwitch) else OnnxStopSwitch()
        try:
            return raw.run(inputs, names, switch.also)
        except RunFailed as exc:
            if switch.is_used:
                raise RunFailed("the run was stopped before its end") from exc
            raise

    def _run_ort_values(
        self, session: _Untyped, feed: dict[str, Any], names: list[str], options: _Untyped
    ) -> list[Tensor]:
        """Run with OrtValues on both sides: `session.run` cannot return bfloat16."""
        results: list[Tensor] = []
        values = session.run_with_ort_values(names, _wrapped(feed), options)
        for name, value in zip(names, values, strict=True):
            if self._output_datatypes[name] is not Datatype.BF16:
                results += self._tensors([name], [value.numpy()])
                continue
            if value.device_name().lower() != "cpu":
                raise RunFailed(
                    f"output {name!r} stayed on {value.device_name()}, expected the CPU"
                )
            size_bytes = value.tensor_size_in_bytes()
            raw = ctypes.string_at(value.data_ptr(), size_bytes) if size_bytes else b""
            results.append(Tensor(name, Datatype.BF16, tuple(value.shape()), raw))
        return results

    def _tensors(self, names: list[str], arrays: Sequence[npt.NDArray[Any]]) -> list[Tensor]:
        datatypes = self._output_datatypes
        results: list[Tensor] = []
        for name, array in zip(names, arrays, strict=True):
            datatype = datatypes[name]
            if datatype is Datatype.BYTES:
                results.append(Tensor.from_numpy(name, array))
            elif array.nbytes <= _COPIED_BYTES:
                results.append(Tensor(name, datatype, array.shape, array.tobytes()))
            else:  # a view that keeps the array alive
                results.append(Tensor(name, datatype, array.shape, array.data.cast("B")))
        return results

    def close(self) -> None:
        """Let go of the session; runs in progress hold it until they end."""
        if self._live is not None:
            self._live = None
            self._raw = None
            _trim()


@functools.cache
def _raw_text_runtime() -> RawTextRuntime | None:
    """Return ONNX Runtime's C interface where its package brings the library; None where it does not."""
    folder = Path(_ort.__file__).parent / "capi"
    for library in sorted(folder.glob("libonnxruntime.so*")):
        with contextlib.suppress(OSError, RunFailed):
            return RawTextRuntime(library)
    return None


def _session_options(threads: int) -> object:
    options = _ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_FATAL
    # Within a run threads spin for their next share of work (measured: a run of a MiniLM takes 6.6 ms
    # instead of 8.9 on two cores); between runs they leave the cores to other models and the links.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # The store has read the file as ONNX; another format in it must not be tried.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _contents(path: Path) -> Contents:
    try:
        with path.open("rb") as stream:
            return contents_of(stream)
    except OSError as exc:
        raise ModelInvalid(f"its file cannot be read: {exc}") from exc


def _provider(session: _Untyped) -> tuple[str, bool]:
    """Return the best provider that was given operators, and whether a better one was given none.

    A graph without any operator is told as the best provider's.
    """
    providers = cast("list[str]", session.get_providers())
    busy = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    for provider in providers:
        if provider in busy:
            return provider, provider != providers[0]
    return providers[0], False


def _fed(tensor: Tensor) -> object:
    """Return what `session.run` takes for `tensor`: a view of its bytes, except for text."""
    datatype = tensor.datatype
    if datatype is Datatype.BYTES:
        return texts(tensor)
    array: npt.NDArray[Any] = np.ndarray(tensor.shape, datatype.numpy_dtype, tensor.data)
    # A slice of a frame may start anywhere; kernels expect whole elements at their own addresses.
    if not array.flags.aligned:
        array = array.copy()
    if datatype is Datatype.BF16:
        return _ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BF16)
    return array


def _smallest(spec: TensorSpec) -> Tensor:
    """Return a tensor that the runtime takes for an input, with one element where its size is open."""
    shape = tuple(max(dim, 1) if dim < 0 else dim for dim in spec.shape)
    size_bytes = math.prod(shape) * (spec.datatype.itemsize_bytes or _EMPTY_TEXT_BYTES)
    return Tensor(spec.name, spec.datatype, shape, bytes(size_bytes))


def _wrapped(feed: dict[str, Any]) -> dict[str, _Untyped]:
    """Return `feed` with OrtValues alone, which share the arrays' memory."""
    wrap = _ort.OrtValue.ortvalue_from_numpy
    return {
        name: wrap(value) if isinstance(value, np.ndarray) else value
        for name, value in feed.items()
    }


def _trim() -> None:
    """Give freed memory back to the system, in up to 5 ms.

    Without it 20 loads and unloads of a 50 MB model left 6 to 35 MB (measured).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc alone has it
        trim(0)


def _run_error(error: Exception) -> CapameshError:
    if isinstance(error, _INVALID_ARGUMENT):
        return InvalidRequest(f"ONNX Runtime refuses the inputs: {_one_line(error)}")
    return RunFailed(f"the model's run failed: {_one_line(error)}")


def _not_on(wanted: Sequence[str], why: str) -> ModelInvalid:
    hint = "; for CUDA install capamesh[cuda] and a driver" if CUDA in wanted else ""
    return ModelInvalid(
        f"it should run on {' or '.join(wanted)}, but {why}{hint}; "
        "`allow_cpu_fallback = true` in its capamesh.toml accepts the CPU"
    )


def _one_line(error: Exception) -> str:
    return cut(" ".join(str(error).removeprefix("[ONNXRuntimeError] : ").split()))
