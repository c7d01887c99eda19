"""The ONNX Runtime backend and a GPU's memory: buffers used again, limits kept, everything given back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from cuda_device import CUDA, why_no_cuda
from model_files import source_at
from onnx import helper

from capamesh.node.repository import Manifest, ModelSource
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.protocol.errors import ModelInvalid, RunFailed
from capamesh.protocol.tensors import Datatype, Tensor

P = onnx.TensorProto
TENSORRT = "TensorrtExecutionProvider"
MIB = 2**20


pytestmark = pytest.mark.skipif(bool(why_no_cuda()), reason=why_no_cuda() or "a GPU is there")

value = helper.make_tensor_value_info
node = helper.make_node


def source_of(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    initializers: Sequence[onnx.TensorProto] = (),
    manifest: Manifest = Manifest(),  # noqa: B008  # frozen
) -> ModelSource:
    """Write a model `y` of `x`."""
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
    return source_at(path, manifest)


def network(folder: Path, manifest: Manifest = Manifest()) -> ModelSource:  # noqa: B008  # frozen
    """Write a convolution, a rectifier and a mean over x[N,3,32,32]."""
    rng = np.random.default_rng(11)
    weights = rng.standard_normal((16, 3, 3, 3), dtype=np.float32)
    return source_of(
        folder,
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["y"]),
        ],
        ["N", 3, 32, 32],
        [onnx.numpy_helper.from_array(weights, "w")],
        manifest,
    )


def images(count: int, seed: int = 3) -> Tensor:
    rng = np.random.default_rng(seed)
    return Tensor.from_numpy("x", rng.standard_normal((count, 3, 32, 32), dtype=np.float32))


def zeros(size_bytes: int) -> Tensor:
    return Tensor("x", Datatype.FP32, (size_bytes // 4096, 1024), bytes(size_bytes))


def free_bytes() -> int:
    """Return what is free on the GPU that these tests use: CUDA's first, which is the only one visible."""
    return OnnxBackend("cuda").free_bytes()


def test_runs_of_several_shapes_through_kept_buffers_agree_with_the_cpu(tmp_path: Path) -> None:
    source = network(tmp_path)
    gpu, cpu = OnnxBackend("cuda").load(source), OnnxBackend("cpu").load(source)
    assert gpu.provider == CUDA
    assert gpu._live is not None
    assert gpu._live[1] is not None, "runs on CUDA go through IO bindings"
    kept = []
    for seed, count in enumerate((1, 4, 4, 64, 64, 1, 4)):
        x = images(count, seed)
        (from_gpu,), (from_cpu,) = gpu.run([x]), cpu.run([x])
        assert from_gpu.shape == (count, 16, 1, 1)
        kept.append((from_gpu, from_cpu))
    for from_gpu, from_cpu in kept:  # at the end, so that a buffer used again would show
        # TF32 multiplies with 10 bits of mantissa.
        np.testing.assert_allclose(from_gpu.to_numpy(), from_cpu.to_numpy(), rtol=1e-2, atol=1e-2)


def test_output_whose_shape_depends_on_values_is_right_on_cuda_too(tmp_path: Path) -> None:
    nodes = [node("NonZero", ["x"], ["i"]), node("Cast", ["i"], ["y"], to=P.FLOAT)]
    model = OnnxBackend("cuda").load(source_of(tmp_path, nodes, ["N"]))
    for values, expected in (([1, 0, 2], [[0, 2]]), ([0, 3, 0], [[1]]), ([0, 0, 0], [[]])):
        x = Tensor.from_numpy("x", np.array(values, np.float32))
        (y,) = model.run([x])
        assert np.asarray(y.to_numpy()).tolist() == expected


def test_run_over_the_memory_limit_fails_and_the_model_goes_on(tmp_path: Path) -> None:
    nodes = [node("Exp", ["x"], ["a"]), node("Mul", ["a", "x"], ["b"])]
    source = source_of(tmp_path, [*nodes, node("Add", ["a", "b"], ["y"])], ["N", 1024])
    model = OnnxBackend("cuda", memory_limit_bytes=64 * MIB).load(source)
    model.run([zeros(MIB)])
    before = free_bytes()
    with pytest.raises(RunFailed, match="the model's run failed: "):
        model.run([zeros(128 * MIB)])
    assert before - free_bytes() <= 64 * MIB
    (y,) = model.run([zeros(MIB)])
    assert y.size_bytes == MIB
    unlimited = OnnxBackend("cuda").load(source)
    assert unlimited.run([zeros(128 * MIB)])[0].size_bytes == 128 * MIB


def test_gpu_memory_of_an_unusually_large_run_is_given_back(tmp_path: Path) -> None:
    nodes = [node("Exp", ["x"], ["a"]), node("Mul", ["a", "x"], ["b"])]
    nodes += [node("Add", ["a", "b"], ["c"]), node("ReduceMax", ["c"], ["y"])]
    model = OnnxBackend("cuda").load(source_of(tmp_path, nodes, ["N", 1024]))
    for _ in range(3):
        model.run([zeros(4096)])
    before = free_bytes()
    model.run([zeros(512 * MIB)])
    assert before - free_bytes() < 64 * MIB


def test_closed_model_gives_its_memory_back_and_fifty_reloads_take_no_more(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((4096, 4096), dtype=np.float32)  # 64 MiB
    source = source_of(
        tmp_path,
        [node("MatMul", ["x", "w"], ["y"])],
        ["N", 4096],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    backend = OnnxBackend("cuda")
    x = Tensor.from_numpy("x", rng.standard_normal((8, 4096), dtype=np.float32))
    closed: list[int] = []
    for _ in range(50):
        model = backend.load(source)
        model.run([x])
        loaded = free_bytes()
        model.close()
        closed.append(free_bytes())
        assert closed[-1] - loaded > 48 * MIB
    # The first load makes CUDA's context and the libraries' workspaces, which stay.
    assert closed[1] - closed[-1] < 32 * MIB


def test_closed_models_run_in_progress_still_ends(tmp_path: Path) -> None:
    model = OnnxBackend("cuda").load(network(tmp_path))
    assert model._live is not None
    live = model._live
    model.close()
    model._live = live  # as a run that has read it before holds it
    assert model.run([images(2)])[0].shape == (2, 16, 1, 1)


def test_tensorrt_agrees_with_the_cpu_and_finds_its_engine_again(tmp_path: Path) -> None:
    cache = tmp_path / "engines"
    source = network(tmp_path, Manifest(providers=(TENSORRT, CUDA)))
    backend = OnnxBackend("cuda", cache_folder=cache)
    model = backend.load(source)
    if model.provider != TENSORRT:
        pytest.skip(f"TensorRT's libraries are not here; {model.provider} runs the model")
    x = images(4)
    (from_gpu,) = model.run([x])
    (from_cpu,) = OnnxBackend("cpu").load(network(tmp_path)).run([x])
    np.testing.assert_allclose(from_gpu.to_numpy(), from_cpu.to_numpy(), rtol=1e-2, atol=1e-2)
    batchers = {path: path.stat().st_mtime_ns for path in cache.rglob("*.engine")}
    assert batchers
    model.close()
    (again,) = backend.load(network(tmp_path, source.manifest)).run([x])
    np.testing.assert_allclose(again.to_numpy(), from_gpu.to_numpy(), rtol=1e-3, atol=1e-3)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.engine")} == batchers


def test_model_that_should_run_on_tensorrt_alone_is_refused_where_it_cannot(
    tmp_path: Path,
) -> None:
    source = network(tmp_path, Manifest(providers=(TENSORRT,)))
    try:
        model = OnnxBackend("cuda").load(source)
    except ModelInvalid as error:
        assert TENSORRT in error.message  # noqa: PT017  # either is right, by what is installed
    else:
        assert model.provider == TENSORRT
