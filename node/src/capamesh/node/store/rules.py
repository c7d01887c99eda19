"""What an operator may say about how a model is served. Pure values; `manifest` and `config_pbtxt` read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class RaggedInput:
    """An input with an axis whose length differs between requests that may share a batch.

    Shorter ones are padded at the end with `pad` to the next of `buckets`, or to the longest of the batch
    where none fits.
    """

    name: str
    axis: int = 1
    """At least 1: axis 0 is the batch."""
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
    """How requests are put together."""

    is_enabled: bool | None = None
    """None: found out at load, by comparing a batch with its parts."""
    max_rows: int | None = None
    """Of a batch and of a request; None: as the measured profile says."""
    max_delay_us: int = 0
    """How long a request may wait for company while an instance is free."""
    ragged: tuple[RaggedInput, ...] = ()


@dataclass(frozen=True, slots=True)
class StateTensor:
    """A tensor that stays on the node between the requests of a sequence, zero at its start."""

    input: str
    output: str
    """Its next value."""
    axis: int = 0
    """Along which the sequences of a batch are stacked."""
    shape: tuple[int, ...] = ()
    """Of one sequence, `axis` included with size 1; empty: the declared input's, which must be fixed
    apart from `axis`."""


@dataclass(frozen=True, slots=True)
class SequenceRules:
    """How a stateful model's sequences are kept."""

    states: tuple[StateTensor, ...] = ()
    """Empty: the model is stateless."""
    idle_s: float = 60.0
    """A sequence that was silent for so long is forgotten."""
    max_bytes: int = 256 * 2**20
    """All states of the model; the sequence that was silent longest gives way."""


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """One model of a chain. Names on the chain are its inputs and what earlier steps gave."""

    model: str
    version: str = ""
    """Empty: the newest."""
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
    """Whether a model is refused that does not run it."""


class VersionChoice(StrEnum):
    """Which versions of a model are served."""

    LATEST = "latest"
    ALL = "all"
    SPECIFIC = "specific"


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions of a model are served."""

    choice: VersionChoice = VersionChoice.ALL
    count: int = 1
    """Of `LATEST`: how many, the highest numbers."""
    versions: tuple[int, ...] = ()
    """Of `SPECIFIC`."""


@dataclass(frozen=True, slots=True)
class Rules:
    """All of the above for one model."""

    batching: BatchingRules = field(default_factory=BatchingRules)
    sequence: SequenceRules = field(default_factory=SequenceRules)
    steps: tuple[PipelineStep, ...] = ()
    """Not empty: a pipeline, which has no file of its own."""
    warm_up: tuple[WarmUp, ...] = ()
    versions: VersionPolicy = field(default_factory=VersionPolicy)
    instances: int = 0
    """Runs at the same time on one device; 0: one, or on a CPU as many of one thread each as are measured to
    do more."""
    is_pinned: bool = False
    """Never unloaded to make room for another model."""
    is_idempotent: bool = True
    """Whether a request may be run again elsewhere when its outcome is unknown."""
