"""A models folder as Triton users have it: seven ONNX models with their `config.pbtxt`, of the names and shapes of
Triton's own examples, and models that keep implicit states. Small nets of our own. Writes files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from engine_models import model_of, value_of
from onnx import TensorProto, helper

EXAMPLES = (
    "densenet_onnx",
    "inception_onnx",
    "simple",
    "simple_dyna_sequence",
    "simple_int8",
    "simple_sequence",
    "simple_string",
)
_T = TensorProto
_PAIR = ("INPUT0", "INPUT1")
_SUMS = ("OUTPUT0", "OUTPUT1")


def write_examples(folder: Path) -> None:
    """Put the seven models of `EXAMPLES` into `folder`."""
    for name, kind, word in (
        ("simple", _T.INT32, "INT32"),
        ("simple_int8", _T.INT8, "INT8"),
        ("simple_string", _T.STRING, "STRING"),
    ):
        _write(folder, name, _sums(kind), _sums_config(name, word))
    _write(folder, "simple_sequence", _accumulating(has_end=False), _SEQUENCE_CONFIG)
    _write(folder, "simple_dyna_sequence", _accumulating(has_end=True), _DYNA_CONFIG)
    picture, scores = ("data_0", [1, 3, 224, 224]), ("fc6_1", [1, 1000, 1, 1])
    _write(folder, "densenet_onnx", _classifier(picture, scores, axis=1), _DENSENET_CONFIG)
    picture = "input:0", [1, 299, 299, 3]
    scores = "InceptionV3/Predictions/Softmax:0", [1, 1001]
    _write(folder, "inception_onnx", _classifier(picture, scores, axis=3), _INCEPTION_CONFIG)


def write_implicit(folder: Path, name: str, initial: str = "", *, is_shown: bool = False) -> None:
    """Put a model into `folder` whose output is the sum of what its sequence has sent, INT32, kept as its state."""
    nodes = [
        helper.make_node("Add", ["INPUT", "INPUT_STATE"], ["OUTPUT_STATE"]),
        helper.make_node("Identity", ["OUTPUT_STATE"], ["OUTPUT"]),
    ]
    inputs = [value_of(one, _T.INT32, ["N", 1]) for one in ("INPUT", "INPUT_STATE")]
    outputs = [value_of(one, _T.INT32, ["N", 1]) for one in ("OUTPUT", "OUTPUT_STATE")]
    shown = 'output { name: "OUTPUT_STATE" data_type: TYPE_INT32 dims: [ 1 ] }' if is_shown else ""
    _write(
        folder, name, model_of(nodes, inputs, outputs), f"{_implicit_config(name, initial)}{shown}"
    )


def write_texts(folder: Path, name: str) -> None:
    """Put a model into `folder` that gives back texts, INPUT0 to OUTPUT0."""
    nodes = [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])]
    inputs = [value_of("INPUT0", _T.STRING, ["N", "M"])]
    outputs = [value_of("OUTPUT0", _T.STRING, ["N", "M"])]
    config = (
        f'name: "{name}" platform: "onnxruntime_onnx" max_batch_size: 8 '
        'input { name: "INPUT0" data_type: TYPE_STRING dims: [ -1 ] } '
        'output { name: "OUTPUT0" data_type: TYPE_STRING dims: [ -1 ] }'
    )
    _write(folder, name, model_of(nodes, inputs, outputs), config)


def zero_start() -> str:
    """Return an `initial_state` of zeros."""
    return 'initial_state { name: "start" data_type: TYPE_INT32 dims: [ 1 ] zero_data: true }'


def file_start(folder: Path, name: str, value: int) -> str:
    """Return an `initial_state` that lies in a file, which is written for the model `name`."""
    place = folder / name / "initial_state"
    place.mkdir(parents=True)
    (place / "start.bin").write_bytes(np.array([value], np.int32).tobytes())
    return (
        'initial_state { name: "start" data_type: TYPE_INT32 dims: [ 1 ] data_file: "start.bin" }'
    )


def _sums(kind: int) -> onnx.ModelProto:
    """Return the sum and the difference of two inputs; those of 8 bits and texts are calculated in 32."""
    nodes = [helper.make_node("Cast", [name], [f"{name}_int"], to=_T.INT32) for name in _PAIR]
    for operator, output in zip(("Add", "Sub"), _SUMS, strict=True):
        nodes.append(helper.make_node(operator, [f"{n}_int" for n in _PAIR], [f"{output}_int"]))
        nodes.append(helper.make_node("Cast", [f"{output}_int"], [output], to=kind))
    return model_of(
        nodes,
        [value_of(name, kind, ["N", 16]) for name in _PAIR],
        [value_of(name, kind, ["N", 16]) for name in _SUMS],
    )


def _accumulating(*, has_end: bool) -> onnx.ModelProto:
    """Return ready * (input + start), with the sequence's id added at its end where `has_end`."""
    names = ["INPUT", "START", *(["END"] if has_end else []), "READY"]
    inputs = [value_of(name, _T.INT32, ["N", 1]) for name in names]
    nodes = [helper.make_node("Add", ["INPUT", "START"], ["started"])]
    last = "started"
    if has_end:
        inputs.append(value_of("CORRID", _T.UINT64, ["N", 1]))
        nodes += [
            helper.make_node("Cast", ["CORRID"], ["id"], to=_T.INT32),
            helper.make_node("Mul", ["END", "id"], ["ending"]),
            helper.make_node("Add", ["started", "ending"], ["ended"]),
        ]
        last = "ended"
    nodes.append(helper.make_node("Mul", ["READY", last], ["OUTPUT"]))
    return model_of(nodes, inputs, [value_of("OUTPUT", _T.INT32, ["N", 1])])


def _classifier(
    picture: tuple[str, list[int]], scores: tuple[str, list[int]], *, axis: int
) -> onnx.ModelProto:
    """Return scores that rise with the picture's mean: its channels, on `axis`, are averaged and multiplied."""
    channels, count = picture[1][axis], int(np.prod(scores[1]))
    others = [at for at in range(1, 4) if at != axis]
    weights = np.arange(channels * count, dtype=np.float32).reshape(channels, count)
    nodes = [
        helper.make_node("ReduceMean", [picture[0], "others"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], [scores[0]]),
    ]
    return model_of(
        nodes,
        [value_of(picture[0], _T.FLOAT, picture[1])],
        [value_of(scores[0], _T.FLOAT, scores[1])],
        {
            "others": np.array(others, np.int64),
            "weights": weights,
            "shape": np.array(scores[1], np.int64),
        },
    )


def _write(folder: Path, name: str, model: onnx.ModelProto, config: str) -> None:
    place = folder / name / "1"
    place.mkdir(parents=True)
    onnx.save(model, str(place / "model.onnx"))
    (folder / name / "config.pbtxt").write_text(config)


def _sums_config(name: str, word: str) -> str:
    tensor = f"data_type: TYPE_{word} dims: [ 16 ]"
    inputs = " ".join(f'input {{ name: "{one}" {tensor} }}' for one in _PAIR)
    outputs = " ".join(f'output {{ name: "{one}" {tensor} }}' for one in _SUMS)
    return f'name: "{name}" platform: "onnxruntime_onnx" max_batch_size: 8 {inputs} {outputs}'


def _flag(name: str, kind: str) -> str:
    return (
        f'control_input {{ name: "{name}" control {{ kind: CONTROL_SEQUENCE_{kind} '
        "int32_false_true: [ 0, 1 ] } }"
    )


_ONE_NUMBER = """
input { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] }
output { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] }
"""
_SEQUENCE_CONFIG = f"""
name: "simple_sequence" platform: "onnxruntime_onnx" max_batch_size: 8
sequence_batching {{ {_flag("START", "START")} {_flag("READY", "READY")} }}
instance_group {{ kind: KIND_CPU }}
{_ONE_NUMBER}
"""
_DYNA_CONFIG = f"""
name: "simple_dyna_sequence" platform: "onnxruntime_onnx" max_batch_size: 8
sequence_batching {{
  max_sequence_idle_microseconds: 10000000
  oldest {{ max_candidate_sequences: 1024 max_queue_delay_microseconds: 10000 }}
  {_flag("START", "START")} {_flag("END", "END")} {_flag("READY", "READY")}
  control_input {{ name: "CORRID" control {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} }}
}}
parameters {{ key: "execute_delay_ms" value {{ string_value: "3" }} }}
instance_group {{ count: 2 kind: KIND_CPU }}
{_ONE_NUMBER}
"""
_DENSENET_CONFIG = """
name: "densenet_onnx" platform: "onnxruntime_onnx" max_batch_size: 0
input {
  name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ]
  reshape { shape: [ 1, 3, 224, 224 ] }
}
output {
  name: "fc6_1" data_type: TYPE_FP32 dims: [ 1000 ] reshape { shape: [ 1, 1000, 1, 1 ] }
  label_filename: "labels.txt"
}
"""
_INCEPTION_CONFIG = """
name: "inception_onnx" platform: "onnxruntime_onnx" max_batch_size: 0
input {
  name: "input:0" data_type: TYPE_FP32 format: FORMAT_NHWC dims: [ 299, 299, 3 ]
  reshape { shape: [ 1, 299, 299, 3 ] }
}
output {
  name: "InceptionV3/Predictions/Softmax:0" data_type: TYPE_FP32 dims: [ 1001 ]
  reshape { shape: [ 1, 1001 ] } label_filename: "labels.txt"
}
"""


def _implicit_config(name: str, initial: str) -> str:
    return f"""
name: "{name}" platform: "onnxruntime_onnx" max_batch_size: 8
sequence_batching {{
  state {{
    input_name: "INPUT_STATE" output_name: "OUTPUT_STATE" data_type: TYPE_INT32 dims: [ 1 ] {initial}
  }}
}}
{_ONE_NUMBER}
"""
