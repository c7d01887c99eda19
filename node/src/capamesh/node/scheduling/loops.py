"""The loops of one model: what a step's outputs mean for its request, and whether another step follows. Pure.

A request of a looping model is run again and again. The outputs of each step are a part of its answer, sent as soon as
it is there to who takes parts; some become inputs of the next step. Who takes no parts is answered with the last step
alone. Steps of different requests share batches like requests of other models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.node.scheduling.pending_request import RUNNING
from capamesh.node.scheduling.plan import chosen
from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.errors import CapameshError, RunFailed
from capamesh.protocol.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.node.repository.rules import LoopRules
    from capamesh.node.scheduling.in_flight import RequestsInFlight
    from capamesh.node.scheduling.pending_request import PendingRequest, Result
    from capamesh.node.scheduling.plan import BatchPlan


class Loops:
    """The steps of one model's requests."""

    __slots__ = ("_due", "_fed", "_rules")

    def __init__(self, rules: LoopRules, plan: BatchPlan) -> None:
        self._rules = rules
        places = {spec.name: at for at, spec in enumerate(plan.inputs)}
        self._fed = [
            (output, places[name], plan.inputs[places[name]]) for name, output in rules.feedback
        ]
        """(the output, the place of the input that it becomes, what that input takes)."""
        self._due: list[tuple[PendingRequest, Sequence[Tensor]]] = []
        """The requests that go on, with what their last step gave."""

    @override
    def __repr__(self) -> str:
        return f"Loops({len(self._fed)} fed back, {self._rules.max_steps} steps at most)"

    def ran(self, request: PendingRequest, outcome: Result, plan: BatchPlan) -> Result | None:
        """Take in what a step of `request` gave, all that every run needs; return what ends the request.

        None: another step follows, whose inputs are in place, once `go_on` is called. `plan` is the model's as it is now.
        """
        if isinstance(outcome, CapameshError):
            return outcome
        rules = self._rules
        request.steps += 1
        for output in outcome:
            if not request.outputs or output.name in request.outputs:
                request.sent_bytes += output.size_bytes
        if request.sent_bytes > rules.max_bytes:
            return RunFailed(
                f"the answer has {request.sent_bytes} bytes after {request.steps} steps; this model's loop gives"
                f" {rules.max_bytes} at most"
            )
        by_name = {output.name: output for output in outcome}
        if request.steps >= rules.max_steps or not request.rows or self._stops(by_name):
            return outcome
        error = self._feed(request, by_name, plan)
        if error is None:
            self._due.append((request, outcome))
        return error

    def go_on(self, requests: RequestsInFlight, now_s: float) -> None:
        """Send the outputs of the steps that were not the last, and have those go on for whom somebody still waits."""
        due, self._due = self._due, []
        for request, outputs in due:
            # who is told of the others may have withdrawn it
            error = _sent(request, outputs) if request.state is RUNNING else None
            if error is not None:
                requests.refuse(request, error, "", now_s)
            elif request.state is RUNNING:
                requests.go_on(request)

    def _stops(self, outputs: dict[str, Tensor]) -> bool:
        """Return whether no element of the stop output is zero."""
        stop = outputs.get(self._rules.stop)
        if stop is None:
            return False
        if stop.datatype is Datatype.BOOL:
            return 0 not in bytes(stop.data)
        return bool((stop.to_numpy() != 0).all())

    def _feed(
        self, request: PendingRequest, outputs: dict[str, Tensor], plan: BatchPlan
    ) -> RunFailed | None:
        """Put outputs in the place of inputs; return why that cannot be."""
        inputs = list(request.inputs)
        is_reshaped = False
        for name, at, spec in self._fed:
            given = outputs.get(name)
            if given is None:
                return RunFailed(
                    f"the run gave no output {name!r}, which the next step begins with"
                )
            problem = spec.accepts(given.datatype, given.shape)
            if problem is not None:
                return RunFailed(
                    f"output {name!r} cannot be the input {spec.name!r} of the next step: {problem}"
                )
            is_reshaped |= inputs[at].shape != given.shape or spec.name in plan.shared
            inputs[at] = Tensor(spec.name, given.datatype, given.shape, given.data)
        request.inputs = tuple(inputs)
        return self._prepare_again(request, plan) if is_reshaped else None

    def _prepare_again(self, request: PendingRequest, plan: BatchPlan) -> RunFailed | None:
        """Find out which others may share the next step's batch; return why nobody can run it."""
        rows = request.rows
        try:
            plan.prepare(request)
        except CapameshError as error:
            request.rows = rows
            return RunFailed(f"the outputs do not fit together as inputs: {error.message}")
        if request.rows != rows:
            given, request.rows = request.rows, rows
            return RunFailed(f"a step of {rows} rows gave {given} for the next one")
        return None


def _sent(request: PendingRequest, outputs: Sequence[Tensor]) -> RunFailed | None:
    """Send a part to who takes parts; return why it cannot be sent."""
    if request.on_part is not None:
        try:
            request.part(chosen(outputs, request.outputs) if request.outputs else outputs)
        except Exception as exc:  # noqa: BLE001 - an answer that lacks a part must not go on as if it had all
            return RunFailed(f"a part of the answer has no wire form: {exc!r}")
    return None
