"""The adverts of nodes and routers, as values. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from capamesh.protocol.adverts.interval import MIN_INTERVAL_S
from capamesh.protocol.adverts.sequence import Sequence
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.tasks import Task
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.protocol.windows import Windows

NO_VERSION: Final = "0"
"""Stands for the version of a model that is refused before any is known; versions of models begin at 1."""


def shown_version(version: str) -> str:
    """Return a version as people and programs are told it: empty for `NO_VERSION`."""
    return "" if version == NO_VERSION else version


class Scheduling(StrEnum):
    """The scheduling of a model's requests, where callers must know it."""

    PLAIN = ""
    """Each request is a matter of its own."""
    ENSEMBLE = "ensemble"
    """The model is made of others."""
    SEQUENCE = "sequence"
    """Each request belongs to a sequence, and says to which."""


class ImageFormat(StrEnum):
    """The order of the axes of a picture, rows of a batch left out."""

    NONE = ""
    """Nothing is said of it."""
    NHWC = "NHWC"
    NCHW = "NCHW"


class ModelState(StrEnum):
    """The state of a model at a node; only `READY` takes requests."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNLOADING = "unloading"
    UNLOADED = "unloaded"
    """The model is known and not in memory; its reason says why."""


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator, or the CPU, with the worker process that serves it."""

    index: int
    """Unique within the node."""
    kind: str
    """"cpu", "cuda", or another lower-case word."""
    name: str
    """The maker's name, for people."""
    provider: str
    """The ONNX Runtime execution provider that was verified to run here."""
    memory_total_bytes: int
    memory_free_bytes: int
    data_addresses: tuple[str, ...]
    """The addresses at which this device's worker listens, each "host:port"; none for a node that only dials."""
    runtime: str = ""
    """The runtime that executes the models, with its version: "onnxruntime 1.31.1"; "" where it was not told."""
    driver: str = ""
    """The version of the device's driver; "" for a CPU, or where it was not told."""


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """One version of a model that a node hosts or is about to."""

    name: ModelName
    version: ModelVersion
    digest: str
    """The digest of the model's files, as `model_digest` has it; may be "" while not ready."""
    state: ModelState
    reason: str
    """The reason, for people, why it failed or is not loaded; "" otherwise."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    provider: str = ""
    """The execution provider that runs it, as found after loading; "" before, or where it was not told."""
    precision: str = ""
    """The precision of its numbers: "fp32", "fp16", "int8", "mixed", …; "" where it was not told."""
    best_rows: int = 0
    """The batch with the most rows a second, as measured; 0: unknown."""
    row_us: int = 0
    """Service time of one row in a batch of `best_rows`, in microseconds; 0: unknown."""
    max_rows: int = 0
    """The most rows of one request; 0 for no limit, or unknown."""
    max_batch_size: int = 0
    """The `max_batch_size` of its configuration, in Triton's sense; 0: a request is no batch of rows."""
    memory_bytes: int = 0
    """The memory that it occupies on the device; 0 if unknown."""
    is_idempotent: bool = True
    """True if a request may be run again elsewhere when its outcome is unknown."""
    is_deterministic: bool = True
    """True if equal requests have equal answers, so that one may be kept for the next."""
    signed: bytes = b""
    """A publisher's public key and signature, as `publishing.sign` returns them, not verified; b"": none."""
    also_signed: tuple[bytes, ...] = ()
    """Other publishers' likewise, at most `publishing.MAX_OTHERS`."""
    scheduling: Scheduling = Scheduling.PLAIN
    max_parts: int = 0
    """The most parts of one answer, where the model answers in parts; 0: it answers whole."""
    labelled: tuple[str, ...] = ()
    """The outputs whose classes have names at this node; see `capamesh.protocol.tensors.classification`."""
    formats: tuple[tuple[str, ImageFormat], ...] = ()
    """The inputs that are pictures, as its operator configured them; for callers alone."""
    task: Task = Task.NONE
    windows: Windows | None = None
    """The windows into which a stream of samples is cut for it; None: it takes none."""

    @property
    def is_ready(self) -> bool:
        """Return whether it takes requests."""
        return self.state is ModelState.READY


@dataclass(frozen=True, slots=True)
class NodeAdvert:
    """All that changes slowly about a node; its load travels on the links instead."""

    peer: PeerId
    sequence: Sequence
    devices: tuple[Device, ...]
    models: tuple[ModelOffer, ...]
    region: str
    price_per_million: float
    """The price of a million rows, in the unit that the network's operator defined; 0 is free."""
    agent_version: str
    is_draining: bool
    interval_s: int = MIN_INTERVAL_S
    """The next advert comes after so long, give or take a tenth, unless it is lost."""
    name: str = ""
    """The name that its operator gave it, for people: no identity, for two nodes may have the same; "" for none."""

    def says_the_same_as(self, other: NodeAdvert) -> bool:
        """Return whether the two differ in nothing but their sequence and when the next one comes."""
        return self == replace(other, sequence=self.sequence, interval_s=self.interval_s)


@dataclass(frozen=True, slots=True)
class RouterAdvert:
    """The advert of a router: where nodes that cannot be dialled reach it."""

    peer: PeerId
    sequence: Sequence
    link_addresses: tuple[str, ...]
    """One "host:port" for each API process."""
    region: str
    agent_version: str
    nodes: int = 0
    """The number of nodes in its own view, others' counts left out; 0 for none, or not told."""
    name: str = ""
    """The name that its operator gave it, likewise."""
