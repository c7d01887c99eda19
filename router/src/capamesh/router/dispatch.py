"""Sends a request to a candidate, and to another when that is safe and the first fails. IO: through links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    LinkLost,
    ModelNotFound,
    NoCandidate,
    PeerError,
    is_refusal,
)
from capamesh.protocol.links.calls import InferAnswer, InferCall, decode_answer, encode_call
from capamesh.router.policies import Policy, RequestShape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.tensors import Limits
    from capamesh.router.candidates import Candidate
    from capamesh.router.fleet_view import FleetView
    from capamesh.router.telemetry import Telemetry

MAX_RETRIES = 1
"""After a failure of unknown outcome, one other node is asked. A refusal (the node did not run it) is no
failure: each node is asked at most once, so those end by themselves."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer and who gave it, after how many attempts."""

    answer: InferAnswer
    candidate: Candidate
    attempts: int


class Dispatch:
    """Turns calls into answers."""

    def __init__(
        self,
        fleet: FleetView,
        policy: Policy,
        *,
        clock: Callable[[], float],
        limits: Limits,
        telemetry: Telemetry,
    ) -> None:
        self._fleet = fleet
        self._policy = policy
        self._clock = clock
        self._limits = limits
        self._telemetry = telemetry

    async def infer(self, call: InferCall, deadline_s: float) -> Outcome:
        """Return the answer of whichever node gave one before `deadline_s` on the loop's clock.

        Raises `ModelNotFound`, `NoCandidate`, `DeadlineExceeded`, what a node said is the caller's fault,
        or the last node's error.
        """
        shape = RequestShape(
            call.model, call.version, sum(tensor.size_bytes for tensor in call.inputs)
        )
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._attempt(call, shape, deadline_s)
        except TimeoutError as exc:
            raise DeadlineExceeded(
                f"no answer for model {call.model!r} before the request's deadline"
            ) from exc

    async def _attempt(self, call: InferCall, shape: RequestShape, deadline_s: float) -> Outcome:
        asked: set[Candidate] = set()
        failures = 0
        last: CapameshError | None = None
        while True:
            candidates = self._eligible(call, asked)
            if not candidates:
                raise last or self._nobody(call)
            candidate = self._policy.pick(candidates, shape)
            try:
                answer = await self._ask(candidate, call, deadline_s)
            except PeerError as error:
                last = error
                asked.add(candidate)
                if not is_refusal(error):
                    failures += 1
                    candidate.failed += 1
                self._telemetry.attempt_failed(call.model, error)
                if failures > MAX_RETRIES:
                    raise
                continue
            candidate.answered += 1
            candidate.load = answer.load
            return Outcome(answer, candidate, len(asked) + 1)

    async def _ask(self, candidate: Candidate, call: InferCall, deadline_s: float) -> InferAnswer:
        budget_ms = max(1, int((deadline_s - self._clock()) * 1000))
        meta, body = encode_call(call, budget_ms)
        link = candidate.link
        if link is None:
            raise LinkLost(f"the link to {candidate.peer} has just ended")
        with candidate:
            answer = await link.request(meta, body)
        return decode_answer(answer.meta, answer.body, self._limits)

    def _eligible(self, call: InferCall, asked: set[Candidate]) -> Sequence[Candidate]:
        return [
            candidate
            for candidate in self._fleet.hosts(call.model, call.version)
            if candidate.is_usable and candidate not in asked
        ]

    def _nobody(self, call: InferCall) -> CapameshError:
        versions = self._fleet.versions(call.model)
        if versions and (not call.version or call.version in versions):
            return NoCandidate(
                f"model {call.model!r} is hosted, but no node that has it can be reached now; try again soon"
            )
        if versions:
            return ModelNotFound(
                f"model {call.model!r} has no version {call.version!r}; there are {', '.join(versions)}"
            )
        known = ", ".join(self._fleet.models()[:20]) or "none yet"
        return ModelNotFound(f"no node hosts model {call.model!r}; hosted models: {known}")
