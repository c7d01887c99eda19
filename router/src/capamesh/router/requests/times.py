"""The times of a request that has ended, and why its nodes were chosen, for who is told of it. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from capamesh.router.telemetry.tracing import AttemptTimes, RequestTimes

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.balancing.explanation import Explanation
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.requests.call import Outcome
    from capamesh.router.telemetry.tracing import TraceParent


def times_of(
    model: ModelName,
    version: ModelVersion,
    parent: TraceParent | None,
    lasted: tuple[float, float],
    code: str,
    picker: RequestPicker | None,
    outcome: Outcome | None,
) -> RequestTimes:
    """Return the times of a request that ends now with a code, and of its attempts; times in seconds on the router's clock.

    It `lasted` from one time to now. It named `version` and has `parent` as its trace. `picker` has picked its nodes, None: nobody has; `outcome` is that of one
    that was answered well.
    """
    started_s, now_s = lasted
    if outcome is not None:
        picker = outcome.picker
    attempts: list[AttemptTimes] = []
    for attempt in picker.attempts if picker is not None else ():
        record = attempt.record()
        is_it = outcome is not None and record.outcome == "answered"
        answer = outcome.answer if is_it and outcome is not None else None
        attempts.append(
            AttemptTimes(
                record.replica.endpoint.peer,
                record.replica.endpoint.address,
                record.sent_s,
                now_s if record.ended_s is None else record.ended_s,
                record.outcome,
                answer.queue_us / 1e6 if answer is not None else 0.0,
                answer.run_us / 1e6 if answer is not None else 0.0,
            )
        )
    if outcome is not None:
        version = outcome.answer.version
    return RequestTimes(model, version, code, started_s, now_s, tuple(attempts), parent)


def explained_apart(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON values, without the attempts, which are told with the times."""
    told = cast("dict[str, Any]", json.loads(explanation.to_json()))
    del told["attempts"]
    return told
