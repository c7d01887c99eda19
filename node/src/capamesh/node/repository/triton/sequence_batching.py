"""Reads `sequence_batching` of Triton's `config.pbtxt`: control inputs, and states that the node keeps. Pure.

Both strategies become one: a node keeps each sequence in order and puts requests of different sequences into one
run, as `oldest` does, and a state is the sequence's wherever in a batch it runs, so that `direct`, which ties a
sequence to a place of the batch, needs nothing more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from capamesh.node.repository.external_data import checked_location
from capamesh.node.repository.limits import (
    MAX_DELAY_US,
    MAX_IDLE_S,
    MAX_NAME_CHARS,
    MAX_NAMES,
    MAX_STATES,
)
from capamesh.node.repository.rules import (
    NO_AXIS,
    ControlKind,
    ControlTensor,
    SequenceRules,
    StateTensor,
)
from capamesh.node.repository.triton.message import Message
from capamesh.node.repository.triton.tensors import read_datatype, read_dims
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype

SEQUENCE_BATCHING: Final = "sequence_batching"
INITIAL_FOLDER: Final = "initial_state"
"""The folder in a model's folder, by Triton's name."""
MAX_INITIAL_BYTES: Final = 64 * 2**20
"""The most bytes of one state at its start (guess: a decoder's cache of some hundred tokens in one layer)."""
_STRATEGY_REASONS: Final = {
    "minimum_slot_utilization": "a batch waits for company as long as max_queue_delay_microseconds allows",
    "max_candidate_sequences": "sequences are bounded by the memory of their states",
    "preferred_batch_size": "a batch takes what waits, up to max_batch_size",
    "preserve_ordering": "the requests of a sequence are always answered in their order",
}
STRATEGY_IGNORED: Final = {
    "direct": ("minimum_slot_utilization",),
    "oldest": ("max_candidate_sequences", "preferred_batch_size", "preserve_ordering"),
}
STATE_IGNORED: Final = {
    "use_same_buffer_for_input_output": "each run has buffers of its own",
    "use_growable_memory": "each run has buffers of its own",
}
CONTROL_KINDS: Final[dict[str, ControlKind | None]] = {
    "CONTROL_SEQUENCE_START": ControlKind.START,
    "CONTROL_SEQUENCE_END": ControlKind.END,
    "CONTROL_SEQUENCE_READY": ControlKind.READY,
    "CONTROL_SEQUENCE_CORRID": ControlKind.ID,
}
_VALUES: Final = {
    "int32_false_true": Datatype.INT32,
    "fp32_false_true": Datatype.FP32,
    "bool_false_true": Datatype.BOOL,
}
CONTROL_VALUES: Final = {
    "int32_false_true": "integer*",
    "fp32_false_true": "number*",
    "bool_false_true": "flag*",
}
"""The types of `_VALUES` in the file."""
_ID_DATATYPES: Final = frozenset(
    {Datatype.INT32, Datatype.UINT32, Datatype.INT64, Datatype.UINT64, Datatype.BYTES}
)


@dataclass(frozen=True, slots=True)
class SequenceConfig:
    """The configuration of `sequence_batching`."""

    rules: SequenceRules
    max_delay_us: int = 0
    notes: tuple[str, ...] = ()


def read_sequences(
    top: Message, *, has_batch_axis: bool, shown: frozenset[str]
) -> SequenceConfig | None:
    """Return how the sequences of a model are kept; None where its requests do not depend on each other.

    `shown` are the outputs that the file declares: a state's among them is given to callers, too.
    Raises ModelInvalid at what has no counterpart.
    """
    fields = top.message(SEQUENCE_BATCHING)
    if fields is None:
        return None
    notes: list[str] = []
    delay_us = _read_strategy(fields, notes)
    controls = _read_controls(fields)
    states = _read_states(fields, notes, has_batch_axis=has_batch_axis, shown=shown)
    if both := sorted({one.input for one in controls} & {one.input for one in states}):
        raise fields.refused("state", f"{both[0]!r} is a control_input too; it can be one of them")
    most_us = int(MAX_IDLE_S * 1e6)
    idle_us = fields.integer("max_sequence_idle_microseconds", 0, most_us)
    idle_s = idle_us / 1e6 if idle_us else SequenceRules().idle_s
    rules = SequenceRules(states=states, controls=controls, idle_s=idle_s)
    if not controls and not states:
        notes.append(
            "sequence_batching is ignored: without control_input and state a request does not depend "
            "on those before it"
        )
    return SequenceConfig(rules, delay_us, tuple(notes))


def _read_strategy(fields: Message, notes: list[str]) -> int:
    """Return how long a batch waits for company, in microseconds."""
    given = [name for name in STRATEGY_IGNORED if name in fields]
    if len(given) > 1:
        raise fields.refused("oldest", "and direct exclude each other; choose one")
    for name in given:
        strategy = fields.message(name)
        if strategy is None:
            continue
        notes += [
            f"sequence_batching.{name}.{key} is ignored: {reason}"
            for key, reason in _STRATEGY_REASONS.items()
            if key in strategy
        ]
        delay_us = strategy.integer("max_queue_delay_microseconds", 0, MAX_DELAY_US)
        # direct waits until so many places are taken; of none, the default, it waits for nothing
        return delay_us if name == "oldest" or "minimum_slot_utilization" in strategy else 0
    return 0


def _read_controls(fields: Message) -> tuple[ControlTensor, ...]:
    controls: list[ControlTensor] = []
    for one in fields.messages("control_input", MAX_NAMES):
        control = _read_control(one)
        if any(control.input == other.input for other in controls):
            raise one.refused("name", f"{control.input!r} is there twice")
        if any(control.kind is other.kind for other in controls):
            raise one.refused("control", "another control_input has the same kind; remove one")
        controls.append(control)
    return tuple(controls)


def _read_control(one: Message) -> ControlTensor:
    name = one.text("name", MAX_NAME_CHARS)
    if not name:
        raise one.refused("name", "is missing; it is one of the model's inputs")
    controls = one.messages("control", len(CONTROL_KINDS))
    if len(controls) != 1:
        raise one.refused("control", f"{len(controls)} of them; an input can carry one")
    (fields,) = controls
    kind = fields.choice(
        "kind", CONTROL_KINDS, ControlKind.START
    )  # protobuf's default is its 0, START
    assert kind is not None  # noqa: S101 - no choice is None
    given = [value for value in _VALUES if value in fields]
    if kind is ControlKind.ID:
        if given:
            raise fields.refused(given[0], "CONTROL_SEQUENCE_CORRID has a data_type instead")
        datatype = read_datatype(fields)
        if datatype not in _ID_DATATYPES:
            raise fields.refused(
                "data_type", f"is {datatype}; ids are TYPE_UINT64, INT64, UINT32, INT32 or STRING"
            )
        return ControlTensor(name, kind, datatype)
    if len(given) != 1:
        raise fields.refused("kind", f"needs one of {', '.join(_VALUES)}")
    off, on = _read_values(fields, given[0])
    return ControlTensor(name, kind, _VALUES[given[0]], off, on)


def _read_values(fields: Message, name: str) -> tuple[float, float]:
    """Return what stands for no and for yes."""
    datatype = _VALUES[name]
    if datatype is Datatype.BOOL:
        values: tuple[float, ...] = fields.flags(name, 2)
    elif datatype is Datatype.INT32:
        values = fields.integers(name, -(2**31), 2**31 - 1, 2)
    else:
        values = fields.numbers(name, 2)
    if len(values) != 2:
        raise fields.refused(name, f"has {len(values)} values; give what stands for no and for yes")
    return float(values[0]), float(values[1])


def _read_states(
    fields: Message, notes: list[str], *, has_batch_axis: bool, shown: frozenset[str]
) -> tuple[StateTensor, ...]:
    states: list[StateTensor] = []
    for index, one in enumerate(fields.messages("state", MAX_STATES)):
        notes += [
            f"sequence_batching.state[{index}].{name} is ignored: {reason}"
            for name, reason in STATE_IGNORED.items()
            if name in one
        ]
        states.append(_read_state(one, has_batch_axis=has_batch_axis, shown=shown))
    return tuple(states)


def _read_state(one: Message, *, has_batch_axis: bool, shown: frozenset[str]) -> StateTensor:
    names = {key: one.text(key, MAX_NAME_CHARS) for key in ("input_name", "output_name")}
    for key, name in names.items():
        if not name:
            raise one.refused(key, "is missing")
    datatype = read_datatype(one)
    itemsize = datatype.itemsize_bytes
    if itemsize is None:
        raise one.refused("data_type", "TYPE_STRING has no size; a state is of numbers")
    # As Triton does: 1 for each open dimension of the first request.
    start = tuple(max(1, dim) for dim in read_dims(one, low=-1))
    file = ""
    for initial in one.messages("initial_state", 1):
        if read_datatype(initial) is not datatype:
            raise initial.refused("data_type", f"is not the state's, {datatype}")
        start = read_dims(initial, low=1)
        file = _read_file(initial)
        size_bytes = math.prod(start) * itemsize
        if file and size_bytes > MAX_INITIAL_BYTES:
            raise initial.refused(
                "data_file", f"of {size_bytes} bytes; at most {MAX_INITIAL_BYTES} are allowed"
            )
    return StateTensor(
        names["input_name"],
        names["output_name"],
        axis=0 if has_batch_axis else NO_AXIS,
        shape=(1, *start) if has_batch_axis else start,
        initial_file=file,
        is_shown=names["output_name"] in shown,
    )


def _read_file(initial: Message) -> str:
    """Return the file with a state's start, "" where it is zeros."""
    file = initial.text("data_file", MAX_NAME_CHARS)
    if bool(file) == ("zero_data" in initial):
        raise initial.refused("data_file", "or zero_data: give one of the two")
    if not file:
        return ""
    try:
        path = checked_location(file)
    except ModelInvalid as exc:
        raise initial.refused(
            "data_file", f"{file!r} does not stay in the model's folder {INITIAL_FOLDER!r}"
        ) from exc
    if not path.name:
        raise initial.refused("data_file", f"{file!r} names no file")
    return path.as_posix()
