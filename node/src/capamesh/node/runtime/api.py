"""The seam between a worker and what executes models: protocols, no implementation. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from capamesh.node.repository import ModelSource
from capamesh.protocol.errors import RunFailed
from capamesh.protocol.tensors import Tensor, TensorSpec


class OutOfMemory(RunFailed):
    """A load or a run needed memory that could not be had; nothing is wrong with the model."""


class StopSwitch(Protocol):
    """Ends a run early. Made by the backend, given to one run."""

    __slots__ = ()

    def stop(self) -> None:
        """End the run as soon as the runtime looks; from any thread, before or after it has ended too."""
        ...


class LoadedModel(Protocol):
    """One model version on one device. Safe to use from several threads at once."""

    inputs: tuple[TensorSpec, ...]
    """The inputs that the model takes; -1 is a dimension of any size, `()` a scalar or any shape at all."""
    outputs: tuple[TensorSpec, ...]
    """The outputs as the model declares them; the tensors that `run` returns have their true shapes."""
    provider: str
    """The provider that runs it, as found after loading, not as asked for."""
    precision: str
    """The type of its numbers: "fp32", "fp16", "bf16", "fp64", "int8" or "mixed"; "" for none."""
    is_data_dependent: bool
    """True if the work of a run may depend on the values of its inputs, not on their shapes alone."""
    is_random: bool = False
    """True if equal runs may have different results, for the model draws by chance."""
    notes: tuple[str, ...] = ()
    """The lines for the operator on what of the model's file is not served; none where all of it is."""

    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        """Check a request before it waits or joins a batch; `outputs` empty asks for all of them.

        The tensors' data must have passed `tensors.checked`. InvalidRequest: an unknown, missing or
        doubled input; a wrong datatype or shape; text that is not UTF-8, where it is short; an unknown
        or doubled output.
        """
        ...

    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] = (),
        stop: StopSwitch | None = None,
    ) -> list[Tensor]:
        """Return the named outputs, in that order, or all of them, in the model's order; each with its true shape.

        Blocks; `inputs` must have passed `validate`, alone or as parts of a batch: their datatypes and shapes are as
        described by `inputs` of the model. Keeps no reference to them.

        Raises:
            InvalidRequest: the runtime says that the inputs do not fit the model or each other.
            OutOfMemory: there was not the memory that it needs.
            RunFailed: it failed otherwise, or `stop` was used.
            ModelUnavailable: the model is closed.
        """
        ...

    def give_back(self) -> None:
        """Give the memory that runs have left with the model back to the device; safe beside runs, which keep theirs."""
        ...

    def close(self) -> None:
        """Let go of the model and its memory once runs in progress end; again is harmless."""
        ...


class Backend(Protocol):
    """Loads models onto one device."""

    __slots__ = ()

    runtime: str
    """The runtime that executes the models, with its version: "onnxruntime 1.31.1"."""
    streams: int
    """The number of runs of one thread each that the device takes beside one another; 1: it is not divided so."""

    def compute_capability(self) -> str:
        """Return the GPU's compute capability, such as "8.6", by which a model may have a file of its own; "": none."""
        ...

    def stop_switch(self) -> StopSwitch:
        """Return a new switch for one run."""
        ...

    def free_bytes(self) -> int:
        """Return the device's memory that is free now, in bytes."""
        ...

    def used_bytes(self) -> int:
        """Return the device's memory that is in use now, in bytes: on the CPU by this process, on a GPU by all."""
        ...

    def load(self, source: ModelSource) -> LoadedModel:
        """Return the model at `source`, ready to run. Blocks, for seconds where it is large.

        The path of its file is to be had from `source.content.reading()` alone, within which all of it must be read.
        ModelInvalid: it cannot be loaded, has a tensor that the wire cannot carry, or would run on
        another provider than it should. OutOfMemory, or MemoryError: there was not the memory that it needs.
        """
        ...

    def load_stream(self, source: ModelSource) -> LoadedModel:
        """Return the model as `load` does, for runs of one thread each beside one another."""
        ...
