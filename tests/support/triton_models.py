"""A models folder as Triton users have it: seven ONNX models with their `config.pbtxt`, of the names and shapes of
Triton's own examples, and models that keep implicit states. Small nets of our own. Writes files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from engine_models import model_of, save

EXAMPLES = (
    "densenet_onnx",
    "inception_onnx",
    "simple",
    "simple_dyna_sequence",
    "simple_int8",
    "simple_sequence",
    "simple_string",
)
ZERO_START = 'initial_state { name: "start" data_type: TYPE_INT32 dims: [ 1 ] zero_data: true }'


def write_examples(folder: Path) -> None:
    """Put the seven models of `EXAMPLES` into `folder`."""
    for name, kind in (("simple", "INT32"), ("simple_int8", "INT8"), ("simple_string", "STRING")):
        _write(folder, name, _sums(kind.lower()), _sums_config(name, kind))
    _write(folder, "simple_sequence", _accumulating(has_end=False), _SEQUENCE_CONFIG)
    _write(folder, "simple_dyna_sequence", _accumulating(has_end=True), _DYNA_CONFIG)
    densenet = _classifier("data_0", [1, 3, 224, 224], "fc6_1", [1, 1000, 1, 1], axis=1)
    _write(folder, "densenet_onnx", densenet, _DENSENET_CONFIG)
    scores = "InceptionV3/Predictions/Softmax:0"
    inception = _classifier("input:0", [1, 299, 299, 3], scores, [1, 1001], axis=3)
    _write(folder, "inception_onnx", inception, _INCEPTION_CONFIG)
    for name, count in (("densenet", 1000), ("inception", 1001)):
        labels = "".join(f"class {number}\n" for number in range(count))
        (folder / f"{name}_onnx" / f"{name}_labels.txt").write_text(labels)


def write_implicit(folder: Path, name: str, initial: str = "", *, is_shown: bool = False) -> None:
    """Put a model into `folder` whose output is the sum of what its sequence has sent, INT32, kept as its state."""
    model = model_of(
        """implicit (int32[N, 1] INPUT, int32[N, 1] INPUT_STATE) => (int32[N, 1] OUTPUT, int32[N, 1] OUTPUT_STATE)
        { OUTPUT_STATE = Add(INPUT, INPUT_STATE) OUTPUT = Identity(OUTPUT_STATE) }"""
    )
    shown = 'output { name: "OUTPUT_STATE" data_type: TYPE_INT32 dims: [ 1 ] }' if is_shown else ""
    _write(folder, name, model, f"{_implicit_config(name, initial)}{shown}")


def write_texts(folder: Path, name: str) -> None:
    """Put a model into `folder` that gives back texts, INPUT0 to OUTPUT0."""
    model = model_of(
        "texts (string[N, M] INPUT0) => (string[N, M] OUTPUT0) { OUTPUT0 = Identity(INPUT0) }"
    )
    config = (
        f'name: "{name}" platform: "onnxruntime_onnx" max_batch_size: 8 '
        'input { name: "INPUT0" data_type: TYPE_STRING dims: [ -1 ] } '
        'output { name: "OUTPUT0" data_type: TYPE_STRING dims: [ -1 ] }'
    )
    _write(folder, name, model, config)


def file_start(folder: Path, name: str, value: int) -> str:
    """Return an `initial_state` that lies in a file, which is written for the model `name`."""
    place = folder / name / "initial_state"
    place.mkdir(parents=True)
    (place / "start.bin").write_bytes(np.array([value], np.int32).tobytes())
    return (
        'initial_state { name: "start" data_type: TYPE_INT32 dims: [ 1 ] data_file: "start.bin" }'
    )


def _sums(kind: str) -> onnx.ModelProto:
    """Return the sum and the difference of two inputs; those of 8 bits and texts are calculated in 32."""
    number = getattr(onnx.TensorProto, kind.upper())
    return model_of(
        f"""sums ({kind}[N, 16] INPUT0, {kind}[N, 16] INPUT1) => ({kind}[N, 16] OUTPUT0, {kind}[N, 16] OUTPUT1) {{
            one = Cast <to = 6> (INPUT0)
            other = Cast <to = 6> (INPUT1)
            sum = Add(one, other)
            difference = Sub(one, other)
            OUTPUT0 = Cast <to = {number}> (sum)
            OUTPUT1 = Cast <to = {number}> (difference)
        }}"""
    )


def _accumulating(*, has_end: bool) -> onnx.ModelProto:
    """Return ready * (input + start), with the sequence's id added at its end where `has_end`."""
    names = ("INPUT", "START", *(["END"] if has_end else []), "READY")
    inputs = [
        *(f"int32[N, 1] {name}" for name in names),
        *(["uint64[N, 1] CORRID"] if has_end else []),
    ]
    ending = "id = Cast <to = 6> (CORRID) ending = Mul(END, id) ended = Add(started, ending)"
    return model_of(
        f"""accumulating ({", ".join(inputs)}) => (int32[N, 1] OUTPUT) {{
            started = Add(INPUT, START)
            {ending if has_end else "ended = Identity(started)"}
            OUTPUT = Mul(READY, ended)
        }}"""
    )


def _classifier(
    picture: str, sides: list[int], scores: str, classes: list[int], *, axis: int
) -> onnx.ModelProto:
    """Return scores that rise with the picture's mean: its channels, on `axis`, are averaged and multiplied."""
    channels, count = sides[axis], int(np.prod(classes))
    return model_of(
        f"""classifier (float{sides} "{picture}") => (float{classes} "{scores}") {{
            means = ReduceMean <keepdims = 0> ("{picture}", others)
            flat = MatMul(means, weights)
            "{scores}" = Reshape(flat, shape)
        }}""",
        others=np.array([at for at in range(1, 4) if at != axis], np.int64),
        weights=np.arange(channels * count, dtype=np.float32).reshape(channels, count),
        shape=np.array(classes, np.int64),
    )


def _write(folder: Path, name: str, model: onnx.ModelProto, config: str) -> None:
    save(model, folder, name)
    (folder / name / "config.pbtxt").write_text(config)


def _sums_config(name: str, word: str) -> str:
    tensor = f"data_type: TYPE_{word} dims: [ 16 ]"
    inputs = ", ".join(f'{{ name: "{one}" {tensor} }}' for one in ("INPUT0", "INPUT1"))
    outputs = ", ".join(f'{{ name: "{one}" {tensor} }}' for one in ("OUTPUT0", "OUTPUT1"))
    return f"""
    name: "{name}" platform: "onnxruntime_onnx" max_batch_size: 8 input [ {inputs} ] output [ {outputs} ]
    """


def _flag(name: str, kind: str) -> str:
    return (
        f'{{ name: "{name}" control [ {{ kind: CONTROL_SEQUENCE_{kind} '
        "int32_false_true: [ 0, 1 ] } ] }"
    )


_ONE_NUMBER = """
input [ { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
_SEQUENCE_CONFIG = f"""
name: "simple_sequence" platform: "onnxruntime_onnx" max_batch_size: 8
sequence_batching {{ control_input [ {_flag("START", "START")}, {_flag("READY", "READY")} ] }}
instance_group [ {{ kind: KIND_CPU }} ]
{_ONE_NUMBER}
"""
_DYNA_CONFIG = f"""
name: "simple_dyna_sequence" platform: "onnxruntime_onnx" max_batch_size: 8
sequence_batching {{
  max_sequence_idle_microseconds: 10000000
  oldest {{ max_candidate_sequences: 1024 max_queue_delay_microseconds: 10000 }}
  control_input [
    {_flag("START", "START")}, {_flag("END", "END")}, {_flag("READY", "READY")},
    {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} ] }}
  ]
}}
parameters [ {{ key: "execute_delay_ms" value: {{ string_value: "3" }} }} ]
instance_group [ {{ count: 2 kind: KIND_CPU }} ]
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
  label_filename: "densenet_labels.txt"
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
  reshape { shape: [ 1, 1001 ] } label_filename: "inception_labels.txt"
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
