"""Reads a model's rules out of the tables of its `capamesh.toml`. Pure: tables in, values out.

What a key says alone is checked here; whether the rules agree with each other, in `rule_checks`.
"""

from __future__ import annotations

from typing import Final

from capamesh.node.repository.limits import (
    MAX_AXIS,
    MAX_BUCKETS,
    MAX_DELAY_US,
    MAX_DIM,
    MAX_FILE_NAME_CHARS,
    MAX_IDLE_S,
    MAX_INSTANCES,
    MAX_NAME_CHARS,
    MAX_NAMES,
    MAX_PAD,
    MAX_RAGGED,
    MAX_ROWS,
    MAX_STATE_BYTES,
    MAX_STATES,
    MAX_STEPS,
    MAX_VERSION,
    MAX_VERSIONS,
    MAX_WARM_UP_COUNT,
    MAX_WARM_UPS,
    MIN_IDLE_S,
)
from capamesh.node.repository.rules import (
    BatchingRules,
    PipelineStep,
    RaggedInput,
    Rules,
    SequenceRules,
    StateTensor,
    VersionChoice,
    VersionPolicy,
    WarmUp,
)
from capamesh.node.repository.toml_table import Table

RULE_KEYS: Final = (
    "instances",
    "pinned",
    "idempotent",
    "versions",
    "batching",
    "sequence",
    "warm_up",
    "step",
)
_BATCHING: Final = ("enabled", "max_rows", "max_delay_us", "ragged")
_RAGGED: Final = ("input", "axis", "pad", "buckets", "mask", "outputs")
_SEQUENCE: Final = ("idle_s", "max_bytes", "state")
_STATE: Final = ("input", "output", "axis", "shape")
_WARM_UP: Final = ("shapes", "files", "count")
_STEP: Final = ("model", "version", "inputs", "outputs")

_MAX_DIMS: Final = MAX_AXIS + 1


def read_rules(top: Table) -> Rules:
    """Return the rules in `top`, a whole file. Raises ModelInvalid at the first key that is wrong."""
    sequence = _sequence(top)
    is_idempotent = top.flag("idempotent", not sequence.states)
    if is_idempotent and sequence.states:
        raise top.refused(
            "idempotent",
            "a model with sequence states gives another answer the second time; remove one of the two",
        )
    return Rules(
        batching=_batching(top),
        sequence=sequence,
        steps=tuple(_step(table) for table in top.tables("step", _STEP, MAX_STEPS)),
        warm_up=tuple(_warm_up(table) for table in top.tables("warm_up", _WARM_UP, MAX_WARM_UPS)),
        versions=_versions(top),
        instances=top.integer("instances", 1, MAX_INSTANCES, 0),
        is_pinned=top.flag("pinned", default=False),
        is_idempotent=is_idempotent,
    )


def _batching(top: Table) -> BatchingRules:
    table = top.table("batching", _BATCHING)
    return BatchingRules(
        is_enabled=table.flag("enabled", None),
        max_rows=table.integer("max_rows", 1, MAX_ROWS, None),
        max_delay_us=table.integer("max_delay_us", 0, MAX_DELAY_US, 0),
        ragged=tuple(_ragged(one) for one in table.tables("ragged", _RAGGED, MAX_RAGGED)),
    )


def _ragged(table: Table) -> RaggedInput:
    table.need("input")
    return RaggedInput(
        name=table.text("input", MAX_NAME_CHARS, min_chars=1),
        axis=table.integer("axis", 1, MAX_AXIS, 1),
        pad=table.number("pad", -MAX_PAD, MAX_PAD, 0.0),
        buckets=table.integers("buckets", 1, MAX_DIM, MAX_BUCKETS),
        mask=table.text("mask", MAX_NAME_CHARS),
        outputs=table.texts("outputs", MAX_NAME_CHARS, MAX_NAMES),
    )


def _sequence(top: Table) -> SequenceRules:
    table = top.table("sequence", _SEQUENCE)
    if "sequence" in top:
        table.need("state")
    default = SequenceRules()
    return SequenceRules(
        states=tuple(_state(one) for one in table.tables("state", _STATE, MAX_STATES)),
        idle_s=table.number("idle_s", MIN_IDLE_S, MAX_IDLE_S, default.idle_s),
        max_bytes=table.integer("max_bytes", 1, MAX_STATE_BYTES, default.max_bytes),
    )


def _state(table: Table) -> StateTensor:
    table.need("input", "output")
    return StateTensor(
        input=table.text("input", MAX_NAME_CHARS, min_chars=1),
        output=table.text("output", MAX_NAME_CHARS, min_chars=1),
        axis=table.integer("axis", 0, MAX_AXIS, 0),
        shape=table.integers("shape", 1, MAX_DIM, _MAX_DIMS),
    )


def _step(table: Table) -> PipelineStep:
    table.need("model", "inputs", "outputs")
    version = table.integer("version", 1, MAX_VERSION, None)
    return PipelineStep(
        model=table.text("model", MAX_NAME_CHARS, min_chars=1),
        version="" if version is None else str(version),
        inputs=table.pairs("inputs", MAX_NAME_CHARS, MAX_NAMES),
        outputs=table.pairs("outputs", MAX_NAME_CHARS, MAX_NAMES),
    )


def _warm_up(table: Table) -> WarmUp:
    shapes, files = _by_input(table, "shapes"), _by_input(table, "files")
    return WarmUp(
        shapes=tuple(
            (name, shapes.integers(name, 1, MAX_DIM, _MAX_DIMS))
            for name in shapes.keys()  # noqa: SIM118  # a Table is no mapping
        ),
        files=tuple(
            (name, files.text(name, MAX_FILE_NAME_CHARS, min_chars=1))
            for name in files.keys()  # noqa: SIM118  # likewise
        ),
        count=table.integer("count", 1, MAX_WARM_UP_COUNT, 1),
    )


def _by_input(table: Table, key: str) -> Table:
    """Return the table at `key`, whose keys are names of inputs."""
    by_input = table.free_table(key)
    names = by_input.keys()
    for name in names:
        if not 1 <= len(name) <= MAX_NAME_CHARS:
            raise table.refused(
                key, f"an input's name has 1 to {MAX_NAME_CHARS} characters, not {len(name)}"
            )
    if len(names) > MAX_NAMES:
        raise table.wrong(key, table.value(key), f"at most {MAX_NAMES} inputs")
    return by_input


def _versions(top: Table) -> VersionPolicy:
    value = top.value("versions")
    if value is None or value == "all":
        return VersionPolicy()
    expected = "'all', {latest = 2} or {specific = [1, 3]}"
    if not isinstance(value, dict) or len(top.free_table("versions").keys()) != 1:
        raise top.wrong("versions", top.value("versions"), expected)
    table = top.table("versions", (VersionChoice.LATEST, VersionChoice.SPECIFIC))
    if VersionChoice.LATEST in table:
        count = table.integer(VersionChoice.LATEST, 1, MAX_VERSIONS, 1)
        return VersionPolicy(VersionChoice.LATEST, count=count)
    versions = table.integers(VersionChoice.SPECIFIC, 1, MAX_VERSION, MAX_VERSIONS, min_count=1)
    if len(set(versions)) != len(versions):
        raise table.wrong(VersionChoice.SPECIFIC, list(versions), "each version once")
    return VersionPolicy(VersionChoice.SPECIFIC, versions=tuple(sorted(versions)))
