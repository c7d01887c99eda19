"""The traces of one router: made of requests that have ended, and sent to a collector if the settings name one. Pure but for clocks and chance."""

from __future__ import annotations

import random
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

from capamesh.router.process.request_logs import RequestLogs
from capamesh.router.telemetry import metrics
from capamesh.router.telemetry.ended import EndedRequests
from capamesh.router.telemetry.otlp import OtlpExporter
from capamesh.router.telemetry.tracing import Sampling, Tracer

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.system import System
    from capamesh.router.settings import RouterSettings
    from capamesh.router.telemetry import Telemetry


class Traces:
    """The requests of one router that have ended, their logs, and the exporter of their spans; None: nobody is sent any."""

    def __init__(
        self,
        settings: RouterSettings,
        name: str,
        *,
        system: System,
        telemetry: Telemetry,
        log: FilteringBoundLogger,
    ) -> None:
        """`system` has the clock that requests' times are of; `name` is the router's. Raises `ConfigError` when a log cannot be opened."""
        self.logs = RequestLogs(settings, system=system, telemetry=telemetry, log=log)
        self.exporter: OtlpExporter | None = None
        tracer: Tracer | None = None
        if settings.traces_url:
            tracer = Tracer(
                Sampling(settings.trace_slow_s, settings.trace_ratio),
                rng=random.Random(),  # noqa: S311 - ids of spans are no secrets
                clock=system.steady_s,
                wall_clock_ns=system.wall_ns,
            )
            self.exporter = exporter = OtlpExporter(
                settings.traces_url,
                tracer,
                {
                    "service.name": "capamesh-router",
                    "service.instance.id": name,
                    "service.version": package_version("capamesh"),
                },
                log,
            )
            telemetry.watch(metrics.SPANS_SENT, lambda: exporter.sent)
            telemetry.watch(metrics.SPANS_LOST, lambda: exporter.lost)
            telemetry.watch(metrics.TRACES_DROPPED, lambda: tracer.dropped)
        self.ended = EndedRequests(
            clock=system.steady_s,
            wall_clock=system.wall_s,
            tracer=tracer,
            access=self.logs.access,
            slow=self.logs.slow,
        )
        telemetry.follow_failures(self.ended.failed)
