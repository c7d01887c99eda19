"""The ONNX Runtime backend and its device: memory, options, and runs that are ended early."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from model_files import source_at
from onnx import helper
from worker_fakes import FakeSwitch

from capamesh.node.devices.nvml import GpuReader
from capamesh.node.runtime.api import LoadedModel, OutOfMemory
from capamesh.node.runtime.onnxruntime import backend as onnx_backend
from capamesh.node.runtime.onnxruntime.arena import ArenaWatch
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend, OnnxModel
from capamesh.node.runtime.onnxruntime.faults import device_loss
from capamesh.node.runtime.onnxruntime.io_binding import BoundRuns
from capamesh.protocol.errors import InvalidRequest, ModelUnavailable, RunFailed
from capamesh.protocol.tensors import Tensor

P = onnx.TensorProto
MIB = 2**20
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
value = helper.make_tensor_value_info
node = helper.make_node


def load(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    initializers: Sequence[onnx.TensorProto] = (),
) -> OnnxModel:
    """Load a model `y` of `x`."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value("x", P.FLOAT, shape)],
        [value("y", P.FLOAT, None)],
        list(initializers),
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    source = source_at(path)
    return OnnxBackend().load(source)


def cuda_error(code: int, words: str = "an illegal memory access was encountered") -> RuntimeError:
    """Return an error as ONNX Runtime's `CudaCall` gives it, from within an operator."""
    return RuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'c' Status"
        f" Message: CUDA failure {code}: {words} ; GPU=0 ; hostname=a-host ; file=/onnxruntime/cuda_stream.cc ;"
        " line=448 ; expr=cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)); "
    )


def fp32(values: object) -> Tensor:
    return Tensor.from_numpy("x", np.array(values, np.float32))


def rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.fixture
def endless(tmp_path: Path) -> LoadedModel:
    """A loop of 10**9 turns around a small multiplication."""
    body = helper.make_graph(
        [node("Mul", ["a", "a"], ["b"]), node("Identity", ["c"], ["d"])],
        "body",
        [value("i", P.INT64, []), value("c", P.BOOL, []), value("a", P.FLOAT, ["N"])],
        [value("d", P.BOOL, []), value("b", P.FLOAT, ["N"])],
    )
    turns = helper.make_tensor("n", P.INT64, [], [10**9])
    return load(tmp_path, [node("Loop", ["n", "", "x"], ["y"], body=body)], ["N"], [turns])


@pytest.fixture
def twice(tmp_path: Path) -> OnnxModel:
    return load(tmp_path, [node("Add", ["x", "x"], ["y"])], ["N"])


def test_run_is_ended_by_its_switch_from_another_thread_and_says_so(
    endless: LoadedModel, capfd: pytest.CaptureFixture[str]
) -> None:
    switch = OnnxBackend().stop_switch()
    errors: list[Exception] = []

    def run() -> None:
        try:
            endless.run([fp32([0.5, 1])], (), switch)
        except RunFailed as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    switch.stop()
    thread.join(timeout=60)
    (error,) = errors
    assert str(error) == "the run was stopped before its end"
    assert capfd.readouterr() == ("", "")


def test_switch_used_before_the_run_ends_it_alone(twice: OnnxModel, endless: LoadedModel) -> None:
    switch = OnnxBackend().stop_switch()
    switch.stop()
    switch.stop()
    for model in (twice, endless):
        with pytest.raises(RunFailed, match=r"^the run was stopped before its end$"):
            model.run([fp32([0.5])], (), switch)
    (y,) = twice.run([fp32([2])], (), OnnxBackend().stop_switch())
    (z,) = twice.run([fp32([2])], (), FakeSwitch())  # another backend's
    assert [np.asarray(each.to_numpy()).tolist() for each in (y, z)] == [[4.0], [4.0]]


NVML = SimpleNamespace(
    NVMLError=ValueError,
    nvmlInit=lambda: None,
    nvmlSystemGetDriverVersion=lambda: "1",
    nvmlDeviceGetCount=lambda: 2,
    nvmlDeviceGetHandleByIndex=lambda index: index,
    nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=100, free=20 * (handle + 1)),
    nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
    nvmlDeviceGetName=lambda handle: f"card {handle}",
    nvmlDeviceGetCudaComputeCapability=lambda handle: (8, 6),
)
"""pynvml with two cards, of which the second has twice the memory free."""


@pytest.mark.parametrize(
    ("index", "uuid", "free_bytes"),
    [(0, "", 20), (1, "", 40), (0, "GPU-1", 40), (2, "", 0), (0, "GPU-gone", 0)],
)
def test_free_memory_of_a_gpu_is_found_by_its_own_name_or_else_its_index(
    monkeypatch: pytest.MonkeyPatch, index: int, uuid: str, free_bytes: int
) -> None:
    monkeypatch.setattr(onnx_backend, "GpuReader", lambda: GpuReader(NVML))
    backend = OnnxBackend("cuda", device_index=index, device_uuid=uuid)
    assert backend.free_bytes() == free_bytes


def test_pool_shrinks_after_the_first_run_of_an_unusual_size_and_not_while_sizes_stay() -> None:
    watch = ArenaWatch()
    assert watch.is_due(100)
    assert not any(watch.is_due(size) for size in [100, 400, 100, 1] * 100)
    assert [watch.is_due(size) for size in (1601, 1601, 6404, 6405)] == [True, False, False, False]
    assert [watch.is_due(size) for size in (25_621, 25_621)] == [True, False]


@pytest.mark.full
def test_memory_of_an_unusually_large_run_is_given_back_after_it(tmp_path: Path) -> None:
    nodes = [node("Exp", ["x"], ["a"]), node("Mul", ["a", "x"], ["b"])]
    nodes += [node("Add", ["a", "b"], ["c"]), node("ReduceMax", ["c"], ["y"])]
    load(tmp_path, nodes, ["N", 1024]).close()
    # In a process of its own: in this one it may lie where other tests had theirs, whose pages free() keeps.
    code = (
        "import sys\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[4] / 'support')]}\n"
        "from capamesh.protocol.tensors import Datatype\n"
        "from test_device import MIB, OnnxBackend, Path, Tensor, fp32, np, rss_bytes, source_at\n"
        f"model = OnnxBackend().load(source_at(Path({str(tmp_path / 'model.onnx')!r})))\n"
        "for _ in range(3):\n"
        "    model.run([fp32(np.zeros((1, 1024)))])\n"
        "before = rss_bytes()\n"
        "model.run([Tensor('x', Datatype.FP32, (16 * 1024, 1024), bytes(64 * MIB))])\n"
        "print(rss_bytes() - before)\n"
    )
    # its errors are shown where this test's are
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    assert int(done.stdout) < 16 * MIB


def test_model_on_a_bound_device_answers_alike_and_says_what_is_wrong(tmp_path: Path) -> None:
    model = load(tmp_path, [node("Add", ["x", "x"], ["y"])], ["N"])
    assert model._live is not None
    session, bound = model._live
    assert bound is None
    model._live = session, BoundRuns(session, "cpu", 0)
    for values in ([1, 2], [3, 4], [5], []):
        (y,) = model.run([fp32(values)])
        assert np.asarray(y.to_numpy()).tolist() == [2 * number for number in values]
    with pytest.raises(InvalidRequest, match="ONNX Runtime refuses the inputs"):
        model.run([Tensor.from_numpy("x", np.zeros((2, 2), np.float32))])
    switch = OnnxBackend().stop_switch()
    switch.stop()
    with pytest.raises(RunFailed, match=r"^the run was stopped before its end$"):
        model.run([fp32([1])], (), switch)
    model.close()
    with pytest.raises(ModelUnavailable):
        model.run([fp32([1])])


def test_load_and_run_without_memory_are_told_apart_from_a_bad_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 8")

    model = load(tmp_path, [node("Exp", ["x"], ["y"])], ["N"])
    model._live = SimpleNamespace(_sess=SimpleNamespace(run=run)), None
    with pytest.raises(OutOfMemory, match="needed more memory than this node has: Failed to"):
        model.run([fp32([1])])

    def session(*_: object, **__: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(OutOfMemory, match="ONNX Runtime cannot load it: std::bad_alloc"):
        load(tmp_path, [node("Exp", ["x"], ["y"])], ["N"])


@pytest.mark.parametrize(
    "error",
    [
        cuda_error(2, "out of memory"),
        cuda_error(7000),
        RuntimeError("CUBLAS failure 13: the GPU program failed to execute ; GPU=0 ; hostname=h"),
        RuntimeError(
            "Reshape node. Name:'CUDA failure 700: x' Status Message: a shape does not fit"
        ),
    ],
)
def test_other_errors_leave_the_device(error: RuntimeError) -> None:
    assert device_loss(error) == ""


@pytest.mark.parametrize(("device", "is_reported"), [("cuda", True), ("cpu", False)])
def test_owner_of_the_backend_is_told_by_the_run_that_loses_the_device(
    tmp_path: Path, device: onnx_backend.DeviceKind, is_reported: bool
) -> None:
    def fail(*_: object) -> None:
        raise cuda_error(700)

    reported: list[tuple[str, str]] = []
    backend = OnnxBackend(
        device, on_lost=lambda loss: reported.append((loss, threading.current_thread().name))
    )
    model = load(tmp_path, [node("Add", ["x", "x"], ["y"])], ["N"])
    model._on_error = backend._look_after_device
    model._live = SimpleNamespace(_sess=SimpleNamespace(run=fail)), None
    with pytest.raises(RunFailed, match=r"^the model's run failed: .*CUDA failure 700"):
        model.run([fp32([1])])
    loss = "CUDA failure 700: an illegal memory access was encountered"
    assert reported == ([(loss, "MainThread")] if is_reported else [])
