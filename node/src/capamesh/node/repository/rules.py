"""The rules of an operator on how a model is served. Pure values; `manifest` and `config_pbtxt` read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from capamesh.protocol.tensors import Datatype
from capamesh.protocol.windows import Windows

NO_AXIS: Final = -1
"""Stands for the axis of a state whose model takes one sequence at a time."""


@dataclass(frozen=True, slots=True)
class RaggedInput:
    """An input with an axis whose length differs between requests that may share a batch.

    Shorter ones are padded at the end with `pad` to the next of `buckets`, or to the longest of the batch
    where none fits.
    """

    name: str
    axis: int = 1
    """The axis, at least 1: axis 0 is the batch."""
    pad: float = 0.0
    """Must be exact in the input's datatype."""
    buckets: tuple[int, ...] = ()
    """Lengths, ascending."""
    mask: str = ""
    """An input of the same length that is 1 where there is data and 0 where there is padding. It is made
    when a request leaves it out, and padded with 0 when a request gives it."""
    outputs: tuple[str, ...] = ()
    """Outputs whose same axis has the padded length and is cut back to the request's own."""


@dataclass(frozen=True, slots=True)
class BatchingRules:
    """The rules by which requests are put together."""

    is_enabled: bool | None = None
    """True if requests are put together; None: found out at load, by comparing a batch with its parts."""
    max_rows: int | None = None
    """The most rows of a batch and of a request; None: as the measured profile says."""
    max_delay_us: int = 0
    """The longest time that a request may wait for company while an instance is free."""
    ragged: tuple[RaggedInput, ...] = ()


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A tensor that stays on the node between the requests of a sequence."""

    input: str
    output: str
    """The output that is its next value."""
    axis: int = 0
    """Along which the sequences of a batch are stacked; `NO_AXIS`: there is none."""
    shape: tuple[int, ...] = ()
    """The shape of one sequence's state at its start, `axis` included with size 1; empty: the declared input's, which must be
    fixed apart from `axis`."""
    initial_file: str = ""
    """The file in the model's folder `initial_state` with the elements at a sequence's start, row-major; empty: zeros."""
    initial: bytes = field(default=b"", repr=False)
    """The contents of that file, once it was read."""
    is_shown: bool = False
    """True if a caller may ask for the output, and gets it with all others."""


@dataclass(frozen=True, slots=True)
class LoopRules:
    """The rules of a model that is run again and again for one request: each run is a step, and its outputs a part of the answer."""

    feedback: tuple[tuple[str, str], ...]
    """(input, the output that is its value in the next step); the other inputs stay as they came."""
    max_steps: int
    """The answer ends with this step at the latest."""
    stop: str = ""
    """The output that ends the answer once none of its elements is zero; empty: it ends with `max_steps`."""
    max_bytes: int = 256 * 2**20
    """The outputs that one request asks for, of all its steps; one with more fails."""


class ControlKind(StrEnum):
    """The kinds of control inputs, by what they tell a model of a request."""

    START = "start"
    """The control tells whether the request is the first of its sequence."""
    END = "end"
    """The control tells whether the request is the last of its sequence."""
    READY = "ready"
    """The control tells whether there is a request at all, which is always so here: no batch has an empty row."""
    ID = "id"
    """The control tells which sequence the request belongs to."""


@dataclass(frozen=True, slots=True)
class ControlTensor:
    """An input of one element a request that the node fills in: no caller gives it."""

    input: str
    kind: ControlKind
    datatype: Datatype
    off: float = 0.0
    on: float = 1.0
    """The values that stand for no and for yes; an id is neither."""


@dataclass(frozen=True, slots=True)
class SequenceRules:
    """The rules by which a stateful model's sequences are kept."""

    states: tuple[StateTensor, ...] = ()
    """The states of the model; empty: it is stateless."""
    idle_s: float = 60.0
    """A sequence that was silent for so long is forgotten."""
    max_bytes: int = 256 * 2**20
    """All states of the model; the sequence that was silent longest gives way."""
    controls: tuple[ControlTensor, ...] = ()
    """The controls of the model: with one of these a request belongs to a sequence even where the model is stateless."""

    @property
    def inputs(self) -> frozenset[str]:
        """The model's inputs that no caller gives."""
        return frozenset(state.input for state in self.states) | frozenset(
            control.input for control in self.controls
        )


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """The rules for requests that wait for a model."""

    timeout_us: int = 0
    """The longest time that one may wait until its run begins; 0: as long as its own deadline."""
    is_delaying: bool = False
    """True if one that has waited so long goes behind all others of its priority, instead of being refused."""
    max_queue: int = 0
    """The most requests of one priority that may wait; 0: any number."""


@dataclass(frozen=True, slots=True)
class QueueRules:
    """The rules by which the priorities of requests are taken, and for each while it waits."""

    default: QueuePolicy = field(default_factory=QueuePolicy)
    levels: int = 0
    """Priorities from 1 to so many are taken as they are; 0: all are, and `default_level` means nothing."""
    default_level: int = 0
    """The priority of requests that bring none, or one over `levels`."""
    by_level: tuple[tuple[int, QueuePolicy], ...] = ()
    """(priority, what holds instead of `default`)."""


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """One model of a chain. Names on the chain are its inputs and what earlier steps gave."""

    model: str
    version: str = ""
    """The version; empty: the newest."""
    inputs: tuple[tuple[str, str], ...] = ()
    """(the model's input, the name on the chain)."""
    outputs: tuple[tuple[str, str], ...] = ()
    """(the model's output, the name on the chain)."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """A request that is run before a model is ready. Inputs without a file are generated."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(input, its whole shape); inputs left out get the declared shape with 1 for every open dimension."""
    files: tuple[tuple[str, str], ...] = ()
    """(input, a `.npy` file beside the manifest); read without pickle."""
    count: int = 1
    must_run: bool = True
    """True if a model is refused that does not run it."""


class VersionChoice(StrEnum):
    """The ways to choose the versions of a model that are served."""

    LATEST = "latest"
    ALL = "all"
    SPECIFIC = "specific"


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """The rule by which the versions of a model that are served are chosen."""

    choice: VersionChoice = VersionChoice.ALL
    count: int = 1
    """The number of versions that `LATEST` serves, the highest ones."""
    versions: tuple[int, ...] = ()
    """The versions that `SPECIFIC` serves."""


@dataclass(frozen=True, slots=True)
class Rules:
    """All of the above for one model."""

    batching: BatchingRules = field(default_factory=BatchingRules)
    sequence: SequenceRules = field(default_factory=SequenceRules)
    queue: QueueRules = field(default_factory=QueueRules)
    loop: LoopRules | None = None
    """The loop of a model that answers in parts; None: a request is one run."""
    steps: tuple[PipelineStep, ...] = ()
    """The steps of a pipeline, which has no file of its own; empty for all other models."""
    warm_up: tuple[WarmUp, ...] = ()
    versions: VersionPolicy = field(default_factory=VersionPolicy)
    windows: Windows | None = None
    """The windows into which a stream of samples is cut for it; None: it takes none."""
    instances: int = 0
    """Runs at the same time on one device; 0: one, or on a CPU as many of one thread each as are measured to
    do more."""
    is_pinned: bool = False
    """True if it is never unloaded to make room for another model."""
    is_idempotent: bool = True
    """True if a request may be run again elsewhere when its outcome is unknown."""
    is_deterministic: bool = True
    """True if equal requests have equal answers, so that a router may keep one for the next."""
