"""What Triton's `config.pbtxt` becomes here, what of it is ignored with a note, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.repository.declared import DeclaredIo, Reshape
from capamesh.node.repository.manifest import Manifest
from capamesh.node.repository.rules import (
    BatchingRules,
    ControlKind,
    ControlTensor,
    PipelineStep,
    QueuePolicy,
    QueueRules,
    Rules,
    SequenceRules,
    StateTensor,
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
def test_requests_are_batched_only_where_triton_would(text: str, batching: BatchingRules) -> None:
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
        ("default_model_filename: '../a.onnx'", "'../a.onnx' does not stay in the version's"),
        (
            "output { name: 'y' data_type: TYPE_FP32 dims: 1 label_filename: '../l.txt' }",
            "output[0].label_filename: '../l.txt' does not stay in the model's folder",
        ),
        ("default_model_filename: 'C:\\\\a.onnx'", "does not stay in the version's folder"),
        ("default_model_filename: '.'", "default_model_filename: '.' names no file"),
        ("max_batch_size: -1", "max_batch_size is -1, expected a whole number from 0 to 1048576"),
        ("sequence_batching { colour: 1 }", "unknown field 'sequence_batching.colour'"),
        (
            "sequence_batching { iterative_sequence: true }",
            "sequence_batching.iterative_sequence: a request is run once; remove it",
        ),
        ("batch_input {}", "pad with [[batching.ragged]] in capamesh.toml"),
        ("cc_model_filenames { key: '9' value: '../b' }", "cc_model_filenames: '../b' does"),
        ("model_operations { op_library_filename: 'a.so' }", "a model cannot bring code to a node"),
        ("model_transaction_policy { decoupled: true }", "ONNX Runtime gives one answer"),
        ("instance_group { passive: true }", "instances that take no requests are of no use"),
        ("instance_group { kind: KIND_MODEL }", "kind is KIND_MODEL, expected one of KIND_AUTO"),
        ("instance_group { count: 65 }", "instance_group[0].count is 65, expected a whole number"),
        ("input { name: 'x' dims: 1 }", "input[0].data_type: is missing; it is one of TYPE_BOOL"),
        ("input { name: 'x' data_type: TYPE_INVALID }", "data_type is TYPE_INVALID, expected one"),
        ("input { name: 'x' data_type: TYPE_FP32 dims: [0] }", "input[0].dims: [0] has"),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: [2, 3] reshape { shape: [7] } }",
            "input[0].reshape: the shape [7] has not the elements of dims [2, 3]: there must be as many",
        ),
        (
            "output { name: 'x' data_type: TYPE_FP32 dims: 1 optional: true }",
            "unknown field 'output[0].optional'",
        ),
        ("version_policy { latest {} all {} }", "version_policy: says latest and all; choose one"),
        ("version_policy { specific {} }", "version_policy.specific.versions: is empty"),
        (
            "dynamic_batching { max_queue_delay_microseconds: 10000001 }",
            "max_queue_delay_microseconds is 10000001, expected a whole number from 0 to 10000000",
        ),
        ("model_warmup { inputs { key: 'x' } }", "model_warmup[0].inputs[0].value: is missing"),
        ("model_warmup { batch_size: 2 }", "model_warmup[0].batch_size is 2, expected a whole"),
        ("platform: 'ensemble'", "platform: 'ensemble' and ensemble_scheduling belong together"),
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
        (ensemble(step("a", "z", "y")), "'a' takes 'i' from 'z', which is no input"),
        (ensemble(step("a", "x", "z")), "no step gives the output 'y'"),
        (ensemble(step("a", "x", "y"), step("b", "y", "x")), "a step gives 'x', which is an input"),
        (
            ensemble(step("a", "q", "p"), step("b", "p", "q"), step("c", "p", "y")),
            "the steps of 'a', 'b', 'c' wait for each other's outputs",
        ),
        (ensemble(step("a", "x", "y"), step("b", "x", "y")), "as rules of ours it says"),
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


def queue(text: str) -> QueueRules:
    return parsed(f"max_batch_size: 4 dynamic_batching {{ {text} }}").manifest.rules.queue


def test_default_timeout_and_its_action_are_kept() -> None:
    reject = "default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 5000 }"
    assert queue(reject) == QueueRules(QueuePolicy(5000))
    delay = "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5000 }"
    assert queue(delay) == QueueRules(QueuePolicy(5000, is_delaying=True))
    assert queue("") == QueueRules()


def test_number_that_may_wait_without_priorities_is_the_model_s() -> None:
    config = parsed("dynamic_batching { default_queue_policy { max_queue_size: 7 } }")
    assert config.manifest.max_queue == 7
    assert config.manifest.rules.queue == QueueRules()


def test_each_priority_may_have_a_policy_of_its_own() -> None:
    text = """
      priority_levels: 3 default_priority_level: 2
      default_queue_policy { max_queue_size: 9 allow_timeout_override: true }
      priority_queue_policy { key: 1 value: { default_timeout_microseconds: 100 max_queue_size: 4 } }
    """
    assert queue(text) == QueueRules(
        QueuePolicy(max_queue=9), 3, 2, ((1, QueuePolicy(100, max_queue=4)),)
    )
    config = parsed(f"dynamic_batching {{ {text} }}")
    assert config.manifest.max_queue is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("priority_levels: 2 default_priority_level: 3", "default_priority_level: is 3; with 2"),
        ("default_priority_level: 1", "default_priority_level: needs priority_levels"),
        ("priority_levels: 256", "priority_levels is 256, expected a whole number from 0 to 255"),
        ("priority_queue_policy { key: 1 value: {} }", "priority_queue_policy: key 1 is none"),
        (
            "priority_levels: 1 default_priority_level: 1 "
            + 2 * "priority_queue_policy { key: 1 value {} } ",
            "priority_queue_policy: key 1 is there twice",
        ),
        ("default_queue_policy { timeout_action: HOPE }", "timeout_action is HOPE, expected"),
    ],
)
def test_priorities_that_contradict_each_other_are_refused(text: str, expected: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        queue(text)
    assert expected in caught.value.message


def test_reshape_is_reported_with_the_batch_axis_on_both_sides() -> None:
    declared = parsed(
        "max_batch_size: 4 "
        "input { name: 'a' data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }"
        "input { name: 'b' data_type: TYPE_FP32 dims: [2] reshape { shape: [2] } }"
        "output { name: 'c' data_type: TYPE_FP32 dims: [-1, 6] reshape { shape: [-1, 2, 3] } }"
    ).declared
    assert declared.inputs[0] == TensorSpec("a", Datatype.FP32, (1,))
    assert declared.reshaped_inputs == (Reshape("a", (-1, 1), (-1,)),)
    assert declared.reshaped_outputs == (Reshape("c", (-1, -1, 6), (-1, -1, 2, 3)),)


def test_gpu_has_the_file_for_its_compute_capability_and_others_the_default() -> None:
    config = parsed(
        "default_model_filename: 'd.onnx' "
        "cc_model_filenames { key: '7.5' value: 't4/model.onnx' } "
        "cc_model_filenames [ { key: '9.0' value: 'h100.onnx' } ]"
    )
    assert config.file_for("7.5") == "t4/model.onnx"
    assert config.file_for("9.0") == "h100.onnx"
    assert config.file_for("8.6") == "d.onnx"
    assert config.file_for("") == "d.onnx"


def control(kind: str, values: str, name: str = "C") -> str:
    return f"control_input {{ name: '{name}' control [ {{ kind: {kind} {values} }} ] }}"


def sequence(text: str, rows: int = 8, more: str = "") -> str:
    return f"max_batch_size: {rows} sequence_batching {{ {text} }} {more}"


def state(text: str = "", dims: str = "[-1]") -> str:
    return (
        f"state {{ input_name: 'IN' output_name: 'OUT' data_type: TYPE_INT32 dims: {dims} {text} }}"
    )


def test_every_kind_of_control_input_becomes_a_control_tensor() -> None:
    config = parsed(
        sequence(
            "max_sequence_idle_microseconds: 5000000 oldest { max_queue_delay_microseconds: 700 }"
            + control("CONTROL_SEQUENCE_START", "int32_false_true: [ 0, 1 ]", "S")
            + control("CONTROL_SEQUENCE_END", "fp32_false_true: [ -1.5, 1e2 ]", "E")
            + control("CONTROL_SEQUENCE_READY", "bool_false_true: [ false, true ]", "R")
            + control("CONTROL_SEQUENCE_CORRID", "data_type: TYPE_UINT64", "I")
        )
    )
    rules = config.manifest.rules
    assert rules.sequence == SequenceRules(
        controls=(
            ControlTensor("S", ControlKind.START, Datatype.INT32, 0.0, 1.0),
            ControlTensor("E", ControlKind.END, Datatype.FP32, -1.5, 100.0),
            ControlTensor("R", ControlKind.READY, Datatype.BOOL, 0.0, 1.0),
            ControlTensor("I", ControlKind.ID, Datatype.UINT64),
        ),
        idle_s=5.0,
    )
    # sequences share a batch where the model turns out to allow it
    assert rules.batching == BatchingRules(is_enabled=None, max_rows=8, max_delay_us=700)
    assert rules.is_idempotent
    assert config.declared.filled_in == {"S", "E", "R", "I"}
    assert config.notes == ()


@pytest.mark.parametrize(
    ("datatype", "expected"),
    [
        ("TYPE_INT64", Datatype.INT64),
        ("TYPE_UINT32", Datatype.UINT32),
        ("TYPE_INT32", Datatype.INT32),
        ("TYPE_STRING", Datatype.BYTES),
    ],
)
def test_id_has_the_type_that_the_file_says(datatype: str, expected: Datatype) -> None:
    config = parsed(sequence(control("CONTROL_SEQUENCE_CORRID", f"data_type: {datatype}")))
    (one,) = config.manifest.rules.sequence.controls
    assert one == ControlTensor("C", ControlKind.ID, expected)


def test_state_starts_with_ones_for_open_dimensions_and_its_batch_axis_is_the_first() -> None:
    config = parsed(sequence(state(dims="[-1, 3]")))
    assert config.manifest.rules.sequence.states == (StateTensor("IN", "OUT", 0, (1, 1, 3)),)
    assert config.manifest.rules.sequence.idle_s == 60.0
    assert not config.manifest.rules.is_idempotent
    assert config.declared.filled_in == {"IN"}


def test_initial_state_is_zero_or_lies_in_a_file() -> None:
    zero = "initial_state: { data_type: TYPE_INT32 dims: [ 2 ] zero_data: true name: 'i' }"
    (one,) = parsed(sequence(state(zero))).manifest.rules.sequence.states
    assert one == StateTensor("IN", "OUT", 0, (1, 2))
    file = "initial_state: { data_type: TYPE_INT32 dims: [ 2 ] data_file: 'start' name: 'i' }"
    (one,) = parsed(sequence(state(file))).manifest.rules.sequence.states
    assert one == StateTensor("IN", "OUT", 0, (1, 2), initial_file="start")


def test_state_whose_output_is_declared_is_shown_to_callers() -> None:
    shown = "output { name: 'OUT' data_type: TYPE_INT32 dims: 1 }"
    (one,) = parsed(sequence(state(), more=shown)).manifest.rules.sequence.states
    assert one.is_shown


START = "kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            control("CONTROL_SEQUENCE_START", "int32_false_true: [0]"),
            "control_input[0].control[0].int32_false_true: has 1 values; give what stands for no and",
        ),
        (control("CONTROL_SEQUENCE_START", ""), "control[0].kind: needs one of int32_false_true"),
        (
            control("CONTROL_SEQUENCE_END", "fp32_false_true: [0, inf]"),
            "fp32_false_true is inf, expected a finite number",
        ),
        (
            control("CONTROL_SEQUENCE_CORRID", "data_type: TYPE_FP32"),
            "data_type: is FP32; ids are TYPE_UINT64, INT64, UINT32, INT32 or STRING",
        ),
        (
            control("CONTROL_SEQUENCE_CORRID", "int32_false_true: [0, 1]"),
            "int32_false_true: CONTROL_SEQUENCE_CORRID has a data_type instead",
        ),
        (
            f"control_input {{ name: 'S' control [ {{ {START} }}, {{ {START} }} ] }}",
            "control_input[0].control: 2 of them; an input can carry one",
        ),
        (
            2 * f"control_input {{ name: 'S' control {{ {START} }} }} ",
            "control_input[1].name: 'S' is there twice",
        ),
        (
            f"control_input {{ name: 'S' control {{ {START} }} }}"
            f"control_input {{ name: 'T' control {{ {START} }} }}",
            "control_input[1].control: another control_input has the same kind",
        ),
        ("control_input {}", "control_input[0].name: is missing"),
        (
            f"control_input {{ name: 'IN' control {{ {START} }} }} {state()}",
            "sequence_batching.state: 'IN' is a control_input too",
        ),
        (
            "state { input_name: 'a' data_type: TYPE_INT32 }",
            "sequence_batching.state[0].output_name: is missing",
        ),
        (
            "state { input_name: 'a' output_name: 'b' data_type: TYPE_STRING }",
            "state[0].data_type: TYPE_STRING has no size",
        ),
        (
            state("initial_state { data_type: TYPE_FP32 dims: 1 zero_data: true }"),
            "initial_state[0].data_type: is not the state's, INT32",
        ),
        (state("initial_state { data_type: TYPE_INT32 dims: 1 }"), "initial_state[0].data_file"),
        (
            state("initial_state { data_type: TYPE_INT32 dims: 1 data_file: '../x' }"),
            "data_file: '../x' does not stay in the model's folder 'initial_state'",
        ),
        (
            state("initial_state { data_type: TYPE_INT32 dims: 99999999 data_file: 'x' }"),
            "data_file: of 399999996 bytes; at most 67108864 are allowed",
        ),
    ],
)
def test_meaningless_configuration_is_refused_with_its_place(text: str, expected: str) -> None:
    assert expected in complaint(sequence(text))


def test_sequences_exclude_other_ways_of_batching() -> None:
    text = sequence(state(), more="dynamic_batching {}")
    assert "sequence_batching: excludes dynamic_batching; remove one" in complaint(text)


def test_input_that_the_node_fills_in_cannot_be_one_of_callers() -> None:
    text = sequence(state(), more="input { name: 'IN' data_type: TYPE_INT32 dims: 1 }")
    assert "input: 'IN' is filled in by sequence_batching; remove it here" in complaint(text)
