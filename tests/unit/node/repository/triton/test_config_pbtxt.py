"""What Triton's `config.pbtxt` becomes here, what of it is ignored with a note, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.repository.declared import DeclaredIo
from capamesh.node.repository.manifest import Manifest
from capamesh.node.repository.rules import (
    BatchingRules,
    PipelineStep,
    Rules,
    VersionChoice,
    VersionPolicy,
    WarmUp,
)
from capamesh.node.repository.triton.config_pbtxt import ModelConfig, parse_config
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype, TensorSpec

FILE = "models/m/config.pbtxt"
LATEST = VersionPolicy(VersionChoice.LATEST)
X = TensorSpec("x", Datatype.FP32, (4,))
Y = TensorSpec("y", Datatype.INT64, (-1, 2))
IO = "input { name: 'x' data_type: TYPE_FP32 dims: 4 } output { name: 'y' data_type: TYPE_INT64 dims: [-1, 2] }"


def parsed(text: str, model: str = "m") -> ModelConfig:
    return parse_config(text.encode(), FILE, model)


def rules(text: str) -> Rules:
    return parsed(text).manifest.rules


def complaint(text: str) -> str:
    with pytest.raises(ModelInvalid) as caught:
        parsed(text)
    return caught.value.message


def test_whole_file_becomes_rules_and_declared_tensors() -> None:
    text = """
    name: "m"
    platform: "onnxruntime_onnx"
    backend: "onnxruntime"
    max_batch_size: 8
    default_model_filename: "model.onnx"
    input [ { name: "x", data_type: TYPE_FP32, dims: [ 4 ] } ]
    output [ { name: "y" data_type: TYPE_INT64 dims: [ -1, 2 ] } ]
    version_policy: { all {} }
    dynamic_batching {
      max_queue_delay_microseconds: 250
      default_queue_policy { max_queue_size: 32 }
    }
    instance_group [ { count: 2 kind: KIND_CPU } ]
    model_warmup [ {
      name: "first" batch_size: 4 count: 3
      inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 random_data: true } }
    } ]
    model_transaction_policy { decoupled: false }
    """
    assert parsed(text) == ModelConfig(
        Manifest(
            providers=("CPUExecutionProvider",),
            max_queue=32,
            rules=Rules(
                batching=BatchingRules(is_enabled=True, max_rows=8, max_delay_us=250),
                warm_up=(WarmUp((("x", (4, 4)),), count=3),),
                versions=VersionPolicy(VersionChoice.ALL),
                instances=2,
            ),
        ),
        DeclaredIo((X,), (Y,), has_batch_axis=True),
        (),
    )


@pytest.mark.parametrize(
    ("text", "batching"),
    [
        ("max_batch_size: 0", BatchingRules(is_enabled=False)),
        ("max_batch_size: 8", BatchingRules(is_enabled=False, max_rows=8)),
        ("max_batch_size: 1 dynamic_batching {}", BatchingRules(is_enabled=False, max_rows=1)),
        ("max_batch_size: 8 dynamic_batching {}", BatchingRules(is_enabled=True, max_rows=8)),
    ],
)
def test_requests_are_put_together_only_where_triton_would(
    text: str, batching: BatchingRules
) -> None:
    assert rules(text).batching == batching


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("{}", LATEST),
        ("{ latest { num_versions: 3 } }", VersionPolicy(VersionChoice.LATEST, count=3)),
        (
            "{ specific { versions: [3, 1, 3] } }",
            VersionPolicy(VersionChoice.SPECIFIC, versions=(1, 3)),
        ),
    ],
)
def test_version_policies_are_read(policy: str, expected: VersionPolicy) -> None:
    assert rules(f"version_policy: {policy}").versions == expected


@pytest.mark.parametrize(
    ("groups", "count", "providers"),
    [
        ("{ count: 3 }", 3, ()),
        ("[{ kind: KIND_GPU }, { kind: KIND_GPU count: 4 }]", 4, ("CUDAExecutionProvider",)),
        ("[{ kind: KIND_GPU }, { kind: KIND_CPU }]", 1, ()),
    ],
)
def test_instance_groups_become_a_count_and_providers(
    groups: str, count: int, providers: tuple[str, ...]
) -> None:
    manifest = parsed(f"instance_group {groups}").manifest
    assert (manifest.rules.instances, manifest.providers) == (count, providers)


def test_warm_up_from_a_file_has_its_shapes_and_may_fail() -> None:
    text = """max_batch_size: 4 model_warmup { batch_size: 2 inputs {
        key: 'x' value { data_type: TYPE_INT64 dims: 7 input_data_file: 'ids' } } }"""
    assert rules(text).warm_up == (WarmUp((("x", (2, 7)),), must_run=False),)


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("", "model.onnx"),
        ("default_model_filename: 'net.onnx'", "net.onnx"),
        ("default_model_filename: 'a//b/./net'", "a/b/net"),
    ],
)
def test_model_s_file_may_be_called_otherwise(text: str, file: str) -> None:
    assert parsed(text).onnx_file == file


def test_outputs_name_the_files_of_their_labels() -> None:
    outputs = (
        "output { name: 'y' data_type: TYPE_FP32 dims: 3 label_filename: 'labels/y.txt' }"
        "output { name: 'z' data_type: TYPE_FP32 dims: 3 }"
        "output { name: 'n' data_type: TYPE_INT64 dims: 3 label_filename: './n.txt' }"
    )
    config = parsed(outputs)
    assert config.label_files == (("y", "labels/y.txt"), ("n", "n.txt"))
    assert config.notes == ()


def test_optional_and_ragged_inputs_are_declared_as_such() -> None:
    flags = "optional: true allow_ragged_batch: true"
    text = f"input {{ name: 'x' data_type: TYPE_FP32 dims: 4 {flags} }}"
    assert parsed(text).declared == DeclaredIo((X,), optional=frozenset("x"))
    assert parsed(f"max_batch_size: 2 {text}").declared == DeclaredIo(
        (X,), has_batch_axis=True, optional=frozenset("x"), flattened=frozenset("x")
    )


def test_ensemble_becomes_steps_in_the_order_of_their_data() -> None:
    text = f"""
    platform: "ensemble" max_batch_size: 4 {IO}
    ensemble_scheduling {{ step [
      {{ model_name: "last" model_version: 2
        input_map {{ key: "in" value: "b" }} input_map {{ key: "raw" value: "x" }}
        output_map {{ key: "out" value: "y" }} }},
      {{ model_name: "first" model_version: -1
        input_map [{{ key: "in" value: "x" }}] output_map {{ key: "out" value: "a" }} }},
      {{ model_name: "middle"
        input_map {{ key: "in" value: "a" }} output_map {{ key: "out" value: "b" }} }}
    ] }}
    """
    assert rules(text) == Rules(
        batching=BatchingRules(max_rows=4),
        steps=(
            PipelineStep("first", "", (("in", "x"),), (("out", "a"),)),
            PipelineStep("middle", "", (("in", "a"),), (("out", "b"),)),
            PipelineStep("last", "2", (("in", "b"), ("raw", "x")), (("out", "y"),)),
        ),
        versions=LATEST,
    )


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("optimization { graph { level: 1 } }", "optimization is ignored: the node sets"),
        (
            "max_batch_size: 2 dynamic_batching { preferred_batch_size: [2] }",
            "dynamic_batching.preferred_batch_size is ignored: a batch takes what waits",
        ),
        (
            "max_batch_size: 2 dynamic_batching { default_queue_policy { allow_timeout_override: false } }",
            "dynamic_batching.default_queue_policy.allow_timeout_override is ignored: a request's own",
        ),
        ("dynamic_batching {}", "dynamic_batching: requests run alone, for max_batch_size is 0 or"),
        ("instance_group { gpus: [0] }", "instance_group[0].gpus is ignored: every device of a"),
        ("instance_group [{}, {}]", "instance_group: of 2 groups the largest count is taken"),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }",
            "input 'x': allow_ragged_batch is ignored: requests of different shapes run apart; [[batching",
        ),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: 1 optional: true }",
            "input 'x': optional is ignored: requests give every input that the model needs",
        ),
        (
            "sequence_batching { max_sequence_idle_microseconds: 5 direct {} }",
            "sequence_batching is ignored: without control_input and state a request does not depend on",
        ),
        (
            "model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 input_data_file: 'f' } } }",
            "model_warmup[0]: input_data_file of 'x' is not read: it is run with generated data, if that",
        ),
    ],
)
def test_fields_that_only_tune_triton_are_ignored_with_one_note(text: str, note: str) -> None:
    (found,) = parsed(text).notes
    assert found.startswith(note)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("colour: 'red'", "line 1: unknown field 'colour'; known are backend, batch_input"),
        ("name: 'other'", "line 1: name: is 'other' in the folder 'm'; make them the same"),
        ("platform: 'tensorrt_plan'", "platform: 'tensorrt_plan' is not served; export the model"),
        ("backend: 'python'", "backend: 'python' is not served; export the model as ONNX"),
        (
            "default_model_filename: '../a.onnx'",
            "'../a.onnx' does not stay in the version's folder",
        ),
        ("default_model_filename: '/a.onnx'", "'/a.onnx' does not stay in the version's folder"),
        (
            "output { name: 'y' data_type: TYPE_FP32 dims: 1 label_filename: '../l.txt' }",
            "output[0].label_filename: '../l.txt' does not stay in the model's folder",
        ),
        (
            "output { name: 'y' data_type: TYPE_FP32 dims: 1 label_filename: '/etc/passwd' }",
            "output[0].label_filename: '/etc/passwd' does not stay in the model's folder",
        ),
        ("default_model_filename: 'C:\\\\a.onnx'", "does not stay in the version's folder"),
        ("default_model_filename: '.'", "default_model_filename: '.' names no file"),
        (f"default_model_filename: '{'x' * 257}'", "a quoted text of at most 256 characters"),
        ("max_batch_size: -1", "max_batch_size is -1, expected a whole number from 0 to 1048576"),
        ("sequence_batching { colour: 1 }", "unknown field 'sequence_batching.colour'"),
        (
            "sequence_batching { iterative_sequence: true }",
            "sequence_batching.iterative_sequence: a request is run once; remove it",
        ),
        ("batch_input {}", "pad with [[batching.ragged]] in capamesh.toml"),
        ("batch_output {}", "pad with [[batching.ragged]] in capamesh.toml"),
        (
            "cc_model_filenames { key: '9' value: '../b' }",
            "cc_model_filenames: '../b' does not stay in the version's folder",
        ),
        ("model_operations { op_library_filename: 'a.so' }", "a model cannot bring code to a node"),
        ("model_repository_agents {}", "a model cannot bring code to a node"),
        ("model_transaction_policy { decoupled: true }", "ONNX Runtime gives one answer"),
        ("instance_group { passive: true }", "instances that take no requests are of no use"),
        ("instance_group { kind: KIND_MODEL }", "kind is KIND_MODEL, expected one of KIND_AUTO"),
        ("instance_group { count: 65 }", "instance_group[0].count is 65, expected a whole number"),
        ("instance_group { profile: 'p' }", "instance_group[0].profile: it belongs to TensorRT"),
        ("input { data_type: TYPE_FP32 dims: 1 }", "input[0].name: '' is empty or there twice"),
        ("input { name: 'x' dims: 1 }", "input[0].data_type: is missing; it is one of TYPE_BOOL"),
        ("input { name: 'x' data_type: TYPE_INVALID }", "data_type is TYPE_INVALID, expected one"),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: [0] }",
            "input[0].dims: [0] has a dimension of 0; -1 is any size",
        ),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: [2, 3] reshape { shape: [7] } }",
            "input[0].reshape: the shape [7] has not the elements of dims [2, 3]: there must be as many",
        ),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: [-1, 4] reshape { shape: [4, -1] } }",
            "input[0].reshape: the shape [4, -1] has not the elements of dims [-1, 4]",
        ),
        (
            "output { name: 'x' data_type: TYPE_FP32 dims: 1 optional: true }",
            "unknown field 'output[0].optional'",
        ),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: 1 is_shape_tensor: true }",
            "input[0].is_shape_tensor: it belongs to TensorRT",
        ),
        ("version_policy { latest {} all {} }", "version_policy: says latest and all; choose one"),
        ("version_policy { specific {} }", "version_policy.specific.versions: is empty"),
        ("version_policy { specific { versions: 0 } }", "versions is 0, expected a whole number"),
        (
            "dynamic_batching { max_queue_delay_microseconds: 10000001 }",
            "max_queue_delay_microseconds is 10000001, expected a whole number from 0 to 10000000",
        ),
        ("model_warmup { inputs { key: 'x' } }", "model_warmup[0].inputs[0].value: is missing"),
        (
            "model_warmup { batch_size: 2 }",
            "model_warmup[0].batch_size is 2, expected a whole number",
        ),
        ("platform: 'ensemble'", "platform: 'ensemble' and ensemble_scheduling belong together"),
        ("ensemble_scheduling {}", "platform: 'ensemble' and ensemble_scheduling belong together"),
    ],
)
def test_fields_that_cannot_be_honoured_are_refused_by_name(text: str, reason: str) -> None:
    message = complaint(text)
    assert message.startswith(FILE)
    assert reason in message


def ensemble(*steps: str, rest: str = IO) -> str:
    return f"platform: 'ensemble' {rest} ensemble_scheduling {{ step [{', '.join(steps)}] }}"


def step(model: str, given: str, gives: str) -> str:
    return (
        f"{{ model_name: '{model}' input_map {{ key: 'i' value: '{given}' }} "
        f"output_map {{ key: 'o' value: '{gives}' }} }}"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ensemble(), "needs steps, and input and output fields beside it"),
        (ensemble(step("a", "x", "y"), rest=""), "needs steps, and input and output fields"),
        (
            ensemble(step("a", "z", "y")),
            "'a' takes 'i' from 'z', which is no input of the ensemble",
        ),
        (ensemble(step("a", "x", "z")), "no step gives the output 'y'"),
        (ensemble(step("a", "x", "y"), step("b", "y", "x")), "a step gives 'x', which is an input"),
        (
            ensemble(step("a", "q", "p"), step("b", "p", "q"), step("c", "p", "y")),
            "the steps of 'a', 'b', 'c' wait for each other's outputs",
        ),
        (
            ensemble(step("a", "x", "y"), step("b", "x", "y")),
            "as rules of ours it says step[1].outputs: 'y' is given by step[0] already",
        ),
        (
            ensemble(step("a", "x", "y").replace("input_map", "model_namespace: 'n' input_map")),
            "step[0].model_namespace: models have no namespaces",
        ),
        (ensemble(step("m", "x", "y")), "step[0].model is 'm' itself"),
        (
            ensemble(step("a", "x", "y"), rest=f"{IO} instance_group {{}}"),
            "instance_group: an ensemble runs nowhere itself",
        ),
        (
            ensemble(step("a", "x", "y"), rest=f"{IO} dynamic_batching {{}}"),
            "dynamic_batching: excludes ensemble_scheduling",
        ),
    ],
)
def test_ensemble_that_cannot_run_is_refused(text: str, reason: str) -> None:
    assert reason in complaint(text)


def test_file_over_the_limit_or_of_other_bytes_is_refused() -> None:
    with pytest.raises(ModelInvalid, match="has 65537 bytes, at most 65536 are allowed"):
        parse_config(b"#" * 65537, FILE, "m")
    with pytest.raises(ModelInvalid, match="is not UTF-8"):
        parse_config(b"\xff", FILE, "m")


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_junk_is_refused_or_read_and_raises_nothing_else(raw: bytes) -> None:
    try:
        parse_config(raw, FILE, "m")
    except ModelInvalid as exc:
        assert FILE in exc.message  # noqa: PT017  # either outcome is right


@pytest.mark.parametrize(
    ("declared", "inputs", "outputs", "problem"),
    [
        (DeclaredIo(), (X,), (Y,), ""),
        (DeclaredIo((X,), (Y,)), (TensorSpec("x", Datatype.FP32, (-1,)),), (Y,), ""),
        (DeclaredIo((X,), has_batch_axis=True), (TensorSpec("x", Datatype.FP32, (-1, 4)),), (), ""),
        (
            DeclaredIo((X,), has_batch_axis=True),
            (TensorSpec("x", Datatype.FP32, (1, 4)),),
            (),
            "input 'x' is declared as batched, but axis 0 of the model's shape [1, 4] is fixed; "
            "set max_batch_size to 0",
        ),
        (
            DeclaredIo((X,), has_batch_axis=True),
            (TensorSpec("x", Datatype.FP32, (-1, 4, 4)),),
            (),
            "input 'x' is declared as [-1, 4], the batch axis first; the model has [-1, 4, 4]",
        ),
        (
            DeclaredIo((X,)),
            (TensorSpec("x", Datatype.FP32, (5,)),),
            (),
            "input 'x' is declared as [4]; the model has [5]",
        ),
        (
            DeclaredIo((X,)),
            (TensorSpec("x", Datatype.FP16, (4,)),),
            (),
            "input 'x' is declared as FP32, the model has FP16",
        ),
        (
            DeclaredIo((X,)),
            (X, Y),
            (),
            "the model's inputs ['y'] are not declared; declare all or none",
        ),
        (DeclaredIo((), (Y,)), (X,), (X,), "output 'y' is declared; the model has x"),
        (DeclaredIo((X, Y), optional=frozenset("y")), (X,), (), ""),
        (
            DeclaredIo((X,), optional=frozenset("x")),
            (TensorSpec("x", Datatype.FP32, (5,)),),
            (),
            "input 'x' is declared as [4]; the model has [5]",
        ),
        (
            DeclaredIo((X,), has_batch_axis=True, flattened=frozenset("x")),
            (TensorSpec("x", Datatype.FP32, (-1, 4)),),
            (),
            "",
        ),
    ],
)
def test_declared_tensors_are_compared_with_the_models_own(
    declared: DeclaredIo,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    problem: str,
) -> None:
    assert declared.problem(inputs, outputs) == problem
