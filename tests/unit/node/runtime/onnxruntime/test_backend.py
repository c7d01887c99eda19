"""The ONNX Runtime backend on the CPU, over tiny models built for each test."""

from __future__ import annotations

import dataclasses
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_llama
from model_files import f32, onnx_model, source_at, write_onnx
from onnx import helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from capamesh.node.repository import ContentChanged, Manifest, ModelSource, scan
from capamesh.node.runtime.api import LoadedModel
from capamesh.node.runtime.onnxruntime import backend as onnx_backend
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.runtime.onnxruntime.preload import read_in_cuda
from capamesh.node.runtime.onnxruntime.raw_texts import MAX_MODEL_BYTES, RawTextSession
from capamesh.protocol.errors import (
    ConfigError,
    InvalidRequest,
    ModelInvalid,
    ModelUnavailable,
    RunFailed,
)
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

P = onnx.TensorProto
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT, OPENVINO = "TensorrtExecutionProvider", "OpenVINOExecutionProvider"
OTHER_NAMES = {
    "FP16": "FLOAT16",
    "BF16": "BFLOAT16",
    "FP32": "FLOAT",
    "FP64": "DOUBLE",
    "BYTES": "STRING",
}
value = helper.make_tensor_value_info
node = helper.make_node

Load = Callable[..., LoadedModel]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that loads a model of these nodes, inputs, outputs and weights on the CPU."""

    def loaded(*graph: Any) -> LoadedModel:
        path = write_onnx(tmp_path / "model.onnx", onnx_model(*graph))
        return OnnxBackend("cpu").load(source_at(path))

    return loaded


@pytest.fixture
def two_inputs(load: Load) -> LoadedModel:
    """`sum = a + b` over f32[N,2], `copy = a`."""
    nodes = [node("Add", ["a", "b"], ["sum"]), node("Identity", ["a"], ["copy"])]
    inputs, outputs = ([f32(name, "N", 2) for name in names] for names in ("ab", ("sum", "copy")))
    return load(nodes, inputs, outputs)


def fp32(name: str, values: object) -> Tensor:
    return Tensor.from_numpy(name, np.array(values, dtype=np.float32))


def values(tensors: Sequence[Tensor]) -> dict[str, Any]:
    return {one.name: one.to_numpy().tolist() for one in tensors}


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


@pytest.mark.parametrize("datatype", list(Datatype))
@pytest.mark.parametrize(
    ("declared", "shape"), [(["N", 3], (2, 3)), (["N", 3], (0, 3)), (None, (1, 3, 2))]
)
def test_every_datatype_goes_in_and_out_bit_by_bit(
    load: Load, datatype: Datatype, declared: list[int | str] | None, shape: tuple[int, ...]
) -> None:
    kind = getattr(P, OTHER_NAMES.get(datatype.name, datatype.name))
    x, y = (value(name, kind, declared) for name in "xy")
    model = load([node("Identity", ["x"], ["y"])], [x], [y])
    data = memoryview(raw_elements(datatype, int(np.prod(shape))))
    given = Tensor("x", datatype, shape, data)
    model.validate([given])
    (out,) = model.run([given])
    assert (out.name, out.datatype, out.shape) == ("y", datatype, shape)
    assert bytes(out.data) == bytes(given.data)


def test_signature_has_the_protocols_types_and_any_size_for_symbols(load: Load) -> None:
    model = load(
        [node("Shape", ["x"], ["y"]), node("Cast", ["x"], ["z"], to=P.DOUBLE)],
        [f32("x", "N", 3, None)],
        [value("y", P.INT64, None), value("z", P.DOUBLE, ["N", 3, None])],
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
    total = two_inputs.run([a, b], ["sum"])
    frame[:] = bytes(len(frame))  # an output owns its bytes
    assert values(total) == {"sum": [[2.0, 4.0], [6.0, 8.0]]}


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
    two_inputs: LoadedModel, make: Callable[[Tensor, Tensor], list[Tensor]], complaint: str
) -> None:
    whole = f"{complaint}; the model's inputs are a FP32[-1, 2], b FP32[-1, 2]"
    with pytest.raises(InvalidRequest, match=f"^{re.escape(whole)}$"):
        two_inputs.validate(make(fp32("a", [[1, 2]]), fp32("b", [[1, 2]])))


def test_outputs_come_in_the_order_asked_for_or_all(two_inputs: LoadedModel) -> None:
    inputs = [fp32("b", [[10, 20]]), fp32("a", [[1, 2]])]
    two_inputs.validate(inputs, ["copy", "sum"])
    asked = two_inputs.run(inputs, ["copy", "sum"])
    assert [*values(asked).items()] == [("copy", [[1.0, 2.0]]), ("sum", [[11.0, 22.0]])]
    assert [out.name for out in two_inputs.run(inputs)] == ["sum", "copy"]
    with pytest.raises(InvalidRequest, match=r"no output 'product'; its outputs are sum FP32\[-1"):
        two_inputs.validate(inputs, ["sum", "product"])
    with pytest.raises(InvalidRequest, match=r"asked for twice: \['sum', 'sum'\]"):
        two_inputs.validate(inputs, ["sum", "sum"])
    for _ in range(2):
        two_inputs.close()
    with pytest.raises(ModelUnavailable, match="unloaded"):
        two_inputs.run(inputs)


# runs that fail


def test_invalid_argument_of_the_runtime_is_the_callers_fault(load: Load) -> None:
    model = load(
        [node("Gather", ["x", "i"], ["y"])],
        [f32("x", "N"), value("i", P.INT64, ["M"])],
        [f32("y", "M")],
    )
    inputs = [fp32("x", [1, 2, 3]), Tensor.from_numpy("i", np.array([9]))]
    model.validate(inputs)
    refusal = (
        r"^the model cannot run these inputs, which are x FP32\[3\], i INT64\[1\]; the model's inputs are x FP32\[-1\], i INT64\[-1\]. "
        r"ONNX Runtime says: [^:]*idx=9 must be within .* \[-3,2\]"
    )
    with pytest.raises(InvalidRequest, match=refusal):
        model.run(inputs)


def test_model_goes_on_after_a_failed_run(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    inputs = [f32("x", "N"), value("s", P.INT64, ["K"])]
    model = load([node("Reshape", ["x", "s"], ["y"])], inputs, [value("y", P.FLOAT, None)])
    x = fp32("x", [1, 2, 3, 4])
    with pytest.raises(RunFailed, match=r"^the model's run failed: 1 : FAIL") as caught:
        model.run([x, Tensor.from_numpy("s", np.array([3, 3]))])
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600
    out = model.run([x, Tensor.from_numpy("s", np.array([2, 2]))])
    assert values(out) == {"y": [[1.0, 2.0], [3.0, 4.0]]}
    assert capfd.readouterr() == ("", "")  # a caller cannot fill the node's log


# models and files that are refused


SEQUENCE = helper.make_sequence_type_proto(helper.make_tensor_type_proto(P.FLOAT, ["N"]))


def sequence(name: str) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, SEQUENCE)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (
            ([node("Identity", ["a"], ["y"])], [sequence("a")], [sequence("y")]),
            "input 'a' is seq(tensor(float)), which the protocol cannot carry",
        ),
        (
            (
                [node("DequantizeLinear", ["a", "s"], ["y"])],
                [value("a", P.INT4, ["N"])],
                [f32("y", "N")],
                [helper.make_tensor("s", P.FLOAT, [], [0.5])],
            ),
            "input 'a' is tensor(int4), which the protocol cannot carry",
        ),
        (
            (
                [node("Identity", ["b"], ["y"]), node("Identity", ["a"], ["t"])],
                [value("a", P.STRING, ["N"]), value("b", P.BFLOAT16, ["N"])],
                [value("y", P.BFLOAT16, ["N"]), value("t", P.STRING, ["N"])],
            ),
            "output 'y' is bfloat16 beside the string input 'a'",
        ),
        (
            ([node("SequenceConstruct", ["a"], ["y"])], [f32("a", "N")], [sequence("y")]),
            "output 'y' is seq(tensor(float)), which is no tensor",
        ),
        (
            ([node("Own", ["a"], ["y"], domain="custom")], [f32("a", 1)], [f32("y", 1)]),
            "No opset import for domain 'custom'",
        ),
    ],
    ids=["sequence", "four bits", "text beside bfloat16", "no tensor comes out", "operator"],
)
def test_odd_model_is_refused_at_load(load: Load, graph: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(ModelInvalid, match=re.escape(reason)):
        load(*graph)


def test_output_that_is_no_tensor_is_left_out_with_a_note(load: Load) -> None:
    nodes = [node("Neg", ["x"], ["y"]), node("SequenceConstruct", ["x"], ["all"])]
    loaded = load(nodes, [f32("x", "N")], [sequence("all"), f32("y", "N")])
    assert loaded.outputs == (TensorSpec("y", Datatype.FP32, (-1,)),)
    note = "output 'all' is left out: it is seq(tensor(float)), which is no tensor"
    assert loaded.notes == (note,)
    assert values(loaded.run([fp32("x", [2.0])])) == {"y": [-2.0]}
    with pytest.raises(InvalidRequest, match="no output 'all'; its outputs are y FP32"):
        loaded.validate([fp32("x", [2.0])], ["all"])


def test_classifier_of_skl2onnx_is_served_by_its_label_and_says_what_to_do(tmp_path: Path) -> None:
    rows = np.float32([[0, 1], [1, 0], [2, 3], [3, 2]])
    fitted = LogisticRegression().fit(rows, [0, 1, 0, 1])
    path = write_onnx(tmp_path / "model.onnx", to_onnx(fitted, rows[:1]))
    loaded = OnnxBackend().load(source_at(path))
    assert values(loaded.run([fp32("X", rows)])) == {"output_label": [0, 1, 0, 1]}
    assert loaded.notes == (
        "output 'output_probability' is left out: it is seq(map(int64,tensor(float))), which is no tensor; "
        "skl2onnx makes a tensor of it with options={'zipmap': False}",
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("xx_XX.UTF-8", "sudo localedef -i xx_XX -f UTF-8 xx_XX.UTF-8"),
        ("xx_XX.UTF-8; rm -r .:", ""),
    ],
)
def test_lacking_locale_is_told_with_what_to_run(load: Load, name: str, command: str) -> None:
    lowers = node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale=name)
    with pytest.raises(ModelInvalid, match="Failed to construct locale") as caught:
        load([lowers], [value("x", P.STRING, ["N"])], [value("y", P.STRING, ["M"])])
    message = caught.value.message
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


@pytest.mark.parametrize("location", ["../w.bin", "/w.bin", "link.bin", "*/_ORT_MEM_ADDR_/*"])
def test_runtime_reads_no_data_outside_the_models_folder(tmp_path: Path, location: str) -> None:
    outside = tmp_path / "w.bin"
    outside.write_bytes(bytes(8))
    weights = onnx.TensorProto(name="w", data_type=P.FLOAT, dims=[2], data_location=P.EXTERNAL)
    location = str(outside) if location == "/w.bin" else location
    for key, text in (("location", location), ("offset", "0"), ("length", "8")):
        weights.external_data.add(key=key, value=text)
    added = onnx_model([node("Add", ["x", "w"], ["y"])], [f32("x", 2)], [f32("y", 2)], [weights])
    path = write_onnx(tmp_path / "m" / "model.onnx", added)
    (tmp_path / "m" / "link.bin").symlink_to(outside)
    with pytest.raises(ModelInvalid, match="ONNX Runtime cannot load it: "):
        OnnxBackend().load(source_at(path))


def small_model(folder: Path, operator: str = "Identity") -> Path:
    model = onnx_model([node(operator, ["x"], ["y"])], [f32("x", 1)], [f32("y", 1)])
    return write_onnx(folder / "model.onnx", model)


def test_file_that_is_not_the_verified_one_is_not_given_to_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_at(small_model(tmp_path))
    small_model(tmp_path / "other", "Neg").rename(source.path)
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


# providers


def test_settings_that_make_no_sense_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="device 'tpu' is unknown; it is one of cpu, cuda"):
        OnnxBackend("tpu")
    with pytest.raises(ConfigError, match="intra_op_threads is 0; it must be at least 1"):
        OnnxBackend(intra_op_threads=0)
    with pytest.raises(ConfigError, match="memory_limit_bytes is -1; 0 is for no limit"):
        OnnxBackend(memory_limit_bytes=-1)


def test_provider_that_this_runtime_lacks_is_refused_with_what_it_has(tmp_path: Path) -> None:
    manifest = Manifest(providers=("QuantumExecutionProvider",))
    refusal = (
        "^it should run on QuantumExecutionProvider, but this ONNX Runtime has only .*"
        f"{CPU}.*`allow_cpu_fallback = true` in its capamesh.toml accepts the CPU$"
    )
    with pytest.raises(ModelInvalid, match=refusal):
        OnnxBackend().load(source_at(small_model(tmp_path), manifest))


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

    get_outputs = get_inputs


@pytest.fixture
def fell_back(monkeypatch: pytest.MonkeyPatch) -> type[FellBack]:
    session = type("Session", (FellBack,), {})
    available = [TENSORRT, CUDA, OPENVINO, CPU]
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnx_backend, "read_in_cuda", lambda: ("libcublas.so.13: no such file",))
    return session


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
    manifest: Manifest,
    given: tuple[str, ...],
    busy: tuple[str, ...],
    provider: str,
) -> None:
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
        why = f"it should run on {CUDA}, but none of its operators can; {CPU} takes all"
        assert told[0][1].startswith(why)


def test_silent_fall_back_to_the_cpu_is_refused(tmp_path: Path, fell_back: type[FellBack]) -> None:
    backend, source = OnnxBackend("cuda", device_index=3), source_at(small_model(tmp_path))
    with pytest.raises(ModelInvalid) as caught:
        backend.load(source)
    assert caught.value.message == (
        f"it should run on {CUDA}, but ONNX Runtime fell back to {CPU}; libcublas.so.13: no such file; "
        f"for CUDA: pip install 'onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}', and a driver; "
        "capamesh doctor says which is missing; "
        "`allow_cpu_fallback = true` in its capamesh.toml accepts the CPU"
    )
    fell_back.providers, fell_back.busy = (CUDA, CPU), (CPU, CPU)
    with pytest.raises(ModelInvalid, match=r"but none of its operators can; .* `allow_cpu"):
        backend.load(source)
    options = {
        "device_id": "3",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    assert fell_back.asked == {"providers": [(CUDA, options)], "enable_fallback": False}


def test_engines_that_tensorrt_compiles_are_kept_for_each_digest(
    tmp_path: Path, fell_back: type[FellBack]
) -> None:
    fell_back.providers = (TENSORRT, CPU)
    cache = tmp_path / "cache"
    backend = OnnxBackend("cuda", device_index=1, cache_folder=cache)
    source = source_at(small_model(tmp_path), Manifest(providers=(TENSORRT,)))
    engines = cache / source.digest.replace(":", "-")
    backend.load(source)
    options = {
        "device_id": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }
    assert fell_back.asked == {"providers": [(TENSORRT, options)], "enable_fallback": False}
    assert engines.stat().st_mode & 0o777 == 0o700
    os.utime(engines, (1_000, 1_000))
    backend.load(source)
    assert engines.stat().st_mtime > 1_000  # it is in use


@pytest.fixture
def _anew() -> Iterator[None]:
    read_in_cuda.cache_clear()
    yield
    read_in_cuda.cache_clear()


@pytest.mark.usefixtures("_anew")
def test_libraries_that_cannot_be_read_in_are_told_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = (
        "Failed to load libcublasLt.so.13: no such file\n"
        "Failed to load libcudart.so.13: no such file\n"
        "Please follow https://onnxruntime.ai/docs/install/ to install CUDA."
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print(said))  # noqa: T201 - as it does
    assert read_in_cuda() == ("libcublasLt.so.13: no such file", "libcudart.so.13: no such file")
    assert capsys.readouterr().out == ""


# language models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_llama.write_decoder_folder(folder / "tiny" / "1", "fp16")
    return folder


def decoder_source(models: Path, **manifest: object) -> ModelSource:
    lines = ['task = "chat"', *(f"{key} = {value}" for key, value in manifest.items())]
    (models / "tiny" / "capamesh.toml").write_text("\n".join(lines))
    (source,) = scan(models).models
    return source


def test_decoder_whose_provider_is_not_there_is_refused_or_run_by_the_cpu(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    told: list[str] = []
    backend = OnnxBackend("cuda", on_fallback=lambda _, why: told.append(why))
    with pytest.raises(ModelInvalid, match=f"but this ONNX Runtime has only {CPU}.*fallback"):
        backend.load(decoder_source(models))
    assert told == []
    assert backend.load(decoder_source(models, allow_cpu_fallback="true")).provider == CPU
    (why,) = told
    assert why.startswith(f"it should run on {CUDA}, but this ONNX Runtime has only")
    loaded = backend.load(decoder_source(models, providers=f'["{CPU}"]'))
    assert (loaded.provider, len(told)) == (CPU, 1)
    tensorrt = decoder_source(models, providers=f'["{TENSORRT}"]')
    with pytest.raises(ModelInvalid, match="decoders run on CUDAExecutionProvider and CPU"):
        OnnxBackend("cuda").load(tensorrt)


# texts of any bytes, which the Python binding cannot carry, through the library beside it

raw_texts = pytest.mark.skipif(
    onnx_backend._raw_text_runtime() is None,
    reason="this package of ONNX Runtime brings no library beside its Python binding",
)
ODD = [b"\xff\xfe\x00\x80", b"", b"a\x00b", b"\x00", b"\xf0\x9f", "grün".encode(), b"x" * 100_000]


@pytest.fixture
def texts(tmp_path: Path) -> ModelSource:
    """A model that gives back texts, adds a float to itself, and says which texts are "a"."""
    text, same = (value(name, P.STRING, ["N", "M"]) for name in ("text", "same"))
    nodes = [
        node("Identity", ["text"], ["same"]),
        node("Add", ["x", "x"], ["twice"]),
        node("Equal", ["text", "a"], ["is_a"]),
    ]
    outputs = [same, f32("twice", "N"), value("is_a", P.BOOL, ["N", "M"])]
    a = helper.make_tensor("a", P.STRING, [], [b"a"])
    model = onnx_model(nodes, [text, f32("x", "N")], outputs, [a])
    return source_at(write_onnx(tmp_path / "model.onnx", model))


def rows_of(*rows: Sequence[bytes]) -> list[Tensor]:
    array = np.array([[*row] for row in rows], object)
    return [Tensor.from_numpy("text", array), fp32("x", range(len(rows)))]


@raw_texts
def test_any_bytes_come_out_as_they_were(
    texts: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OnnxBackend().load(texts)
    asked = rows_of(ODD, [b"a"] * len(ODD))
    model.validate(asked)
    is_a = [[False] * len(ODD), [True] * len(ODD)]
    expected = {"same": [ODD, [b"a"] * len(ODD)], "twice": [0.0, 2.0], "is_a": is_a}
    assert values(model.run(asked)) == expected
    assert values(model.run(asked, ["twice"])) == {"twice": [0.0, 2.0]}
    monkeypatch.setattr(RawTextSession, "run", pytest.fail)  # the binding can run what is UTF-8
    plain = ["grün".encode(), b"a\x00b"]
    assert values(model.run(rows_of(plain), ["same"])) == {"same": [plain]}


@raw_texts
def test_model_that_is_too_large_for_a_second_session_takes_utf_8_alone(texts: ModelSource) -> None:
    content = dataclasses.replace(texts.content, size_bytes=MAX_MODEL_BYTES + 1)
    model = OnnxBackend().load(dataclasses.replace(texts, content=content))
    with pytest.raises(InvalidRequest, match="Python binding, which takes no others"):
        model.validate(rows_of(ODD))


@pytest.mark.parametrize("is_raw", [pytest.param(True, marks=raw_texts), False])
def test_text_that_the_model_makes_may_be_any_bytes_where_the_library_is(
    load: Load, monkeypatch: pytest.MonkeyPatch, *, is_raw: bool
) -> None:
    if not is_raw:
        monkeypatch.setattr(onnx_backend, "_raw_text_runtime", lambda: None)
    end = onnx.TensorProto(name="end", data_type=P.STRING, dims=[1], string_data=[b"\xff"])
    x, y = (value(name, P.STRING, ["N"]) for name in "xy")
    model = load([node("StringConcat", ["x", "end"], ["y"])], [x], [y], [end])
    fine = [Tensor.from_numpy("x", np.array([b"fine"], object))]
    odd = [Tensor.from_numpy("x", np.array([b"fine", b"\xff\xfe"], object))]
    if is_raw:
        assert values(model.run(fine)) == {"y": [b"fine\xff"]}
        return
    with pytest.raises(RunFailed, match="an output has text that is not UTF-8, which ONNX"):
        model.run(fine)
    refusal = r"input 'x': element 1 starts with b'\\xff\\xfe' and is not UTF-8: this node gives"
    with pytest.raises(InvalidRequest, match=refusal):
        model.validate(odd)
