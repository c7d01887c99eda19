"""The ONNX Runtime backend and its device: memory, buffers, and runs that are ended early."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from model_files import f32, onnx_model, source_at, write_onnx
from onnx import helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from worker_fakes import FakeSwitch

from capamesh.node.devices.nvml import GpuReader
from capamesh.node.runtime.api import OutOfMemory
from capamesh.node.runtime.onnxruntime import backend as onnx_backend
from capamesh.node.runtime.onnxruntime.arena import ArenaWatch
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend, OnnxModel
from capamesh.node.runtime.onnxruntime.faults import device_loss
from capamesh.node.runtime.onnxruntime.io_binding import BoundRuns
from capamesh.protocol.errors import InvalidRequest, ModelUnavailable, RunFailed
from capamesh.protocol.tensors import Tensor

P = onnx.TensorProto
MIB = 2**20
Session = onnxruntime.InferenceSession
value = helper.make_tensor_value_info
node = helper.make_node


def write(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str] = ("N",),
    weights: Sequence[onnx.TensorProto] = (),
) -> Path:
    """Write a model `y` of `x`."""
    model = onnx_model(nodes, [f32("x", *shape)], [value("y", P.FLOAT, None)], weights)
    return write_onnx(folder / "model.onnx", model)


def load(*graph: Any) -> OnnxModel:
    return OnnxBackend().load(source_at(write(*graph)))


def fp32(values: object) -> Tensor:
    return Tensor.from_numpy("x", np.array(values, np.float32))


@pytest.fixture
def twice(tmp_path: Path) -> OnnxModel:
    return load(tmp_path, [node("Add", ["x", "x"], ["y"])])


# runs that are ended


@pytest.fixture
def endless(tmp_path: Path) -> OnnxModel:
    """A loop of 10**9 turns around a small multiplication."""
    body = helper.make_graph(
        [node("Mul", ["a", "a"], ["b"]), node("Identity", ["c"], ["d"])],
        "body",
        [value("i", P.INT64, []), value("c", P.BOOL, []), f32("a", "N")],
        [value("d", P.BOOL, []), f32("b", "N")],
    )
    turns = helper.make_tensor("n", P.INT64, [], [10**9])
    return load(tmp_path, [node("Loop", ["n", "", "x"], ["y"], body=body)], ["N"], [turns])


STOPPED = r"^the run was stopped before its end$"


def test_run_is_ended_by_its_switch_from_another_thread_and_says_so(
    endless: OnnxModel, capfd: pytest.CaptureFixture[str]
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
    assert [str(error) for error in errors] == ["the run was stopped before its end"]
    assert capfd.readouterr() == ("", "")


def test_switch_used_before_the_run_ends_it_alone(twice: OnnxModel, endless: OnnxModel) -> None:
    switch = OnnxBackend().stop_switch()
    switch.stop()
    switch.stop()
    for model in (twice, endless):
        with pytest.raises(RunFailed, match=STOPPED):
            model.run([fp32([0.5])], (), switch)
    (y,) = twice.run([fp32([2])], (), OnnxBackend().stop_switch())
    (z,) = twice.run([fp32([2])], (), FakeSwitch())  # another backend's
    assert [each.to_numpy().tolist() for each in (y, z)] == [[4.0], [4.0]]


# memory


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


LARGE_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from model_files import source_at
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.protocol.tensors import Datatype, Tensor

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def run(rows):
    model.run([Tensor("x", Datatype.FP32, (rows, 1024), bytes(4096 * rows))])

model = OnnxBackend().load(source_at(Path(sys.argv[2])))
for _ in range(3):
    run(1)
before = resident_bytes()
run(16 * 1024)
print(resident_bytes() - before)
"""


@pytest.mark.full
def test_memory_of_an_unusually_large_run_is_given_back_after_it(tmp_path: Path) -> None:
    nodes = [node("Exp", ["x"], ["a"]), node("Mul", ["a", "x"], ["b"])]
    nodes += [node("Add", ["a", "b"], ["c"]), node("ReduceMax", ["c"], ["y"])]
    path = write(tmp_path, nodes, ["N", 1024])
    support = Path(__file__).parents[4] / "support"
    # In a process of its own: in this one it may lie where other tests had theirs, whose pages free() keeps.
    code = [sys.executable, "-c", LARGE_RUN, str(support), str(path)]
    done = subprocess.run(code, check=True, stdout=subprocess.PIPE, text=True)
    assert int(done.stdout) < 16 * MIB


def live_session(run: Any) -> Any:
    return SimpleNamespace(_sess=SimpleNamespace(run=run)), None


def test_load_and_run_without_memory_are_told_apart_from_a_bad_model(
    tmp_path: Path, twice: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: str) -> None:
        raise RuntimeError(words)

    twice._live = live_session(lambda *_: fail("Failed to allocate memory for requested buffer"))
    with pytest.raises(OutOfMemory, match="needed more memory than this node has: Failed to"):
        twice.run([fp32([1])])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: fail("std::bad_alloc"))
    with pytest.raises(OutOfMemory, match="ONNX Runtime cannot load it: std::bad_alloc"):
        load(tmp_path, [node("Exp", ["x"], ["y"])])


# the loss of a device


def cuda_error(code: int, words: str = "an illegal memory access was encountered") -> RuntimeError:
    """Return an error as ONNX Runtime's `CudaCall` gives it, from within an operator."""
    return RuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'c' Status"
        f" Message: CUDA failure {code}: {words} ; GPU=0 ; hostname=a-host ; file=/onnxruntime/cuda_stream.cc ;"
        " line=448 ; expr=cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)); "
    )


@pytest.mark.parametrize(
    "error",
    [
        cuda_error(2, "out of memory"),
        cuda_error(7000),
        RuntimeError("CUBLAS failure 13: the GPU program failed to execute ; GPU=0 ; hostname=h"),
        RuntimeError("Reshape node. Name:'CUDA failure 700: x' Status Message: it does not fit"),
    ],
)
def test_other_errors_leave_the_device(error: RuntimeError) -> None:
    assert device_loss(error) == ""


@pytest.mark.parametrize(("device", "is_reported"), [("cuda", True), ("cpu", False)])
def test_owner_of_the_backend_is_told_by_the_run_that_loses_the_device(
    twice: OnnxModel, device: onnx_backend.DeviceKind, is_reported: bool
) -> None:
    def fail(*_: object) -> None:
        raise cuda_error(700)

    told: list[tuple[str, threading.Thread]] = []
    backend = OnnxBackend(
        device, on_lost=lambda loss: told.append((loss, threading.current_thread()))
    )
    twice._on_error = backend._look_after_device
    twice._live = live_session(fail)
    with pytest.raises(RunFailed, match=r"^the model's run failed: .*CUDA failure 700"):
        twice.run([fp32([1])])
    loss = "CUDA failure 700: an illegal memory access was encountered"
    assert told == [(loss, threading.main_thread())] * is_reported


# outputs in kept device memory, with the CPU as the device


def test_model_on_a_bound_device_answers_alike_and_says_what_is_wrong(twice: OnnxModel) -> None:
    session, _ = twice._live
    twice._live = session, BoundRuns(session, "cpu", 0)
    for values in ([1, 2], [3, 4], [5], []):
        (y,) = twice.run([fp32(values)])
        assert y.to_numpy().tolist() == [2 * number for number in values]
    with pytest.raises(InvalidRequest, match="the model cannot run these inputs"):
        twice.run([fp32(np.zeros((2, 2)))])
    switch = OnnxBackend().stop_switch()
    switch.stop()
    with pytest.raises(RunFailed, match=STOPPED):
        twice.run([fp32([1])], (), switch)
    twice.close()
    with pytest.raises(ModelUnavailable):
        twice.run([fp32([1])])


def session(nodes: list[onnx.NodeProto], *outputs: onnx.ValueInfoProto) -> Session:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    raw = onnx_model(nodes, [f32("x", "N", 2)], outputs).SerializeToString()
    return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def sums() -> Session:
    """`twice = x + x`, `square = x * x`."""
    nodes = [node("Add", ["x", "x"], ["twice"]), node("Mul", ["x", "x"], ["square"])]
    return session(nodes, f32("twice", "N", 2), f32("square", "N", 2))


def feed(values: Any) -> Mapping[str, Any]:
    return {"x": onnxruntime.OrtValue.ortvalue_from_numpy(np.array(values, np.float32))}


class Spy:
    """Passes a session's calls on, and counts its runs."""

    def __init__(self, inner: Session) -> None:
        self.inner = inner
        self.io_binding = inner.io_binding
        self.runs = self.plain_runs = 0

    def run_with_iobinding(self, binding: object, options: object) -> None:
        self.runs += 1
        self.inner.run_with_iobinding(binding, options)

    def run(self, *asked: Any) -> Any:
        self.plain_runs += 1
        return self.inner.run(*asked)


def test_runs_of_several_shapes_are_the_sessions(sums: Session) -> None:
    bound = BoundRuns(sums, "cpu", 0)
    rng = np.random.default_rng(5)
    for count in (1, 3, 3, 0, 3, 64, 1, 1):
        x = rng.standard_normal((count, 2), dtype=np.float32)
        square, twice = bound.run(feed(x), ["square", "twice"])
        np.testing.assert_array_equal(twice, x + x)
        np.testing.assert_array_equal(square, x * x)


def test_output_of_a_shape_by_values_is_never_reused() -> None:
    nonzero = session([node("NonZero", ["x"], ["y"])], value("y", P.INT64, [2, "K"]))
    spy = Spy(nonzero)
    bound = BoundRuns(spy, "cpu", 0)
    counts = []
    for x in ([[1, 0]], [[1, 1]], [[0, 0]], [[1, 0]]):
        (y,) = bound.run(feed(x), ["y"])
        counts.append((y.shape, spy.runs, spy.plain_runs))
    assert counts == [((2, 1), 1, 0), ((2, 2), 2, 1), ((2, 0), 3, 1), ((2, 1), 4, 1)]


def test_run_after_a_failed_one_is_right(sums: Session) -> None:
    bound = BoundRuns(sums, "cpu", 0)
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="Got invalid dimensions"):
            bound.run(feed([[0, 0, 0]]), ["twice"])
        assert bound.run(feed([[1, 2]]), ["twice"])[0].tolist() == [[2, 4]]


def test_stopped_run_is_not_run_again(sums: Session) -> None:
    spy = Spy(sums)
    bound = BoundRuns(spy, "cpu", 0)
    bound.run(feed([[1, 2]]), ["twice"])
    options = onnxruntime.RunOptions()
    options.terminate = True
    with pytest.raises(Exception, match="terminate"):
        bound.run(feed([[1, 2]]), ["twice"], options)
    assert (spy.runs, spy.plain_runs) == (2, 0)
    assert bound.run(feed([[3, 4]]), ["twice"])[0].tolist() == [[6, 8]]
