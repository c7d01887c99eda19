"""What `sequence_batching` of Triton's `config.pbtxt` becomes here: control inputs and states that the node keeps."""

from __future__ import annotations

import pytest

from capamesh.node.repository.rules import (
    NO_AXIS,
    BatchingRules,
    ControlKind,
    ControlTensor,
    SequenceRules,
    StateTensor,
)
from capamesh.node.repository.triton.config_pbtxt import ModelConfig, parse_config
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype


def parsed(text: str) -> ModelConfig:
    return parse_config(text.encode(), "m/config.pbtxt", "m")


def complaint(text: str) -> str:
    with pytest.raises(ModelInvalid) as caught:
        parsed(text)
    return caught.value.message


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


def test_state_without_a_batch_axis_has_its_shape_alone() -> None:
    config = parsed(sequence(state(dims="[4]"), rows=0))
    (one,) = config.manifest.rules.sequence.states
    assert one == StateTensor("IN", "OUT", NO_AXIS, (4,))
    assert config.manifest.rules.batching.is_enabled is False


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


def test_request_without_controls_and_states_belongs_to_no_sequence() -> None:
    config = parsed(sequence("direct {}"))
    assert config.manifest.rules.sequence == SequenceRules()
    assert config.notes == (
        "sequence_batching is ignored: without control_input and state a request does not depend on those "
        "before it",
    )


@pytest.mark.parametrize(
    ("strategy", "delay_us", "notes"),
    [
        ("direct { max_queue_delay_microseconds: 9 }", 0, []),
        (
            "direct { max_queue_delay_microseconds: 9 minimum_slot_utilization: 0.5 }",
            9,
            ["sequence_batching.direct.minimum_slot_utilization is ignored: a batch waits"],
        ),
        (
            "oldest { max_candidate_sequences: 4 preferred_batch_size: [2] max_queue_delay_microseconds: 9 }",
            9,
            [
                "sequence_batching.oldest.max_candidate_sequences is ignored: sequences are bounded",
                "sequence_batching.oldest.preferred_batch_size is ignored: a batch takes what waits",
            ],
        ),
    ],
)
def test_delay_of_a_strategy_is_kept(strategy: str, delay_us: int, notes: list[str]) -> None:
    config = parsed(sequence(f"{strategy} {state()}"))
    assert config.manifest.rules.batching.max_delay_us == delay_us
    assert len(config.notes) == len(notes)
    for note, start in zip(config.notes, notes, strict=True):
        assert note.startswith(start)


START = "kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            control("CONTROL_SEQUENCE_START", "int32_false_true: [0]"),
            "control_input[0].control[0].int32_false_true: has 1 values; give what stands for no and",
        ),
        (
            control("CONTROL_SEQUENCE_START", ""),
            "control[0].kind: needs one of int32_false_true, fp32_false_true, bool_false_true",
        ),
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
        ("direct {} oldest {}", "sequence_batching.oldest: and direct exclude each other"),
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
        (
            state("initial_state { data_type: TYPE_INT32 dims: 1 }"),
            "initial_state[0].data_file: or zero_data: give one of the two",
        ),
        (
            state("initial_state { data_type: TYPE_INT32 dims: 1 data_file: '../x' }"),
            "data_file: '../x' does not stay in the model's folder 'initial_state'",
        ),
        (
            state("initial_state { data_type: TYPE_INT32 dims: 99999999 data_file: 'x' }"),
            "data_file: of 399999996 bytes; at most 67108864 are allowed",
        ),
        ("generative_sequence: true", "generative_sequence: a request is run once; remove it"),
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
