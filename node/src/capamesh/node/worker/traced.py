"""A line in the log for each request that its caller traces, so that a trace leads to what the node did. IO: the log's.

No kind of line comes often (`protocol/log_rates`), so whoever samples all of its requests fills no disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from capamesh.node.scheduling import PendingRequest, Result
from capamesh.protocol.errors import CapameshError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.links.calls import InferCall

OnDone = Callable[[PendingRequest, Result], None]


def traced(log: FilteringBoundLogger, call: InferCall, then: OnDone) -> OnDone:
    """Return what writes the line of a request once it is done, and goes on with `then`."""
    model, version, trace_id = call.model, call.version, call.trace.split("-")[1]

    def done(request: PendingRequest, result: Result) -> None:
        log.info(
            "request_traced",
            trace=trace_id,
            model=model,
            version=version,
            code=result.code if isinstance(result, CapameshError) else "ok",
            queue_ms=round((request.started_s - request.arrived_s) * 1e3, 3),
            run_ms=round(request.run_s * 1e3, 3),
        )
        then(request, result)

    return done
