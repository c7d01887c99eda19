"""Runs a model on texts that are no UTF-8, by ONNX Runtime's C interface. Loads a shared library, reads model files.

ONNX Runtime keeps texts as bytes of any kind, and its Python binding makes `str` of them: what is no UTF-8 can neither
be given nor taken (1.31: `bytes` become their `repr`, fixed-width bytes and lone surrogates raise, and an `OrtValue` of
texts cannot be made). Some of its packages bring the library of its C interface beside the binding. A second session in
that runs what the binding cannot; where it is missing, such texts are refused.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from capamesh.protocol.errors import RunFailed
from capamesh.protocol.tensors import Datatype, Tensor, join_elements, split_elements

MAX_MODEL_BYTES: Final = 64 * 2**20
"""The most bytes of a model's files that get a second session: it takes their memory again (guess: classifiers of texts are
smaller)."""
_API_VERSION: Final = 15
"""The first with `GetResizedStringTensorElementBuffer`; later libraries give it, too (the C interface is only added to)."""
_LOG_FATAL: Final = 4
_CPU_ALLOCATOR, _CPU_MEMORY = 0, 0  # OrtDeviceAllocator, OrtMemTypeDefault

_P = ctypes.c_void_p
_OUT = ctypes.POINTER(ctypes.c_void_p)
_SIZE = ctypes.c_size_t
_SIZES = ctypes.POINTER(ctypes.c_size_t)
_DIMS = ctypes.POINTER(ctypes.c_int64)
_INT = ctypes.c_int
_TEXT = ctypes.c_char_p
_TEXTS = ctypes.POINTER(ctypes.c_char_p)

_FUNCTIONS: Final[dict[str, tuple[int, Any, tuple[Any, ...]]]] = {
    "GetErrorMessage": (2, _TEXT, (_P,)),
    "CreateEnv": (3, _P, (_INT, _TEXT, _OUT)),
    "CreateSession": (7, _P, (_P, _TEXT, _P, _OUT)),
    "Run": (9, _P, (_P, _P, _TEXTS, _OUT, _SIZE, _TEXTS, _SIZE, _OUT)),
    "CreateSessionOptions": (10, _P, (_OUT,)),
    "SetSessionLogSeverityLevel": (22, _P, (_P, _INT)),
    "SetIntraOpNumThreads": (24, _P, (_P, _INT)),
    "SetInterOpNumThreads": (25, _P, (_P, _INT)),
    "CreateRunOptions": (39, _P, (_OUT,)),
    "RunOptionsSetTerminate": (46, _P, (_P,)),
    "CreateTensorAsOrtValue": (48, _P, (_P, _DIMS, _SIZE, _INT, _OUT)),
    "CreateTensorWithDataAsOrtValue": (49, _P, (_P, _P, _SIZE, _DIMS, _SIZE, _INT, _OUT)),
    "GetTensorMutableData": (51, _P, (_P, _OUT)),
    "GetStringTensorDataLength": (53, _P, (_P, _SIZES)),
    "GetStringTensorContent": (54, _P, (_P, _P, _SIZE, _SIZES, _SIZE)),
    "GetTensorElementType": (60, _P, (_P, ctypes.POINTER(_INT))),
    "GetDimensionsCount": (61, _P, (_P, _SIZES)),
    "GetDimensions": (62, _P, (_P, _DIMS, _SIZE)),
    "GetTensorTypeAndShape": (65, _P, (_P, _OUT)),
    "CreateCpuMemoryInfo": (69, _P, (_INT, _INT, _OUT)),
    "GetAllocatorWithDefaultOptions": (78, _P, (_OUT,)),
    "ReleaseStatus": (93, None, (_P,)),
    "ReleaseSession": (95, None, (_P,)),
    "ReleaseValue": (96, None, (_P,)),
    "ReleaseRunOptions": (97, None, (_P,)),
    "ReleaseTensorTypeAndShapeInfo": (99, None, (_P,)),
    "ReleaseSessionOptions": (100, None, (_P,)),
    "GetResizedStringTensorElementBuffer": (252, _P, (_P, _SIZE, _SIZE, _OUT)),
}
"""Place in the table `OrtApi`, which never changes once released; result; arguments."""

_KINDS: Final = {
    Datatype.FP32: 1,
    Datatype.UINT8: 2,
    Datatype.INT8: 3,
    Datatype.UINT16: 4,
    Datatype.INT16: 5,
    Datatype.INT32: 6,
    Datatype.INT64: 7,
    Datatype.BYTES: 8,
    Datatype.BOOL: 9,
    Datatype.FP16: 10,
    Datatype.FP64: 11,
    Datatype.UINT32: 12,
    Datatype.UINT64: 13,
    Datatype.BF16: 16,
}
"""ONNXTensorElementDataType."""
_DATATYPES: Final = {kind: datatype for datatype, kind in _KINDS.items()}


class RawTextRuntime:
    """ONNX Runtime's C interface in this process."""

    def __init__(self, library: Path) -> None:
        """Load `library`. OSError: it cannot be loaded, or has not the interface."""
        loaded = ctypes.CDLL(str(library))
        try:
            base = loaded.OrtGetApiBase
        except AttributeError as exc:
            raise OSError(f"{library} has no OrtGetApiBase") from exc
        base.restype = ctypes.POINTER(_P)
        get_api = ctypes.CFUNCTYPE(_OUT, ctypes.c_uint32)(base()[0])
        table = get_api(_API_VERSION)
        if not table:
            raise OSError(f"{library} does not give version {_API_VERSION} of its interface")
        self._calls: dict[str, Callable[..., Any]] = {
            name: ctypes.CFUNCTYPE(result, *arguments)(table[index])
            for name, (index, result, arguments) in _FUNCTIONS.items()
        }
        self.env = self.made("CreateEnv", _LOG_FATAL, b"capamesh")
        self.memory = self.made("CreateCpuMemoryInfo", _CPU_ALLOCATOR, _CPU_MEMORY)
        self.allocator = self.made("GetAllocatorWithDefaultOptions")

    def call(self, name: str, *arguments: object) -> None:
        """Call a function that returns a status. RunFailed: it is not the good one."""
        status = self._calls[name](*arguments)
        if status:
            message = self._calls["GetErrorMessage"](status).decode("utf-8", "replace")
            self._calls["ReleaseStatus"](status)
            raise RunFailed(f"ONNX Runtime failed in {name}: {' '.join(message.split())}")

    def made(self, name: str, *arguments: object) -> Any:  # noqa: ANN401  # a pointer
        """Return what a function makes and gives back by its last argument. RunFailed: see `call`."""
        result = _P()
        self.call(name, *arguments, ctypes.byref(result))
        return result

    def release(self, name: str, pointer: object) -> None:
        """Let go of what was made."""
        self._calls[name](pointer)


class RawTextSession:
    """One model in the C interface, on the CPU and one thread. Safe to use from several threads at once."""

    def __init__(self, runtime: RawTextRuntime, path: Path) -> None:
        """Load the model at `path`. RunFailed: it cannot be loaded."""
        self._runtime = runtime
        options = runtime.made("CreateSessionOptions")
        try:
            runtime.call("SetSessionLogSeverityLevel", options, _LOG_FATAL)
            runtime.call("SetIntraOpNumThreads", options, 1)
            runtime.call("SetInterOpNumThreads", options, 1)
            self._session = runtime.made("CreateSession", runtime.env, bytes(path), options)
        finally:
            runtime.release("ReleaseSessionOptions", options)
        # Once nobody holds it: a run in progress does.
        weakref.finalize(self, runtime.release, "ReleaseSession", self._session)

    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str],
        on_stop: Callable[[Callable[[], None]], None],
    ) -> list[Tensor]:
        """Return the named outputs for inputs that fit the model, as described by its `inputs`. RunFailed: the run fails.

        `on_stop` is given what ends the run early, to be called from any thread.
        """
        runtime = self._runtime
        run = _Run(runtime)
        on_stop(run.stop)
        try:
            names = _texts([tensor.name for tensor in inputs])
            values = (_P * len(inputs))(*(run.value(tensor) for tensor in inputs))
            wanted = _texts(outputs)
            given = (_P * len(outputs))()
            runtime.call(
                "Run",
                self._session,
                run.options,
                names,
                values,
                len(inputs),
                wanted,
                len(outputs),
                given,
            )
            run.values += [_P(pointer) for pointer in given]
            return [
                _tensor(runtime, name, _P(pointer))
                for name, pointer in zip(outputs, given, strict=True)
            ]
        finally:
            run.close()


class _Run:
    """The objects that one run has made and must let go of."""

    def __init__(self, runtime: RawTextRuntime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self.options: Any = runtime.made("CreateRunOptions")
        self.values: list[Any] = []
        self._kept: list[object] = []
        """Memory that values point into."""

    def stop(self) -> None:
        with self._lock:
            if self.options is not None:
                self._runtime.call("RunOptionsSetTerminate", self.options)

    def close(self) -> None:
        with self._lock:
            options, self.options = self.options, None
        self._runtime.release("ReleaseRunOptions", options)
        for value in self.values:
            self._runtime.release("ReleaseValue", value)

    def value(self, tensor: Tensor) -> Any:  # noqa: ANN401  # a pointer
        runtime, rank = self._runtime, len(tensor.shape)
        dims = (ctypes.c_int64 * rank)(*tensor.shape)
        kind = _KINDS[tensor.datatype]
        if tensor.datatype is not Datatype.BYTES:
            # A slice of a frame may start anywhere; kernels expect whole elements at their own addresses.
            array = np.frombuffer(tensor.data, np.uint8).copy()
            self._kept.append(array)
            value = runtime.made(
                "CreateTensorWithDataAsOrtValue",
                *(runtime.memory, array.ctypes.data, array.nbytes, dims, rank, kind),
            )
            self.values.append(value)
            return value
        value = runtime.made("CreateTensorAsOrtValue", runtime.allocator, dims, rank, kind)
        self.values.append(value)
        for index, element in enumerate(split_elements(tensor.data, math.prod(tensor.shape))):
            place = runtime.made("GetResizedStringTensorElementBuffer", value, index, len(element))
            ctypes.memmove(place, element, len(element))
        return value


def _tensor(runtime: RawTextRuntime, name: str, value: object) -> Tensor:
    """Return a copy of what the library holds."""
    info = runtime.made("GetTensorTypeAndShape", value)
    try:
        kind, rank = _INT(), _SIZE()
        runtime.call("GetTensorElementType", info, ctypes.byref(kind))
        runtime.call("GetDimensionsCount", info, ctypes.byref(rank))
        dims = (ctypes.c_int64 * rank.value)()
        runtime.call("GetDimensions", info, dims, rank.value)
    finally:
        runtime.release("ReleaseTensorTypeAndShapeInfo", info)
    datatype, shape = _DATATYPES[kind.value], tuple(dims)
    count = math.prod(shape)
    itemsize = datatype.itemsize_bytes
    if itemsize is None:
        return Tensor(name, datatype, shape, join_elements(_elements(runtime, value, count)))
    pointer = runtime.made("GetTensorMutableData", value)
    raw = ctypes.string_at(pointer, count * itemsize) if count else b""
    return Tensor(name, datatype, shape, raw)


def _elements(runtime: RawTextRuntime, value: object, count: int) -> list[bytes]:
    if not count:
        return []
    length = _SIZE()
    runtime.call("GetStringTensorDataLength", value, ctypes.byref(length))
    whole = ctypes.create_string_buffer(max(1, length.value))
    starts = (_SIZE * count)()
    runtime.call("GetStringTensorContent", value, whole, length.value, starts, count)
    raw = whole.raw[: length.value]
    ends = [*starts[1:], length.value]
    return [raw[start:end] for start, end in zip(starts, ends, strict=True)]


def _texts(names: Sequence[str]) -> Any:  # noqa: ANN401  # an array of ctypes
    return (_TEXT * len(names))(*(name.encode() for name in names))
