"""Runs ONNX models with ONNX Runtime: the only module that imports it. Reads model files, uses devices."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final, Literal, NoReturn, cast

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]  # has no types
from onnxruntime.capi.onnxruntime_pybind11_state import (  # type: ignore[import-untyped]  # likewise
    InvalidArgument,  # pyright: ignore[reportUnknownVariableType]  # likewise
)

from capamesh.node.store import ModelSource
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    InvalidRequest,
    ModelInvalid,
    ModelUnavailable,
    RunFailed,
)
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec, split_elements

_Untyped = Any
"""An object of ONNX Runtime, which has no types."""

_ort: Final = cast("_Untyped", onnxruntime)
_INVALID_ARGUMENT: Final = cast("type[Exception]", InvalidArgument)

DeviceKind = Literal["cpu", "cuda"]

_CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"
_PROVIDERS: Final[dict[str, tuple[str, ...]]] = {"cpu": (_CPU,), "cuda": (_CUDA,)}

_DATATYPES: Final = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(bfloat16)": Datatype.BF16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}
_ONNX_BF16: Final = 16  # TensorProto.DataType.BFLOAT16 in onnx.proto
_LOG_FATAL: Final = 4  # errors reach us as exceptions; a caller must not fill the node's log
_SHOWN_CHARS: Final = 500  # guess: how much of a runtime's message or a model's signature helps


class OnnxBackend:
    """Loads models onto one device: the CPU, or the CUDA device `device_index`.

    `intra_op_threads` is how many threads share one run's work on the CPU.
    """

    def __init__(
        self, device: DeviceKind = "cpu", *, device_index: int = 0, intra_op_threads: int = 1
    ) -> None:
        if device not in _PROVIDERS:
            raise ConfigError(f"device {device!r} is unknown; it is one of {', '.join(_PROVIDERS)}")
        if intra_op_threads < 1:
            raise ConfigError(f"intra_op_threads is {intra_op_threads}; it must be at least 1")
        self._device = device
        self._device_index = device_index
        self._intra_op_threads = intra_op_threads

    def load(self, source: ModelSource) -> OnnxModel:
        """Return the model at `source`, ready to run; see `Backend.load`."""
        wanted = source.manifest.providers or _PROVIDERS[self._device]
        may_fall_back = source.manifest.allow_cpu_fallback
        available = cast("list[str]", _ort.get_available_providers())
        usable = [name for name in wanted if name in available]
        if not usable and not may_fall_back:
            raise _not_on(wanted, f"this ONNX Runtime has only {', '.join(available)}")
        try:
            session = _ort.InferenceSession(
                str(source.path),
                self._session_options(),
                providers=[(name, self._provider_options(name)) for name in usable or [_CPU]],
                enable_fallback=False,  # else a failing device turns into the CPU in mid-run
            )
        except Exception as exc:  # ONNX Runtime's errors share no other base
            raise ModelInvalid(f"ONNX Runtime cannot load it: {_one_line(exc)}") from exc
        # Where a provider's libraries are missing, ONNX Runtime logs it and takes the CPU.
        provider = cast("str", session.get_providers()[0])
        if provider not in wanted and not may_fall_back:
            raise _not_on(
                wanted, f"ONNX Runtime fell back to {provider}, as its log above explains"
            )
        return OnnxModel(session, provider)

    def _session_options(self) -> object:
        options = _ort.SessionOptions()
        options.intra_op_num_threads = self._intra_op_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_FATAL
        # Idle threads that spin would take the cores that other models and the links need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The store has read the file as ONNX; another format in it must not be tried.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        return options

    def _provider_options(self, provider: str) -> dict[str, str]:
        match provider:
            case "CUDAExecutionProvider":
                return {
                    "device_id": str(self._device_index),
                    # Doubling, the default, would claim memory that other models need.
                    "arena_extend_strategy": "kSameAsRequested",
                    # EXHAUSTIVE, the default, measures anew for every batch size.
                    "cudnn_conv_algo_search": "HEURISTIC",
                }
            case "TensorrtExecutionProvider":
                return {"device_id": str(self._device_index)}
            case _:
                return {}


class OnnxModel:
    """One loaded model: a session of ONNX Runtime behind the `LoadedModel` protocol."""

    def __init__(self, session: _Untyped, provider: str) -> None:
        self._session: _Untyped = session
        self.provider = provider
        self.inputs = tuple(_spec("input", arg) for arg in session.get_inputs())
        self.outputs = tuple(_spec("output", arg) for arg in session.get_outputs())
        self._inputs_by_name = {spec.name: spec for spec in self.inputs}
        self._output_names = [spec.name for spec in self.outputs]
        self._output_datatypes = {spec.name: spec.datatype for spec in self.outputs}
        self._has_bf16_output = Datatype.BF16 in self._output_datatypes.values()
        self._refuse_text_beside_bf16()

    def _refuse_text_beside_bf16(self) -> None:
        # A BF16 output needs every input as an OrtValue (run), and there is none of text.
        texts = [spec.name for spec in self.inputs if spec.datatype is Datatype.BYTES]
        if self._has_bf16_output and texts:
            name = next(spec.name for spec in self.outputs if spec.datatype is Datatype.BF16)
            raise ModelInvalid(
                f"output {name!r} is bfloat16 beside the string input {texts[0]!r}, which ONNX Runtime "
                "cannot return to Python: add a Cast to float after it"
            )

    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        """Check a request; see `LoadedModel.validate`."""
        given: set[str] = set()
        for tensor in inputs:
            name = tensor.name
            spec = self._inputs_by_name.get(name)
            if spec is None:
                self._refuse(f"the model has no input {name[:_SHOWN_CHARS]!r}")
            if name in given:
                self._refuse(f"input {name!r} is given twice")
            given.add(name)
            # ONNX Runtime reports a scalar and an input of any rank alike, as []: it judges those.
            shape = tensor.shape if spec.shape else ()
            if reason := spec.accepts(tensor.datatype, shape):
                self._refuse(reason)
            if tensor.datatype is Datatype.BYTES:
                _texts(tensor)
        if len(given) != len(self.inputs):
            missing = [spec.name for spec in self.inputs if spec.name not in given]
            self._refuse(_cut(f"inputs {missing} are missing"))
        if len(set(outputs)) != len(outputs):
            raise InvalidRequest(f"an output is asked for twice: {_cut(str(list(outputs)))}")
        for name in outputs:
            if name not in self._output_datatypes:
                raise InvalidRequest(
                    f"the model has no output {name[:_SHOWN_CHARS]!r}; its outputs are "
                    f"{_described(self.outputs)}"
                )

    def _refuse(self, reason: str) -> NoReturn:
        raise InvalidRequest(f"{reason}; the model's inputs are {_described(self.inputs)}")

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> list[Tensor]:
        """Run the model; see `LoadedModel.run`."""
        session = self._session
        if session is None:
            raise ModelUnavailable("the model has been unloaded")
        names = list(outputs) or self._output_names
        try:
            feed = {tensor.name: _fed(tensor) for tensor in inputs}
            if self._has_bf16_output:
                return self._run_ort_values(session, feed, names)
            values = session.run(names, feed)
        except CapameshError:
            raise
        except Exception as exc:  # ONNX Runtime's errors share no other base
            raise _run_error(exc) from exc
        return [self._tensor(name, value) for name, value in zip(names, values, strict=True)]

    def _run_ort_values(
        self, session: _Untyped, feed: dict[str, Any], names: list[str]
    ) -> list[Tensor]:
        """Run with OrtValues on both sides: `session.run` cannot return bfloat16."""
        wrap = _ort.OrtValue.ortvalue_from_numpy
        wrapped = {
            name: wrap(value) if isinstance(value, np.ndarray) else value
            for name, value in feed.items()
        }
        results: list[Tensor] = []
        for name, value in zip(names, session.run_with_ort_values(names, wrapped), strict=True):
            if self._output_datatypes[name] is not Datatype.BF16:
                results.append(self._tensor(name, value.numpy()))
                continue
            if value.device_name().lower() != "cpu":
                raise RunFailed(
                    f"output {name!r} stayed on {value.device_name()}, expected the CPU"
                )
            size_bytes = value.tensor_size_in_bytes()
            raw = ctypes.string_at(value.data_ptr(), size_bytes) if size_bytes else b""
            results.append(Tensor(name, Datatype.BF16, tuple(value.shape()), raw))
        return results

    def _tensor(self, name: str, array: npt.NDArray[Any]) -> Tensor:
        datatype = self._output_datatypes[name]
        if datatype is Datatype.BYTES:
            return Tensor.from_numpy(name, array)
        # A view that keeps the array alive; memoryview cannot cast where a dimension is 0.
        raw = array.data.cast("B") if array.size else b""
        return Tensor(name, datatype, array.shape, raw)

    def close(self) -> None:
        """Let go of the session; runs in progress hold it until they end."""
        self._session = None


def _spec(side: str, arg: _Untyped) -> TensorSpec:
    """Return an input or output as declared; symbolic and unknown dimensions become -1."""
    datatype = _DATATYPES.get(arg.type)
    if datatype is None:
        raise ModelInvalid(
            f"{side} {arg.name!r} is {arg.type}, which the protocol cannot carry; it takes "
            f"{', '.join(_DATATYPES)}"
        )
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in arg.shape)
    return TensorSpec(arg.name, datatype, shape)


def _fed(tensor: Tensor) -> object:
    """Return what `session.run` takes for `tensor`: a view of its bytes, except for text."""
    datatype = tensor.datatype
    if datatype is Datatype.BYTES:
        return _texts(tensor)
    array: npt.NDArray[Any] = np.ndarray(tensor.shape, datatype.numpy_dtype, tensor.data)
    # A slice of a frame may start anywhere; kernels expect whole elements at their own addresses.
    if not array.flags.aligned:
        array = array.copy()
    if datatype is Datatype.BF16:
        return _ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BF16)
    return array


def _texts(tensor: Tensor) -> npt.NDArray[Any]:
    """Return BYTES as the texts that ONNX Runtime's strings are; InvalidRequest: not UTF-8."""
    array = np.empty(tensor.shape, dtype=object)
    flat = array.reshape(-1)
    for index, element in enumerate(split_elements(tensor.data, flat.size)):
        try:
            flat[index] = element.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise InvalidRequest(
                f"input {tensor.name!r}: element {index} starts with {element[:16]!r} and is not UTF-8, "
                "as this model's strings must be"
            ) from exc
    return array


def _run_error(error: Exception) -> CapameshError:
    if isinstance(error, _INVALID_ARGUMENT):
        return InvalidRequest(f"ONNX Runtime refuses the inputs: {_one_line(error)}")
    return RunFailed(f"the model's run failed: {_one_line(error)}")


def _not_on(wanted: Sequence[str], why: str) -> ModelInvalid:
    hint = "; for CUDA install capamesh[cuda] and a driver" if _CUDA in wanted else ""
    return ModelInvalid(
        f"it should run on {' or '.join(wanted)}, but {why}{hint}; "
        "`allow_cpu_fallback = true` in its capamesh.toml accepts the CPU"
    )


def _described(specs: Sequence[TensorSpec]) -> str:
    return _cut(", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in specs))


def _one_line(error: Exception) -> str:
    return _cut(" ".join(str(error).removeprefix("[ONNXRuntimeError] : ").split()))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
