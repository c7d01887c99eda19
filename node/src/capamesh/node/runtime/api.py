"""The seam between a worker and what executes models: protocols, no implementation. Pure.

A model is one of two kinds. A `LoadedModel` answers a request in one run; a `GenerativeModel` answers it in steps, and
keeps what it needs for the next step of each request itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

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


class Step(NamedTuple):
    """The outcome of one step of a generative model for one sequence."""

    outputs: tuple[Tensor, ...]
    """The next part of the answer, in the model's order; tensors of no rows where the step adds nothing to it."""
    is_last: bool
    """True if the answer ends with it."""


class GenerativeModel(Protocol):
    """One model version on one device that answers in steps, many sequences at once. Used by one thread at a time.

    A sequence is one request from `prefill` to `free`; whoever calls gives it a number. The model keeps its state, as a
    language model keeps keys and values, until `free`.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that the model takes of a request; -1 is a dimension of any size."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs that the model gives in every step; the parts of one answer have any size along axis 0."""
        ...

    @property
    def provider(self) -> str:
        """The provider that runs it, as found after loading, not as asked for."""
        ...

    @property
    def precision(self) -> str:
        """The type of its numbers, as `LoadedModel.precision`."""
        ...

    @property
    def max_sequences(self) -> int:
        """The number of sequences that the model can keep at once."""
        ...

    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        """Check a request before it waits: its inputs have the datatypes and shapes that `inputs` of the model describes.

        Raises:
            InvalidRequest: the request does not fit the model.
        """
        ...

    def prefill(
        self, sequence: int, inputs: Sequence[Tensor], stop: StopSwitch | None = None
    ) -> Step:
        """Begin a sequence and return its first step. Blocks.

        Args:
            sequence: A number that no sequence has which is not freed yet.
            inputs: Tensors that `validate` has let pass, as described by `inputs` of the model; no reference to them is
                kept.
            stop: Ends the run early.

        Raises:
            InvalidRequest: the runtime says that the inputs do not fit the model. The sequence has not begun.
            Overloaded: `max_sequences` are kept already, or their state has no room for this one. It has not begun.
            RunFailed: the run failed otherwise, or was stopped. The sequence has not begun.
        """
        ...

    def decode_step(self, batch: Sequence[int], stop: StopSwitch | None = None) -> list[Step]:
        """Run one step of each sequence in `batch`, all together; return their steps in its order. Blocks.

        Args:
            batch: Sequences that have begun, each once, and whose last step has not come.
            stop: Ends the run early.

        Raises:
            RunFailed: the run failed or was stopped. No sequence of the batch can go on; each is still to be freed.
        """
        ...

    def free(self, sequence: int) -> None:
        """Forget a sequence, at its end or before; one that is not known is no error."""
        ...

    def close(self) -> None:
        """Let go of the model, its sequences and its memory; again is harmless."""
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
