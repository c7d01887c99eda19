"""The ONNX Runtime backend on the CPU, over tiny models built for each test."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from model_files import source_at
from onnx import helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from capamesh.node.repository import ContentChanged, Manifest
from capamesh.node.runtime.api import Backend, LoadedModel
from capamesh.node.runtime.onnxruntime import backend as onnx_backend
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.runtime.onnxruntime.preload import read_in_cuda
from capamesh.protocol.errors import (
    ConfigError,
    InvalidRequest,
    ModelInvalid,
    ModelUnavailable,
    RunFailed,
)
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

P = onnx.TensorProto
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

OTHER_NAMES = {
    "FP16": "FLOAT16",
    "BF16": "BFLOAT16",
    "FP32": "FLOAT",
    "FP64": "DOUBLE",
    "BYTES": "STRING",
}
ONNX_TYPES = {one: getattr(P, OTHER_NAMES.get(one.name, one.name)) for one in Datatype}

value = helper.make_tensor_value_info
node = helper.make_node

Load = Callable[..., LoadedModel]


def write(
    path: Path,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that builds, writes and loads a model on the CPU."""

    def loaded(
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        nodes: Sequence[onnx.NodeProto],
        initializers: Sequence[onnx.TensorProto] = (),
    ) -> LoadedModel:
        backend: Backend = OnnxBackend("cpu")
        path = write(tmp_path / "model.onnx", inputs, outputs, nodes, initializers)
        return backend.load(source_at(path))

    return loaded


@pytest.fixture
def identity(load: Load) -> Callable[..., LoadedModel]:
    """Return a function that loads `y = x` of one type and shape."""

    def loaded(datatype: Datatype, shape: Sequence[int | str] | None) -> LoadedModel:
        kind = ONNX_TYPES[datatype]
        return load(
            [value("x", kind, shape)], [value("y", kind, shape)], [node("Identity", ["x"], ["y"])]
        )

    return loaded


@pytest.fixture
def two_inputs(load: Load) -> LoadedModel:
    """`sum = a + b` over f32[N,2], `copy = a`."""
    return load(
        [value("a", P.FLOAT, ["N", 2]), value("b", P.FLOAT, ["N", 2])],
        [value("sum", P.FLOAT, ["N", 2]), value("copy", P.FLOAT, ["N", 2])],
        [node("Add", ["a", "b"], ["sum"]), node("Identity", ["a"], ["copy"])],
    )


def raw_elements(datatype: Datatype, count: int) -> bytes:
    """Return `count` distinct elements, no two bytes of which may be swapped unseen."""
    if datatype is Datatype.BYTES:
        texts = ["", "é\0ü", "plain", "x" * 300, "日本", "."]
        return b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts[:count])
    if datatype is Datatype.BOOL:
        return bytes(index % 2 for index in range(count))
    assert datatype.itemsize_bytes
    # Small exponents: every pattern is an ordinary number in every floating type.
    element = bytes(range(0x31, 0x31 + datatype.itemsize_bytes))
    return b"".join(bytes([index + 1]) + element[1:] for index in range(count))


def fp32(name: str, values: object) -> Tensor:
    return Tensor.from_numpy(name, np.array(values, dtype=np.float32))


def floats(tensor: Tensor) -> list[object]:
    assert tensor.datatype is Datatype.FP32
    return np.asarray(tensor.to_numpy()).tolist()


@pytest.mark.parametrize("datatype", list(Datatype))
@pytest.mark.parametrize(
    ("declared", "shape"), [(["N", 3], (2, 3)), (["N", 3], (0, 3)), (None, (1, 3, 2))]
)
def test_every_datatype_goes_in_and_out_bit_by_bit(
    identity: Callable[..., LoadedModel],
    datatype: Datatype,
    declared: list[int | str] | None,
    shape: tuple[int, ...],
) -> None:
    model = identity(datatype, declared)
    count = int(np.prod(shape))
    given = Tensor("x", datatype, shape, memoryview(raw_elements(datatype, count)))
    model.validate([given])
    (out,) = model.run([given])
    assert (out.name, out.datatype, out.shape) == ("y", datatype, shape)
    assert bytes(out.data) == bytes(given.data)


def test_signature_has_the_protocols_types_and_any_size_for_symbols(load: Load) -> None:
    model = load(
        [value("x", P.FLOAT, ["N", 3, None])],
        [value("y", P.INT64, None), value("z", P.DOUBLE, ["N", 3, None])],
        [node("Shape", ["x"], ["y"]), node("Cast", ["x"], ["z"], to=P.DOUBLE)],
    )
    assert model.inputs == (TensorSpec("x", Datatype.FP32, (-1, 3, -1)),)
    assert model.outputs == (
        TensorSpec("y", Datatype.INT64, (3,)),  # inferred by ONNX Runtime
        TensorSpec("z", Datatype.FP64, (-1, 3, -1)),
    )
    assert model.provider == CPU


def test_tensor_may_lie_at_an_odd_address(two_inputs: LoadedModel) -> None:
    frame = bytearray(33)
    frame[1:17] = frame[17:33] = struct.pack("<4f", 1, 2, 3, 4)
    a, b = (
        Tensor(name, Datatype.FP32, (2, 2), memoryview(frame)[at : at + 16])
        for name, at in (("a", 1), ("b", 17))
    )
    (total,) = two_inputs.run([a, b], ["sum"])
    frame[:] = bytes(len(frame))  # an output owns its bytes
    assert floats(total) == [[2.0, 4.0], [6.0, 8.0]]


def test_bfloat16_mixes_with_other_types_on_both_sides(load: Load) -> None:
    model = load(
        [value("x", P.BFLOAT16, ["N"]), value("f", P.FLOAT, ["N"])],
        [value("y", P.BFLOAT16, ["N"]), value("g", P.FLOAT, ["N"]), value("t", P.STRING, ["N"])],
        [
            node("Cast", ["f"], ["y"], to=P.BFLOAT16),
            node("Cast", ["x"], ["g"], to=P.FLOAT),
            node("Cast", ["f"], ["t"], to=P.STRING),
        ],
    )
    inputs = [
        Tensor.from_numpy("x", np.array([1.5, -2.0], np.float32), Datatype.BF16),
        fp32("f", [3.0, 0.5]),
    ]
    model.validate(inputs)
    t, y, g = model.run(inputs, ["t", "y", "g"])
    assert bytes(y.data) == struct.pack("<HH", 0x4040, 0x3F00)
    assert floats(g) == [1.5, -2.0]
    assert t.to_numpy().tolist() == [b"3", b"0.5"]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda a, b: [], "inputs ['a', 'b'] are missing"),
        (lambda a, b: [a, a, b], "input 'a' is given twice"),
        (lambda a, b: [a, b, fp32("c", [1])], "the model has no input 'c'"),
        (
            lambda a, b: [fp32("a", [1, 2]), b],
            "tensor 'a' has shape [2], the model takes [-1, 2] (-1 is any size); one row alone has shape [1, 2]",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_the_callers_fault_and_the_model_says_what_it_takes(
    two_inputs: LoadedModel,
    make: Callable[[Tensor, Tensor], list[Tensor]],
    complaint: str,
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        two_inputs.validate(make(fp32("a", [[1, 2]]), fp32("b", [[1, 2]])))
    assert caught.value.message == (
        f"{complaint}; the model's inputs are a FP32[-1, 2], b FP32[-1, 2]"
    )


def test_outputs_come_in_the_order_asked_for_or_all(two_inputs: LoadedModel) -> None:
    inputs = [fp32("b", [[10, 20]]), fp32("a", [[1, 2]])]
    two_inputs.validate(inputs, ["copy", "sum"])
    assert [(out.name, floats(out)) for out in two_inputs.run(inputs, ["copy", "sum"])] == [
        ("copy", [[1.0, 2.0]]),
        ("sum", [[11.0, 22.0]]),
    ]
    assert [out.name for out in two_inputs.run(inputs)] == ["sum", "copy"]
    with pytest.raises(InvalidRequest) as caught:
        two_inputs.validate(inputs, ["sum", "product"])
    assert caught.value.message == (
        "the model has no output 'product'; its outputs are sum FP32[-1, 2], copy FP32[-1, 2]"
    )
    with pytest.raises(InvalidRequest, match=r"asked for twice: \['sum', 'sum'\]"):
        two_inputs.validate(inputs, ["sum", "sum"])
    for _ in range(2):
        two_inputs.close()
    with pytest.raises(ModelUnavailable, match="unloaded"):
        two_inputs.run(inputs)


@pytest.fixture
def _binding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand for a package of ONNX Runtime that brings no library beside its binding."""
    monkeypatch.setattr(onnx_backend, "_raw_text_runtime", lambda: None)


@pytest.mark.usefixtures("_binding_alone")
def test_text_that_is_not_utf8_is_refused_at_once(identity: Callable[..., LoadedModel]) -> None:
    model = identity(Datatype.BYTES, ["N"])
    tensor = Tensor.from_numpy("x", np.array([b"fine", b"\xff\xfe"], object))
    with pytest.raises(InvalidRequest) as caught:
        model.validate([tensor])
    assert caught.value.message == (
        r"input 'x': element 1 starts with b'\xff\xfe' and is not UTF-8: this node gives the model texts "
        "through ONNX Runtime's Python binding, which takes no others"
    )


def test_invalid_argument_of_the_runtime_is_the_callers_fault(load: Load) -> None:
    model = load(
        [value("x", P.FLOAT, ["N"]), value("i", P.INT64, ["M"])],
        [value("y", P.FLOAT, ["M"])],
        [node("Gather", ["x", "i"], ["y"])],
    )
    inputs = [fp32("x", [1, 2, 3]), Tensor.from_numpy("i", np.array([9]))]
    model.validate(inputs)
    with pytest.raises(InvalidRequest) as caught:
        model.run(inputs)
    assert caught.value.message.startswith("ONNX Runtime refuses the inputs: 2 : INVALID_ARGUMENT")
    assert "idx=9 must be within the inclusive range [-3,2]" in caught.value.message


def test_model_goes_on_after_a_failed_run(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    model = load(
        [value("x", P.FLOAT, ["N"]), value("s", P.INT64, ["K"])],
        [value("y", P.FLOAT, None)],
        [node("Reshape", ["x", "s"], ["y"])],
    )
    x = fp32("x", [1, 2, 3, 4])
    with pytest.raises(RunFailed) as caught:
        model.run([x, Tensor.from_numpy("s", np.array([3, 3]))])
    assert caught.value.message.startswith("the model's run failed: 1 : FAIL")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600
    (out,) = model.run([x, Tensor.from_numpy("s", np.array([2, 2]))])
    assert floats(out) == [[1.0, 2.0], [3.0, 4.0]]
    assert capfd.readouterr() == ("", "")  # a caller cannot fill the node's log


@pytest.mark.usefixtures("_binding_alone")
def test_made_text_that_is_not_utf8_is_a_failed_run(load: Load) -> None:
    suffix = onnx.TensorProto(name="c", data_type=P.STRING, dims=[1], string_data=[b"\xff\xfe"])
    model = load(
        [value("x", P.STRING, ["N"])],
        [value("y", P.STRING, ["N"])],
        [node("StringConcat", ["x", "c"], ["y"])],
        [suffix],
    )
    with pytest.raises(RunFailed, match="an output has text that is not UTF-8, which ONNX"):
        model.run([Tensor.from_numpy("x", np.array(["a"], object))])


def tensor_type(kind: int = P.FLOAT) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(kind, ["N"])


@pytest.mark.parametrize(
    ("inputs", "outputs", "nodes", "weights", "reason"),
    [
        (
            [helper.make_value_info("a", helper.make_sequence_type_proto(tensor_type()))],
            [helper.make_value_info("y", helper.make_sequence_type_proto(tensor_type()))],
            [node("Identity", ["a"], ["y"])],
            [],
            "input 'a' is seq(tensor(float)), which the protocol cannot carry",
        ),
        (
            [value("a", P.INT4, ["N"])],
            [value("y", P.FLOAT, ["N"])],
            [node("DequantizeLinear", ["a", "s"], ["y"])],
            [helper.make_tensor("s", P.FLOAT, [], [0.5])],
            "input 'a' is tensor(int4), which the protocol cannot carry",
        ),
        (
            [value("a", P.STRING, ["N"]), value("b", P.BFLOAT16, ["N"])],
            [value("y", P.BFLOAT16, ["N"]), value("t", P.STRING, ["N"])],
            [node("Identity", ["b"], ["y"]), node("Identity", ["a"], ["t"])],
            [],
            "output 'y' is bfloat16 beside the string input 'a'",
        ),
        (
            [value("a", P.FLOAT, ["N"])],
            [helper.make_value_info("y", helper.make_sequence_type_proto(tensor_type()))],
            [node("SequenceConstruct", ["a"], ["y"])],
            [],
            "output 'y' is seq(tensor(float)), which is no tensor",
        ),
        (
            [value("a", P.FLOAT, [1])],
            [value("y", P.FLOAT, [1])],
            [node("Own", ["a"], ["y"], domain="custom")],
            [],
            "No opset import for domain 'custom'",
        ),
    ],
    ids=["sequence", "four bits", "text beside bfloat16", "no tensor comes out", "operator"],
)
def test_model_that_cannot_be_served_is_refused_at_load_with_the_reason(
    load: Load, inputs: Any, outputs: Any, nodes: Any, weights: Any, reason: str
) -> None:
    with pytest.raises(ModelInvalid) as caught:
        load(inputs, outputs, nodes, weights)
    assert reason in caught.value.message


def sequence_of(value: str, name: str) -> onnx.NodeProto:
    return node("SequenceConstruct", [value], [name])


def test_output_that_is_no_tensor_is_left_out_with_a_note(load: Load) -> None:
    loaded = load(
        [value("x", P.FLOAT, ["N"])],
        [helper.make_value_info("all", helper.make_sequence_type_proto(tensor_type())),
         value("y", P.FLOAT, ["N"])],
        [node("Neg", ["x"], ["y"]), sequence_of("x", "all")],
    )  # fmt: skip
    assert loaded.outputs == (TensorSpec("y", Datatype.FP32, (-1,)),)
    assert loaded.notes == (
        "output 'all' is left out: it is seq(tensor(float)), which is no tensor",
    )
    (y,) = loaded.run([Tensor.from_numpy("x", np.float32([2.0]))])
    assert (y.name, y.to_numpy().tolist()) == ("y", [-2.0])
    with pytest.raises(InvalidRequest, match="no output 'all'; its outputs are y FP32"):
        loaded.validate([Tensor.from_numpy("x", np.float32([2.0]))], ["all"])


@pytest.fixture(scope="module")
def classifier() -> tuple[onnx.ModelProto, Any]:
    """A classifier as skl2onnx converts it by default, and rows for it."""
    rows = np.float32([[0, 1], [1, 0], [2, 3], [3, 2]])
    fitted = LogisticRegression().fit(rows, [0, 1, 0, 1])
    return to_onnx(fitted, rows[:1]), rows


def test_classifier_of_skl2onnx_is_served_by_its_label_and_the_way_to_the_rest_is_told(
    classifier: tuple[onnx.ModelProto, Any], tmp_path: Path
) -> None:
    model, rows = classifier
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    loaded = OnnxBackend().load(source_at(path))
    (label,) = loaded.run([Tensor.from_numpy("X", rows)])
    assert (label.name, label.to_numpy().tolist()) == ("output_label", [0, 1, 0, 1])
    assert loaded.notes == (
        "output 'output_probability' is left out: it is seq(map(int64,tensor(float))), which is no tensor; "
        "skl2onnx makes a tensor of it with options={'zipmap': False}",
    )
    loaded.close()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("xx_XX.UTF-8", "sudo localedef -i xx_XX -f UTF-8 xx_XX.UTF-8"),
        ("xx_XX.UTF-8; rm -r .:", ""),
    ],
)
def test_lacking_locale_is_told_with_what_to_run(load: Load, name: str, command: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        load(
            [value("x", P.STRING, ["N"])],
            [value("y", P.STRING, ["M"])],
            [node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale=name)],
        )
    message = caught.value.message
    assert "Failed to construct locale" in message
    assert message.endswith(f" && {command}") if command else "localedef" not in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "ONNX Runtime cannot load it: "),
        (b"junk", "the ONNX file is cut short or broken: field 13 at byte 0 ends at byte 119"),
    ],
)
def test_file_that_is_no_model_is_invalid(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelInvalid, match=complaint):
        OnnxBackend().load(source_at(path))


def external_model(folder: Path, location: str) -> Path:
    weights = onnx.TensorProto(name="w", data_type=P.FLOAT, dims=[2])
    weights.data_location = P.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", "8")):
        weights.external_data.add(key=key, value=text)
    return write(
        folder / "model.onnx",
        [value("x", P.FLOAT, [2])],
        [value("y", P.FLOAT, [2])],
        [node("Add", ["x", "w"], ["y"])],
        [weights],
    )


@pytest.mark.parametrize("how", ["parent", "absolute", "link", "memory"])
def test_runtime_reads_no_data_outside_the_models_folder(tmp_path: Path, how: str) -> None:
    outside = tmp_path / "w.bin"
    outside.write_bytes(bytes(8))
    location = {
        "parent": "../w.bin",
        "absolute": str(outside),
        "link": "link.bin",
        "memory": "*/_ORT_MEM_ADDR_/*",
    }[how]
    path = external_model(tmp_path / "m", location)
    (tmp_path / "m" / "link.bin").symlink_to(outside)
    with pytest.raises(ModelInvalid, match="ONNX Runtime cannot load it: "):
        OnnxBackend().load(source_at(path))


def small_model(folder: Path) -> Path:
    return write(
        folder / "model.onnx",
        [value("x", P.FLOAT, [1])],
        [value("y", P.FLOAT, [1])],
        [node("Identity", ["x"], ["y"])],
    )


def test_provider_that_this_runtime_lacks_is_refused_with_what_it_has(tmp_path: Path) -> None:
    manifest = Manifest(providers=("QuantumExecutionProvider",))
    with pytest.raises(ModelInvalid) as caught:
        OnnxBackend().load(source_at(small_model(tmp_path), manifest))
    assert caught.value.message.startswith(
        "it should run on QuantumExecutionProvider, but this ONNX Runtime has only "
    )
    assert CPU in caught.value.message
    assert caught.value.message.endswith(
        "`allow_cpu_fallback = true` in its capamesh.toml accepts the CPU"
    )


class FellBack:
    """Stands in for a session on a machine where CUDA is asked for and the CPU given, silently."""

    asked: object = None
    providers: Sequence[str] = (CPU,)
    busy: Sequence[str] = ()

    def __init__(self, path: str, options: object, **settings: object) -> None:
        del path, options
        type(self).asked = settings
        self._session = None

    def get_providers(self) -> list[str]:
        return list(self.providers)

    def get_provider_graph_assignment_info(self) -> list[object]:
        return [SimpleNamespace(ep_name=name) for name in self.busy]

    def get_inputs(self) -> list[object]:
        return []

    def get_outputs(self) -> list[object]:
        return []


@pytest.fixture
def fell_back(monkeypatch: pytest.MonkeyPatch) -> type[FellBack]:
    session = type("Session", (FellBack,), {})
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnx_backend, "read_in_cuda", lambda: ("libcublas.so.13: no such file",))
    return session


TENSORRT, OPENVINO = "TensorrtExecutionProvider", "OpenVINOExecutionProvider"


@pytest.mark.parametrize(
    ("manifest", "given", "busy", "provider"),
    [
        (Manifest(), (CUDA, CPU), (), CUDA),
        (Manifest(allow_cpu_fallback=True), (CUDA, CPU), (CPU, CPU), CPU),
        (Manifest(providers=(CUDA, CPU)), (CPU,), (), CPU),
        (Manifest(providers=(TENSORRT, CUDA)), (TENSORRT, CUDA, CPU), (CPU, CUDA), CUDA),
        (Manifest(providers=(OPENVINO,)), (OPENVINO, CPU), (OPENVINO, CPU), OPENVINO),
        (Manifest(providers=("Quantum",), allow_cpu_fallback=True), (CPU,), (), CPU),
    ],
)
def test_best_provider_that_took_an_operator_is_told(
    tmp_path: Path,
    fell_back: type[FellBack],
    monkeypatch: pytest.MonkeyPatch,
    manifest: Manifest,
    given: tuple[str, ...],
    busy: tuple[str, ...],
    provider: str,
) -> None:
    available = [TENSORRT, CUDA, OPENVINO, CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    fell_back.providers, fell_back.busy = given, busy
    told: list[tuple[str, str]] = []
    backend = OnnxBackend("cuda", on_fallback=lambda source, why: told.append((source.name, why)))
    source = source_at(small_model(tmp_path), manifest)
    assert backend.load(source).provider == provider
    is_other = provider != (*manifest.providers, CUDA)[0]
    assert [name for name, _ in told] == [source.name] * is_other
    if provider == OPENVINO:  # known by its name alone, it has no options
        assert fell_back.asked == {"providers": [(OPENVINO, {})], "enable_fallback": False}
    if manifest == Manifest(allow_cpu_fallback=True):
        assert told[0][1].startswith(
            f"it should run on {CUDA}, but none of its operators can; {CPU} takes all"
        )


def test_silent_fall_back_to_the_cpu_is_refused(tmp_path: Path, fell_back: type[FellBack]) -> None:
    with pytest.raises(ModelInvalid) as caught:
        OnnxBackend("cuda", device_index=3).load(source_at(small_model(tmp_path)))
    assert caught.value.message == (
        f"it should run on {CUDA}, but ONNX Runtime fell back to {CPU}; libcublas.so.13: no such file; "
        f"for CUDA: pip install 'onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}', and a driver; "
        "capamesh doctor says which is missing; "
        "`allow_cpu_fallback = true` in its capamesh.toml accepts the CPU"
    )
    fell_back.providers, fell_back.busy = (CUDA, CPU), (CPU, CPU)
    with pytest.raises(ModelInvalid, match=r"but none of its operators can; .* `allow_cpu"):
        OnnxBackend("cuda", device_index=3).load(source_at(small_model(tmp_path)))
    assert fell_back.asked == {
        "providers": [
            (
                CUDA,
                {
                    "device_id": "3",
                    "arena_extend_strategy": "kSameAsRequested",
                    "cudnn_conv_algo_search": "HEURISTIC",
                },
            )
        ],
        "enable_fallback": False,
    }


def test_engines_that_tensorrt_compiles_are_kept_for_each_digest(
    tmp_path: Path, fell_back: type[FellBack], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt = TENSORRT
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [tensorrt, CUDA, CPU])
    fell_back.providers = (tensorrt, CPU)
    cache = tmp_path / "cache"
    backend = OnnxBackend("cuda", device_index=1, cache_folder=cache)
    source = source_at(small_model(tmp_path), Manifest(providers=(tensorrt,)))
    engines = cache / source.digest.replace(":", "-")
    backend.load(source)
    assert fell_back.asked == {
        "providers": [
            (
                tensorrt,
                {
                    "device_id": "1",
                    "trt_engine_cache_enable": "1",
                    "trt_engine_cache_path": str(engines),
                    "trt_timing_cache_enable": "1",
                    "trt_timing_cache_path": str(cache),
                },
            )
        ],
        "enable_fallback": False,
    }
    assert engines.stat().st_mode & 0o777 == 0o700
    os.utime(engines, (1_000, 1_000))
    backend.load(source_at(small_model(tmp_path), Manifest(providers=(tensorrt,))))
    assert engines.stat().st_mtime > 1_000  # it is in use


def test_settings_that_make_no_sense_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="device 'tpu' is unknown; it is one of cpu, cuda"):
        OnnxBackend("tpu")
    with pytest.raises(ConfigError, match="intra_op_threads is 0; it must be at least 1"):
        OnnxBackend(intra_op_threads=0)
    with pytest.raises(ConfigError, match="memory_limit_bytes is -1; 0 is for no limit"):
        OnnxBackend(memory_limit_bytes=-1)


def test_file_that_is_not_the_verified_one_is_not_given_to_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_at(small_model(tmp_path))
    write(
        tmp_path / "other",
        [value("x", P.FLOAT, [1])],
        [value("y", P.FLOAT, [1])],
        [node("Neg", ["x"], ["y"])],
    ).rename(source.path)
    monkeypatch.setattr(onnxruntime, "InferenceSession", pytest.fail)
    with pytest.raises(ContentChanged, match="has other bytes than sha256-chunks:"):
        OnnxBackend().load(source)


def test_file_that_is_changed_while_the_runtime_reads_it_gives_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_at(small_model(tmp_path))
    real = onnxruntime.InferenceSession

    def swapping(path: str, *args: Any, **more: Any) -> object:
        Path(path).write_bytes(b"")
        small_model(tmp_path / "again").rename(path)
        return real(path, *args, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", swapping)
    with pytest.raises(ContentChanged, match="was changed while it was read"):
        OnnxBackend().load(source)


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    read_in_cuda.cache_clear()
    yield
    read_in_cuda.cache_clear()


def printing(*lines: str) -> Callable[[], None]:
    return lambda: print(*lines, sep="\n")  # noqa: T201 - as ONNX Runtime does


def test_libraries_that_cannot_be_read_in_are_told_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printing(
        "Failed to load libcublasLt.so.13: no such file",
        "Failed to load libcudart.so.13: no such file",
        "Please follow https://onnxruntime.ai/docs/install/ to install CUDA.",
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", said)
    assert read_in_cuda() == ("libcublasLt.so.13: no such file", "libcudart.so.13: no such file")
    assert capsys.readouterr().out == ""
