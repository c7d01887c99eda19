"""What Triton's `config.pbtxt` becomes here, what of it is ignored with a note, and what is refused."""

from __future__ import annotations

from typing import Any

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
from capamesh.protocol.adverts import ImageFormat
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype, TensorSpec

FILE = "models/m/config.pbtxt"
LATEST = VersionPolicy(VersionChoice.LATEST)
X = TensorSpec("x", Datatype.FP32, (4,))
Y = TensorSpec("y", Datatype.INT64, (-1, 2))


def tensor(
    kind: str, name: str = "x", datatype: str = "FP32", dims: Any = 4, more: str = ""
) -> str:
    return f"{kind} {{ name: '{name}' data_type: TYPE_{datatype} dims: {dims} {more} }} "


IO = tensor("input") + tensor("output", "y", "INT64", [-1, 2])


def parsed(text: str) -> ModelConfig:
    return parse_config(text.encode(), FILE, "m")


def rules(text: str) -> Rules:
    return parsed(text).manifest.rules


def complaint(text: str) -> str:
    with pytest.raises(ModelInvalid) as caught:
        parsed(text)
    assert caught.value.message.startswith(FILE)
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
    expected = Rules(
        batching=BatchingRules(is_enabled=True, max_rows=8, max_delay_us=250),
        warm_up=(WarmUp((("x", (4, 4)),), count=3),),
        versions=VersionPolicy(VersionChoice.ALL),
        instances=2,
    )
    assert parsed(text) == ModelConfig(
        Manifest(providers=("CPUExecutionProvider",), max_queue=32, rules=expected),
        DeclaredIo((X,), (Y,), has_batch_axis=True),
        (),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch_size: 0", {"batching": BatchingRules(is_enabled=False)}),
        ("max_batch_size: 8", {"batching": BatchingRules(is_enabled=False, max_rows=8)}),
        (
            "max_batch_size: 1 dynamic_batching {}",
            {"batching": BatchingRules(is_enabled=False, max_rows=1)},
        ),
        (
            "max_batch_size: 8 dynamic_batching {}",
            {"batching": BatchingRules(is_enabled=True, max_rows=8)},
        ),
        ("version_policy: {}", {"versions": LATEST}),
        (
            "version_policy: { latest { num_versions: 3 } }",
            {"versions": VersionPolicy(VersionChoice.LATEST, count=3)},
        ),
        (
            "version_policy: { specific { versions: [3, 1, 3] } }",
            {"versions": VersionPolicy(VersionChoice.SPECIFIC, versions=(1, 3))},
        ),
        (
            "max_batch_size: 4 model_warmup { batch_size: 2 inputs { key: 'x' value"
            " { data_type: TYPE_INT64 dims: 7 input_data_file: 'ids' } } }",
            {"warm_up": (WarmUp((("x", (2, 7)),), must_run=False),)},
        ),
        ("instance_group { count: 3 }", {"instances": 3}),
    ],
)
def test_field_becomes_a_rule(text: str, expected: dict[str, object]) -> None:
    found = rules(text)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("groups", "count", "providers"),
    [
        ("[{ kind: KIND_GPU }, { kind: KIND_GPU count: 4 }]", 4, ("CUDAExecutionProvider",)),
        ("[{ kind: KIND_GPU }, { kind: KIND_CPU }]", 1, ()),
    ],
)
def test_groups_become_a_count_and_providers(
    groups: str, count: int, providers: tuple[str, ...]
) -> None:
    manifest = parsed(f"instance_group {groups}").manifest
    assert (manifest.rules.instances, manifest.providers) == (count, providers)


def test_model_s_file_may_be_called_otherwise_and_be_another_for_a_gpu() -> None:
    assert parsed("").onnx_file == "model.onnx"
    assert parsed("default_model_filename: 'a//b/./net'").onnx_file == "a/b/net"
    config = parsed(
        "default_model_filename: 'd.onnx' "
        "cc_model_filenames { key: '7.5' value: 't4/model.onnx' } "
        "cc_model_filenames [ { key: '9.0' value: 'h100.onnx' } ]"
    )
    files = [config.file_for(capability) for capability in ("7.5", "9.0", "8.6", "")]
    assert files == ["t4/model.onnx", "h100.onnx", "d.onnx", "d.onnx"]


def test_outputs_name_the_files_of_their_labels() -> None:
    config = parsed(
        tensor("output", "y", more="label_filename: 'labels/y.txt'")
        + tensor("output", "z")
        + tensor("output", "n", "INT64", more="label_filename: './n.txt'")
    )
    assert config.label_files == (("y", "labels/y.txt"), ("n", "n.txt"))
    assert config.notes == ()


def test_optional_and_ragged_inputs_are_declared_as_such() -> None:
    text = tensor("input", more="optional: true allow_ragged_batch: true")
    x = frozenset("x")
    assert parsed(text).declared == DeclaredIo((X,), optional=x)
    batched = DeclaredIo((X,), has_batch_axis=True, optional=x, flattened=x)
    assert parsed(f"max_batch_size: 2 {text}").declared == batched


def test_inputs_that_are_pictures_have_their_formats() -> None:
    picture: dict[str, Any] = {"dims": [3, 8, 8], "more": "format: FORMAT_NCHW"}
    text = tensor("input", "a", **picture) + tensor("input", "b", more="format: FORMAT_NONE")
    config = parsed(f"max_batch_size: 2 {text}")
    assert config.declared.formats == (("a", ImageFormat.NCHW),)
    assert config.notes == ()


def test_reshape_is_reported_with_the_batch_axis_on_both_sides() -> None:
    declared = parsed(
        "max_batch_size: 4 "
        + tensor("input", "a", dims=[1], more="reshape { shape: [] }")
        + tensor("input", "b", dims=[2], more="reshape { shape: [2] }")
        + tensor("output", "c", dims=[-1, 6], more="reshape { shape: [-1, 2, 3] }")
    ).declared
    assert declared.inputs[0] == TensorSpec("a", Datatype.FP32, (1,))
    assert declared.reshaped_inputs == (Reshape("a", (-1, 1), (-1,)),)
    assert declared.reshaped_outputs == (Reshape("c", (-1, -1, 6), (-1, -1, 2, 3)),)


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
    steps = (
        PipelineStep("first", "", (("in", "x"),), (("out", "a"),)),
        PipelineStep("middle", "", (("in", "a"),), (("out", "b"),)),
        PipelineStep("last", "2", (("in", "b"), ("raw", "x")), (("out", "y"),)),
    )
    assert rules(text) == Rules(batching=BatchingRules(max_rows=4), steps=steps, versions=LATEST)


ENSEMBLE_IO = f"platform: 'ensemble' {IO} "
BATCHED = "max_batch_size: 2 dynamic_batching"
DATA_FILE = "inputs { key: 'x' value { data_type: TYPE_FP32 input_data_file: 'f' } }"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            ENSEMBLE_IO + "ensemble_scheduling { max_inflight_requests: 4"
            " step { model_name: 'n' input_map { key: 'x' value: 'x' }"
            " output_map { key: 'y' value: 'y' } } }",
            "ensemble_scheduling.max_inflight_requests is ignored: its models bound what waits",
        ),
        ("optimization { graph { level: 1 } }", "optimization is ignored: the node sets"),
        (
            BATCHED + " { preferred_batch_size: [2] }",
            "dynamic_batching.preferred_batch_size is ignored: a batch takes what waits",
        ),
        (
            BATCHED + " { default_queue_policy { allow_timeout_override: false } }",
            "dynamic_batching.default_queue_policy.allow_timeout_override is ignored: a request's",
        ),
        ("dynamic_batching {}", "dynamic_batching: requests run alone, for max_batch_size is 0 or"),
        ("instance_group { gpus: [0] }", "instance_group[0].gpus is ignored: every device of a"),
        ("instance_group [{}, {}]", "instance_group: of 2 groups the largest count is taken"),
        (
            tensor("input", dims=-1, more="allow_ragged_batch: true"),
            "input 'x': allow_ragged_batch is ignored: requests of different shapes run apart;",
        ),
        (
            tensor("input", more="optional: true"),
            "input 'x': optional is ignored: requests give every input that the model needs",
        ),
        (
            "sequence_batching { max_sequence_idle_microseconds: 5 direct {} }",
            "sequence_batching is ignored: without control_input and state a request does not",
        ),
        (f"model_warmup {{ {DATA_FILE} }}", "model_warmup[0]: input_data_file of 'x' is not read:"),
    ],
)
def test_fields_that_only_tune_triton_are_ignored_with_one_note(text: str, note: str) -> None:
    (found,) = parsed(text).notes
    assert found.startswith(note)


def ensemble(*steps: str, rest: str = "") -> str:
    return f"platform: 'ensemble' {IO} {rest} ensemble_scheduling {{ step [{', '.join(steps)}] }}"


def step(model: str, given: str, gives: str) -> str:
    return (
        f"{{ model_name: '{model}' input_map {{ key: 'i' value: '{given}' }} "
        f"output_map {{ key: 'o' value: '{gives}' }} }}"
    )


CIRCLE = (step("a", "q", "p"), step("b", "p", "q"), step("c", "p", "y"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("colour: 'red'", "line 1: unknown field 'colour'; known are backend, cc_model"),
        ("name: 'other'", "line 1: name: is 'other' in the folder 'm'; make them the same"),
        ("platform: 'tensorrt_plan'", "platform: 'tensorrt_plan' is not served; export the model"),
        ("backend: 'python'", "backend: 'python' is not served; export the model as ONNX"),
        ("default_model_filename: '../a.onnx'", "'../a.onnx' does not stay in the version's"),
        ("default_model_filename: 'C:\\\\a.onnx'", "does not stay in the version's folder"),
        ("default_model_filename: '.'", "default_model_filename: '.' names no file"),
        (
            tensor("output", more="label_filename: '../l.txt'"),
            "output[0].label_filename: '../l.txt' does not stay in the model's folder",
        ),
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
        (tensor("input", dims=[0]), "input[0].dims: [0] has"),
        (
            tensor("input", dims=[2, 3], more="reshape { shape: [7] }"),
            "input[0].reshape: the shape [7] has not the elements of dims [2, 3]: there must be as",
        ),
        (
            tensor("input", more="format: FORMAT_NHWC"),
            "input[0].format: FORMAT_NHWC is of pictures",
        ),
        (
            tensor("input", more="format: NHWC"),
            "input[0].format is NHWC, expected one of FORMAT_NO",
        ),
        (tensor("output", more="optional: true"), "unknown field 'output[0].optional'"),
        ("version_policy { latest {} all {} }", "version_policy: says latest and all; choose one"),
        ("version_policy { specific {} }", "version_policy.specific.versions: is empty"),
        (
            "dynamic_batching { max_queue_delay_microseconds: 10000001 }",
            "max_queue_delay_microseconds is 10000001, expected a whole number from 0 to 10000000",
        ),
        ("model_warmup { inputs { key: 'x' } }", "model_warmup[0].inputs[0].value: is missing"),
        ("model_warmup { batch_size: 2 }", "model_warmup[0].batch_size is 2, expected a whole"),
        ("platform: 'ensemble'", "platform: 'ensemble' and ensemble_scheduling belong together"),
        (ensemble(), "needs steps, and input and output fields beside it"),
        (ensemble(step("a", "z", "y")), "'a' takes 'i' from 'z', which is no input"),
        (ensemble(step("a", "x", "z")), "no step gives the output 'y'"),
        (ensemble(step("a", "x", "y"), step("b", "y", "x")), "a step gives 'x', which is an input"),
        (ensemble(*CIRCLE), "the steps of 'a', 'b', 'c' wait for each other's outputs"),
        (ensemble(step("a", "x", "y"), step("b", "x", "y")), "as rules of ours it says"),
        (ensemble(step("m", "x", "y")), "step[0].model is 'm' itself"),
        (
            ensemble(step("a", "x", "y"), rest="instance_group {}"),
            "instance_group: an ensemble runs nowhere itself",
        ),
        (
            ensemble(step("a", "x", "y"), rest="dynamic_batching {}"),
            "dynamic_batching: excludes ensemble_scheduling",
        ),
    ],
)
def test_fields_that_cannot_be_honoured_are_refused_by_name(text: str, reason: str) -> None:
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


def x(*shape: int, datatype: Datatype = Datatype.FP32) -> TensorSpec:
    return TensorSpec("x", datatype, shape)


BATCHED_X = DeclaredIo((X,), has_batch_axis=True)
OPTIONAL_X = DeclaredIo((X,), optional=frozenset("x"))
FLATTENED_X = DeclaredIo((X,), has_batch_axis=True, flattened=frozenset("x"))


@pytest.mark.parametrize(
    ("declared", "inputs", "outputs", "problem"),
    [
        (DeclaredIo(), (X,), (Y,), ""),
        (DeclaredIo((X,), (Y,)), (x(-1),), (Y,), ""),
        (BATCHED_X, (x(-1, 4),), (), ""),
        (DeclaredIo((X, Y), optional=frozenset("y")), (X,), (), ""),
        (FLATTENED_X, (x(-1, 4),), (), ""),
        (BATCHED_X, (x(1, 4),), (), "input 'x' is declared as batched, but axis 0 of the model's"),
        (BATCHED_X, (x(-1, 4, 4),), (), "input 'x' is declared as [-1, 4], the batch axis first;"),
        (DeclaredIo((X,)), (x(5),), (), "input 'x' is declared as [4]; the model has [5]"),
        (OPTIONAL_X, (x(5),), (), "input 'x' is declared as [4]; the model has [5]"),
        (
            DeclaredIo((X,)),
            (x(4, datatype=Datatype.FP16),),
            (),
            "input 'x' is declared as FP32, the model has FP16",
        ),
        (DeclaredIo((X,)), (X, Y), (), "the model's inputs ['y'] are not declared; declare all or"),
        (DeclaredIo((), (Y,)), (X,), (X,), "output 'y' is declared; the model has x"),
    ],
)
def test_declared_tensors_are_compared_with_the_models_own(
    declared: DeclaredIo,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    problem: str,
) -> None:
    found = declared.problem(inputs, outputs)
    assert found.startswith(problem)
    assert bool(found) is bool(problem)


# dynamic batching: who waits, and how long


THREE_LEVELS = """
  priority_levels: 3 default_priority_level: 2
  default_queue_policy { max_queue_size: 9 allow_timeout_override: true }
  priority_queue_policy { key: 1 value: { default_timeout_microseconds: 100 max_queue_size: 4 } }
"""
TIMEOUT = "default_queue_policy {{ timeout_action: {} default_timeout_microseconds: 5000 }}"
FIRST_POLICY = "priority_queue_policy { key: 1 value: {} } "


@pytest.mark.parametrize(
    ("text", "queue", "max_queue"),
    [
        ("", QueueRules(), None),
        (TIMEOUT.format("REJECT"), QueueRules(QueuePolicy(5000)), None),
        (TIMEOUT.format("DELAY"), QueueRules(QueuePolicy(5000, is_delaying=True)), None),
        ("default_queue_policy { max_queue_size: 7 }", QueueRules(), 7),
        (
            THREE_LEVELS,
            QueueRules(QueuePolicy(max_queue=9), 3, 2, ((1, QueuePolicy(100, max_queue=4)),)),
            None,
        ),
    ],
)
def test_policies_of_queues_are_kept(text: str, queue: QueueRules, max_queue: int | None) -> None:
    manifest = parsed(f"max_batch_size: 4 dynamic_batching {{ {text} }}").manifest
    assert (manifest.rules.queue, manifest.max_queue) == (queue, max_queue)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("priority_levels: 2 default_priority_level: 3", "default_priority_level: is 3; with 2"),
        ("default_priority_level: 1", "default_priority_level: needs priority_levels"),
        ("priority_levels: 256", "priority_levels is 256, expected a whole number from 0 to 255"),
        (FIRST_POLICY, "priority_queue_policy: key 1 is none"),
        (
            f"priority_levels: 1 default_priority_level: 1 {2 * FIRST_POLICY}",
            "priority_queue_policy: key 1 is there twice",
        ),
        ("default_queue_policy { timeout_action: HOPE }", "timeout_action is HOPE, expected"),
    ],
)
def test_priorities_that_contradict_each_other_are_refused(text: str, expected: str) -> None:
    assert expected in complaint(f"max_batch_size: 4 dynamic_batching {{ {text} }}")


# sequences


def control(kind: str, values: str, name: str = "C") -> str:
    kind = f"CONTROL_SEQUENCE_{kind}"
    return f"control_input {{ name: '{name}' control [ {{ kind: {kind} {values} }} ] }} "


def sequence(text: str, more: str = "") -> str:
    return f"max_batch_size: 8 sequence_batching {{ {text} }} {more}"


def state(text: str = "", dims: str = "[-1]") -> str:
    names = "input_name: 'IN' output_name: 'OUT'"
    return f"state {{ {names} data_type: TYPE_INT32 dims: {dims} {text} }}"


def initial(what: str, datatype: str = "INT32", dims: str = "1") -> str:
    return state(f"initial_state {{ data_type: TYPE_{datatype} dims: {dims} {what} name: 'i' }}")


def sequence_rules(text: str, more: str = "") -> SequenceRules:
    return rules(sequence(text, more)).sequence


def test_every_kind_of_control_input_becomes_a_control_tensor() -> None:
    config = parsed(
        sequence(
            "max_sequence_idle_microseconds: 5000000 oldest { max_queue_delay_microseconds: 700 }"
            + control("START", "int32_false_true: [ 0, 1 ]", "S")
            + control("END", "fp32_false_true: [ -1.5, 1e2 ]", "E")
            + control("READY", "bool_false_true: [ false, true ]", "R")
            + control("CORRID", "data_type: TYPE_UINT64", "I")
        )
    )
    controls = (
        ControlTensor("S", ControlKind.START, Datatype.INT32, 0.0, 1.0),
        ControlTensor("E", ControlKind.END, Datatype.FP32, -1.5, 100.0),
        ControlTensor("R", ControlKind.READY, Datatype.BOOL, 0.0, 1.0),
        ControlTensor("I", ControlKind.ID, Datatype.UINT64),
    )
    found = config.manifest.rules
    assert found.sequence == SequenceRules(controls=controls, idle_s=5.0)
    # sequences share a batch where the model turns out to allow it
    assert found.batching == BatchingRules(is_enabled=None, max_rows=8, max_delay_us=700)
    assert found.is_idempotent
    assert config.declared.filled_in == {"S", "E", "R", "I"}
    assert config.notes == ()


@pytest.mark.parametrize("name", ["INT64", "UINT32", "INT32", "STRING"])
def test_id_has_the_type_that_the_file_says(name: str) -> None:
    (one,) = sequence_rules(control("CORRID", f"data_type: TYPE_{name}")).controls
    datatype = Datatype["BYTES" if name == "STRING" else name]
    assert one == ControlTensor("C", ControlKind.ID, datatype)


def test_state_starts_with_ones_for_open_dimensions_and_its_batch_axis_is_the_first() -> None:
    config = parsed(sequence(state(dims="[-1, 3]")))
    found = config.manifest.rules
    assert found.sequence.states == (StateTensor("IN", "OUT", 0, (1, 1, 3)),)
    assert (found.sequence.idle_s, found.is_idempotent) == (60.0, False)
    assert config.declared.filled_in == {"IN"}


def test_state_is_zero_at_first_or_lies_in_a_file_and_may_be_shown() -> None:
    (one,) = sequence_rules(initial("zero_data: true", dims="2")).states
    assert one == StateTensor("IN", "OUT", 0, (1, 2))
    (one,) = sequence_rules(initial("data_file: 'start'", dims="2")).states
    assert one == StateTensor("IN", "OUT", 0, (1, 2), initial_file="start")
    (one,) = sequence_rules(state(), tensor("output", "OUT", "INT32", 1)).states
    assert one.is_shown


NO_YES = "int32_false_true: [0, 1]"
START = f"control {{ kind: CONTROL_SEQUENCE_START {NO_YES} }}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            control("START", "int32_false_true: [0]"),
            "control_input[0].control[0].int32_false_true: has 1 values; give what stands for no",
        ),
        (control("START", ""), "control[0].kind: needs one of int32_false_true"),
        (control("END", "fp32_false_true: [0, inf]"), "fp32_false_true is inf, expected a finite"),
        (
            control("CORRID", "data_type: TYPE_FP32"),
            "data_type: is FP32; ids are TYPE_UINT64, INT64",
        ),
        (control("CORRID", NO_YES), "int32_false_true: CONTROL_SEQUENCE_CORRID has a data_type"),
        (
            f"control_input {{ name: 'S' {START} {START} }}",
            "control_input[0].control: 2 of them; an input can carry one",
        ),
        (2 * control("START", NO_YES), "control_input[1].name: 'C' is there twice"),
        (
            control("START", NO_YES, "S") + control("START", NO_YES, "T"),
            "control_input[1].control: another control_input has the same kind",
        ),
        ("control_input {}", "control_input[0].name: is missing"),
        (
            control("START", NO_YES, "IN") + state(),
            "sequence_batching.state: 'IN' is a control_input too",
        ),
        ("state { input_name: 'a' data_type: TYPE_INT32 }", "state[0].output_name: is missing"),
        (
            "state { input_name: 'a' output_name: 'b' data_type: TYPE_STRING }",
            "state[0].data_type: TYPE_STRING has no size",
        ),
        (
            initial("zero_data: true", "FP32"),
            "initial_state[0].data_type: is not the state's, INT32",
        ),
        (initial(""), "initial_state[0].data_file"),
        (
            initial("data_file: '../x'"),
            "data_file: '../x' does not stay in the model's folder 'initial",
        ),
        (
            initial("data_file: 'x'", dims="99999999"),
            "data_file: of 399999996 bytes; at most 67108864 are allowed",
        ),
    ],
)
def test_meaningless_configuration_is_refused_with_its_place(text: str, expected: str) -> None:
    assert expected in complaint(sequence(text))


def test_sequences_exclude_other_ways_of_batching_and_inputs_of_callers() -> None:
    batching = sequence(state(), "dynamic_batching {}")
    assert "sequence_batching: excludes dynamic_batching; remove one" in complaint(batching)
    taken = sequence(state(), tensor("input", "IN", "INT32", 1))
    assert "input: 'IN' is filled in by sequence_batching; remove it here" in complaint(taken)
