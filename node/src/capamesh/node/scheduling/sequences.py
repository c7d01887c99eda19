"""The sequences of one model with their states, and whose turn it is. Pure.

Requests of one sequence run one after the other, in the order they came; those of different sequences share
batches. A state changes only when a run succeeded and is answered, so a request that failed may be sent again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from typing_extensions import override

from capamesh.node.repository.rules import NO_AXIS, SequenceRules
from capamesh.node.scheduling.pending_request import PendingRequest, RequestState, Result
from capamesh.node.scheduling.plan import BatchPlan
from capamesh.protocol.errors import InvalidRequest, RunFailed, SequenceUnknown
from capamesh.protocol.tensors import Tensor

SequenceId = int | str

KEPT_BYTES: Final = 1400
"""The bytes that keeping a sequence takes beside its states (measured: 1,360 bytes with an id of 128 characters)."""


class _Sequence:
    """One sequence. Without a state and without work it does not exist."""

    __slots__ = ("size_bytes", "states", "touched_s", "waiting", "working")

    def __init__(self, now_s: float) -> None:
        self.states: tuple[Tensor, ...] | None = None
        """The states; None: as at the start. They are empty once a request of a model without states has run."""
        self.size_bytes = 0
        self.touched_s = now_s
        self.working: PendingRequest | None = None
        self.waiting: deque[PendingRequest] = deque()

    @property
    def is_ending(self) -> bool:
        """Return whether its last request is the end of it, as far as is known."""
        last = self.waiting[-1] if self.waiting else self.working
        return last is not None and last.state is not RequestState.ENDED and _is_end(last)


class Sequences:
    """All sequences of one model."""

    def __init__(self, rules: SequenceRules, plan: BatchPlan) -> None:
        self._rules = rules
        self._states = rules.states
        self._outputs = frozenset(state.output for state in rules.states if not state.is_shown)
        self._places = {spec.name: at for at, spec in enumerate(plan.inputs)}
        self._specs = {spec.name: spec for spec in plan.inputs}
        self._known: dict[SequenceId, _Sequence] = {}
        self._silent: OrderedDict[SequenceId, _Sequence] = OrderedDict()
        """The sequences of which nothing waits or runs, silent longest first."""
        self.size_bytes = 0
        self.forgotten = 0
        """Sequences that gave way or fell silent before their end."""

    def __len__(self) -> int:
        return len(self._known)

    @override
    def __repr__(self) -> str:
        return f"Sequences({len(self._known)}, {self.size_bytes} bytes)"

    @property
    def working(self) -> int:
        """Sequences of which a request waits or runs."""
        return len(self._known) - len(self._silent)

    def accept(self, request: PendingRequest, now_s: float) -> bool:
        """Take in a request; return whether it may be queued now, rather than when its sequence gets there.

        Raises `InvalidRequest`: no sequence id; `SequenceUnknown`: a sequence that did not start here.
        """
        mark = request.sequence
        if mark is None:
            raise InvalidRequest(
                "this model takes sequences: name the sequence with the parameter sequence_id, and its first"
                " request with sequence_start"
            )
        self.tidy(now_s)
        known = self._known.get(mark.id)
        if (known is None or known.is_ending) and not mark.is_start:
            raise SequenceUnknown(
                f"sequence {mark.id!r} has not started here, has ended or was silent for more than"
                f" {self._rules.idle_s:g} s: send its first request with sequence_start"
            )
        if known is None:
            known = self._known[mark.id] = _Sequence(now_s)
        self._silent.pop(mark.id, None)
        if known.working is not None:
            known.waiting.append(request)
            request.state = RequestState.WAITING
            return False
        known.working = request
        return True

    def fill(self, request: PendingRequest) -> bool:
        """Put the sequence's state into the inputs of the work whose turn it is.

        Returns whether a shape is another than before, so that the work fits other batches.
        """
        known = self._of(request)
        if (
            known is None
            or known.states is None
            or request.sequence is None
            or request.sequence.is_start
        ):
            return False  # the plan has put zeros there
        inputs = list(request.inputs)
        is_reshaped = False
        for state in known.states:
            at = self._places[state.name]
            is_reshaped |= inputs[at].shape != state.shape
            inputs[at] = state
        request.inputs = tuple(inputs)
        return is_reshaped

    def ran(self, request: PendingRequest, outputs: Sequence[Tensor]) -> Result:
        """Keep the state that a run gave, if its work is still to be answered; return the outputs without it.

        `RunFailed` is returned when an output cannot be the next state; the state then stays as it was.
        """
        known = self._of(request)
        if (
            known is not None
            and known.working is request
            and request.state is not RequestState.ENDED
        ):
            if _is_end(request):
                self._set(known, None)
            else:
                states = self._next_states(outputs)
                if isinstance(states, RunFailed):
                    return states
                self._set(known, states)
        return [output for output in outputs if output.name not in self._outputs]

    def ended(self, request: PendingRequest, now_s: float) -> PendingRequest | None:
        """Let the sequence go on after `request`, however it ended; return the next to queue, if one waits."""
        known = self._of(request)
        if known is None or request.sequence is None:
            return None
        if known.working is not request:
            if request in known.waiting:
                known.waiting.remove(request)  # it was given up before its turn came
            return None  # else its turn is over: it was given up in a batch that had not begun
        following = known.waiting.popleft() if known.waiting else None
        known.working = following
        if following is None:
            known.touched_s = now_s
            if known.states is None:
                del self._known[request.sequence.id]
            else:
                self._silent[request.sequence.id] = known
        self.tidy(now_s)
        return following

    def tidy(self, now_s: float) -> None:
        """Forget what was silent too long, and the longest silent while memory is short."""
        while self._silent:
            key, oldest = next(iter(self._silent.items()))
            if (
                now_s - oldest.touched_s < self._rules.idle_s
                and self.size_bytes <= self._rules.max_bytes
            ):
                return
            del self._silent[key], self._known[key]
            self.size_bytes -= oldest.size_bytes
            self.forgotten += 1

    def _of(self, request: PendingRequest) -> _Sequence | None:
        return self._known.get(request.sequence.id) if request.sequence is not None else None

    def _next_states(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...] | RunFailed:
        by_name = {output.name: output for output in outputs}
        states: list[Tensor] = []
        for state in self._states:
            given = by_name.get(state.output)
            spec = self._specs[state.input]
            if given is None:
                return RunFailed(
                    f"the run gave no output {state.output!r}, which is the next state"
                )
            problem = spec.accepts(given.datatype, given.shape)
            if problem is None and state.axis != NO_AXIS and given.shape[state.axis] != 1:
                problem = f"axis {state.axis} of shape {list(given.shape)} is not 1"
            if problem is not None:
                return RunFailed(
                    f"output {state.output!r} cannot be the next state of one sequence: {problem}"
                )
            # a copy: a slice would keep the whole batch's output alive
            states.append(Tensor(state.input, given.datatype, given.shape, bytes(given.data)))
        return tuple(states)

    def _set(self, known: _Sequence, states: tuple[Tensor, ...] | None) -> None:
        self.size_bytes -= known.size_bytes
        known.states = states
        known.size_bytes = (
            0 if states is None else KEPT_BYTES + sum(state.size_bytes for state in states)
        )
        self.size_bytes += known.size_bytes


def _is_end(request: PendingRequest) -> bool:
    return request.sequence is not None and request.sequence.is_end
