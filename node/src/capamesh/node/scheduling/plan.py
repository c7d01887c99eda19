"""Turns requests of one model into one run, and its outputs into their answers again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr
from typing_extensions import override

from capamesh.node.repository.rules import NO_AXIS, ControlTensor, RaggedInput, StateTensor
from capamesh.node.scheduling.controls import Controls
from capamesh.node.scheduling.pending_request import PendingRequest, RunPlan
from capamesh.node.scheduling.stacking import bucket, divided, filled, padded, shortened, stacked
from capamesh.protocol.errors import InvalidRequest, RunFailed, TooLarge
from capamesh.protocol.tensors import Tensor, TensorSpec

if TYPE_CHECKING:
    from capamesh.protocol.links.sequence_mark import SequenceMark


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class BatchPlan(RunPlan):
    """The plan that one model's requests share. `inputs` and `outputs` are the model's own, states included."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_batching: bool = False
    """True if requests may share a run; else every request runs alone, whatever its shapes."""
    batch_rows: int = 1
    """Rows that are put together at most; 1 without batching."""
    max_rows: int = 0
    """Rows of one request at most; 0: any."""
    shared: frozenset[str] = frozenset()
    """Inputs without a batch axis: equal for all requests of a batch."""
    ragged: tuple[RaggedInput, ...] = ()
    states: tuple[StateTensor, ...] = ()
    controls: tuple[ControlTensor, ...] = ()
    looped: tuple[str, ...] = ()
    """The outputs that a loop goes on with or ends by."""
    _axes: dict[str, int] = field(init=False, repr=False, compare=False)
    _is_plain: bool = field(init=False, repr=False, compare=False)
    _names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _controls: Controls = field(init=False, repr=False, compare=False)
    _filled_in: frozenset[str] = field(init=False, repr=False, compare=False)
    _needed: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.is_batching:
            object.__setattr__(self, "batch_rows", 1)
        stacked = [state for state in self.states if state.axis != NO_AXIS]
        axes = {state.input: state.axis for state in stacked}
        axes |= {state.output: state.axis for state in stacked}
        object.__setattr__(self, "_axes", axes)
        object.__setattr__(self, "_names", tuple(spec.name for spec in self.inputs))
        is_plain = (
            self.is_batching
            and not self.shared
            and not self.ragged
            and not self.is_sequential
            and all(dim >= 0 for spec in self.inputs for dim in spec.shape[1:])
        )
        object.__setattr__(self, "_is_plain", is_plain)
        object.__setattr__(self, "_controls", Controls(self.controls, self.inputs))
        filled_in = frozenset(state.input for state in self.states)
        filled_in |= frozenset(control.input for control in self.controls)
        object.__setattr__(self, "_filled_in", filled_in)
        states = tuple([state.output for state in self.states])
        object.__setattr__(self, "_needed", states + self.looped)

    # before the queue

    @property
    def is_sequential(self) -> bool:
        """Return whether a request belongs to a sequence."""
        return bool(self.states or self.controls)

    @property
    def public_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that a caller gives: all but the states and controls."""
        return tuple(spec for spec in self.inputs if spec.name not in self._filled_in)

    @property
    def public_outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs that a caller gets: all but the states that are not shown."""
        kept = {state.output for state in self.states if not state.is_shown}
        return tuple(spec for spec in self.outputs if spec.name not in kept)

    def completed(
        self, inputs: tuple[Tensor, ...], mark: SequenceMark | None = None
    ) -> tuple[Tensor, ...]:
        """Return a call's inputs with what the plan itself gives: masks that were left out, first states, controls.

        `mark` says where in its sequence the call is. Raises `InvalidRequest` for a state or a control that a
        caller gives, and for an id that does not fit the model's control.
        """
        if not self._filled_in and not self.ragged:
            return inputs
        given = {tensor.name: tensor for tensor in inputs}
        added: list[Tensor] = []
        for state in self.states:
            if state.input in given:
                raise InvalidRequest(
                    f"input {state.input!r} is the sequence's state, which stays on the node: leave it out"
                )
            added.append(self._first_state(state))
        added += self._controls.tensors(given, mark)
        for ragged in self.ragged:
            data = given.get(ragged.name)
            if ragged.mask and ragged.mask not in given and data is not None:
                spec = next(spec for spec in self.inputs if spec.name == ragged.name)
                if (
                    spec.accepts(data.datatype, data.shape) is None
                ):  # else the request is refused for that
                    given[ragged.mask] = mask = self._mask(ragged, data)
                    added.append(mask)
        return (*inputs, *added)

    def is_divisible(self, request: PendingRequest) -> bool:
        """Return whether the rows of a request, which is prepared, may be run in parts: axis 0 of all its tensors is its rows."""
        if not self.is_batching or self.shared or self.is_sequential or request.rows < 2:
            return False
        for tensor in request.inputs:  # noqa: SIM110 - `all` would make a generator for each request
            if tensor.datatype.itemsize_bytes is None:
                return False
        return True

    def prepare(self, request: PendingRequest) -> None:
        """Set the work's rows and key, and its inputs in the model's order; they have been validated.

        Raises `InvalidRequest`: inputs of different numbers of rows, a mask of another length than its
        input, a state among the outputs; `TooLarge`: more rows than may be.
        """
        inputs = request.inputs
        if self._is_plain and len(inputs) == 1:
            request.rows = rows = inputs[0].shape[0]
            is_empty = not rows or not inputs[0].data
            request.key = None
        else:
            is_empty = self._prepare_any(request)
        if self.max_rows and request.rows > self.max_rows:
            raise TooLarge(
                f"a request of {request.rows} rows; this model takes {self.max_rows} at once here: split it"
            )
        if is_empty:
            # nothing can be stacked onto no rows, and rows without data are as many as a caller likes to say
            request.rows = 0
            request.key = object()

    def _prepare_any(self, request: PendingRequest) -> bool:
        """Return whether none of what is to be batched has any data."""
        if tuple(tensor.name for tensor in request.inputs) != self._names:
            by_name = {tensor.name: tensor for tensor in request.inputs}
            request.inputs = tuple(by_name[name] for name in self._names)
        if self.ragged:
            self._check_masks(request)
        for state in self.states:
            if state.output in request.outputs and not state.is_shown:
                raise InvalidRequest(
                    f"output {state.output!r} is the sequence's state, which stays on the node: leave it out"
                )
        if self.is_sequential:
            self._check_one_row(request)
        if not self.is_batching:
            request.key = None  # a batch of one row takes one
            shape = request.inputs[0].shape if request.inputs else ()
            request.rows = 1
            if self.is_sequential:
                return False
            if shape and self.inputs[0].shape[:1] == (-1,) and request.inputs[0].size_bytes:
                request.rows = shape[0]
            return False
        ragged = {rule.name: rule for rule in self.ragged}
        masks = {rule.mask: rule for rule in self.ragged if rule.mask}
        rows = -1
        is_empty = True
        key: list[object] = []
        for tensor in request.inputs:
            name, shape = tensor.name, tensor.shape
            if name in self.shared:
                key.append((shape, _digest(tensor)))
                continue
            axis = self._axes.get(name, 0)
            if tensor.size_bytes and name not in self._filled_in:
                is_empty = False
            if rows < 0:
                rows = shape[axis]
            elif shape[axis] != rows:
                raise InvalidRequest(
                    f"input {name!r} has {shape[axis]} rows (axis {axis}), the inputs before it have {rows}"
                )
            rule = ragged.get(name) or masks.get(name)
            rest = shape[:axis] + shape[axis + 1 :]
            if rule is not None:  # its length is the batch's matter, not the request's
                at = rule.axis - (rule.axis > axis)
                rest = (*rest[:at], bucket(rule, rest[at]), *rest[at + 1 :])
            key.append(rest)
        request.rows = rows
        request.key = tuple(key)
        return is_empty

    def _check_one_row(self, request: PendingRequest) -> None:
        """Raise InvalidRequest for another number of rows than one, where the model has a batch axis."""
        if not self._axes and not self._controls.has_batch_axis:
            return
        for spec, tensor in zip(self.inputs, request.inputs, strict=True):
            if spec.name in self._filled_in or spec.shape[:1] != (-1,):
                continue
            if tensor.shape[0] != 1:
                raise InvalidRequest(
                    f"a request of a sequence has one row; input {spec.name!r} has {tensor.shape[0]}"
                )

    def _check_masks(self, request: PendingRequest) -> None:
        shapes = {tensor.name: tensor.shape for tensor in request.inputs}
        for rule in self.ragged:
            if not rule.mask:
                continue
            length, own = shapes[rule.name][rule.axis], shapes[rule.mask][rule.axis :][:1]
            if own != (length,):
                raise InvalidRequest(
                    f"mask {rule.mask!r} of shape {list(shapes[rule.mask])} must have the length {length} of"
                    f" input {rule.name!r} along axis {rule.axis}"
                )

    # the run

    @override
    def join(self, requests: Sequence[PendingRequest]) -> tuple[Tensor, ...]:
        """Return the inputs of a batch."""
        if len(requests) == 1 and not self.ragged:
            return requests[0].inputs
        joined: list[Tensor] = []
        for index, first in enumerate(requests[0].inputs):
            parts = [request.inputs[index] for request in requests]
            name = first.name
            if name in self.shared:
                joined.append(first)
                continue
            rule, pad = self._padding(name)
            if rule is not None:
                parts = padded(parts, rule, pad)
            axis = self._axes.get(name, 0)
            joined.append(parts[0] if len(parts) == 1 else stacked(parts, axis))
        return tuple(joined)

    @override
    def wanted(self, requests: Sequence[PendingRequest]) -> tuple[str, ...]:
        """Return the outputs to ask the model for: what any of `requests` wants and what every run needs; empty for all."""
        if not requests[0].outputs:
            return ()
        names: dict[str, None] = {}
        for request in requests:
            if not request.outputs:
                return ()
            names |= dict.fromkeys(request.outputs)
        return tuple(names | dict.fromkeys(self._needed))

    @override
    def split(
        self,
        requests: Sequence[PendingRequest],
        outputs: Sequence[Tensor],
        joined: Sequence[Tensor],
    ) -> list[list[Tensor]]:
        """Return each work's own outputs, in the order of `outputs`, states included.

        `joined` is what `join` returned. Raises `RunFailed` when an output has not the batch's rows.
        """
        if len(requests) == 1:
            if not self.ragged:
                return [list(outputs)]
            return [self._cut_back(requests[0], outputs, joined)]
        shares: list[list[Tensor]] = [[] for _ in requests]
        rows = 0
        for request in requests:
            rows += request.rows
        for output in outputs:
            axis = self._axes.get(output.name, 0)
            shape = output.shape
            if len(shape) <= axis or shape[axis] != rows:
                raise RunFailed(
                    f"output {output.name!r} of shape {list(shape)} cannot be divided: {rows} rows were run"
                    f" together and its axis {axis} is not their number"
                )
            for share, part in zip(shares, divided(output, axis, requests, rows), strict=True):
                share.append(part)
        if self.ragged:
            return [
                self._cut_back(request, share, joined)
                for request, share in zip(requests, shares, strict=True)
            ]
        return shares

    def unbatched(self) -> BatchPlan:
        """Return the same plan without batching, for a model that turned out not to allow it."""
        return replace(self, is_batching=False)

    def _cut_back(
        self, request: PendingRequest, outputs: Sequence[Tensor], joined: Sequence[Tensor]
    ) -> list[Tensor]:
        cut = list(outputs)
        for rule in self.ragged:
            index = self._names.index(rule.name)
            own, ran = request.inputs[index].shape[rule.axis], joined[index].shape[rule.axis]
            if own == ran:
                continue
            for at, output in enumerate(cut):
                if output.name not in rule.outputs:
                    continue
                if len(output.shape) <= rule.axis or output.shape[rule.axis] != ran:
                    raise RunFailed(
                        f"output {output.name!r} of shape {list(output.shape)} cannot be cut back: its axis"
                        f" {rule.axis} has not the padded length {ran} of input {rule.name!r}"
                    )
                cut[at] = shortened(output, rule.axis, own)
        return cut

    def _padding(self, name: str) -> tuple[RaggedInput | None, float]:
        for rule in self.ragged:
            if rule.name == name:
                return rule, rule.pad
            if rule.mask == name:
                return rule, 0.0
        return None, 0.0

    def _first_state(self, state: StateTensor) -> Tensor:
        """Return the state of a sequence that begins."""
        spec = next(spec for spec in self.inputs if spec.name == state.input)
        shape = state.shape or tuple(
            1 if at == state.axis else dim for at, dim in enumerate(spec.shape)
        )
        size = spec.datatype.itemsize_bytes or 0
        for dim in shape:
            size *= dim
        return Tensor(spec.name, spec.datatype, shape, state.initial or bytes(size))

    def _mask(self, rule: RaggedInput, data: Tensor) -> Tensor:
        spec = next((spec for spec in self.inputs if spec.name == rule.mask), None)
        if spec is None:
            raise InvalidRequest(f"the model has no input {rule.mask!r} for the mask")
        shape = data.shape[: rule.axis + 1]
        return Tensor.from_numpy(rule.mask, filled(shape, 1.0, spec.datatype), spec.datatype)


def chosen(outputs: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """Return the outputs that are called so, in this order."""
    if len(outputs) == len(names) and all(
        output.name == name for output, name in zip(outputs, names, strict=True)
    ):
        return list(outputs)
    by_name = {output.name: output for output in outputs}
    return [by_name[name] for name in names]


def _digest(tensor: Tensor) -> bytes:
    """Return what stands for a tensor's data in a key, which may outlive the request in the queue."""
    return blake2b(tensor.data, digest_size=16).digest()
