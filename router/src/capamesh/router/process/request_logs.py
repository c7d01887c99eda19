"""The logs of one router's requests, as its settings name them. Makes parts; IO: opens the files, and ends their threads."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import ConfigError
from capamesh.router.resilience.latency_window import ENOUGH
from capamesh.router.telemetry import metrics
from capamesh.router.telemetry.line_file import LineFile
from capamesh.router.telemetry.request_lines import AccessLog, SlowLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.system import System
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.settings import RouterSettings
    from capamesh.router.telemetry import Telemetry

_QUANTILE: Final = 0.99


class RequestLogs:
    """The access log and the log of slow requests of one process of a router; None: there is no such log."""

    def __init__(
        self,
        settings: RouterSettings,
        *,
        system: System,
        telemetry: Telemetry,
        log: FilteringBoundLogger,
    ) -> None:
        """`system` has the clock that requests' times are of. Raises `ConfigError` when a file cannot be opened."""
        self._clock = system.steady_s
        self._files: dict[str, LineFile] = {}
        self.access: AccessLog | None = None
        self.slow: SlowLog | None = None
        if settings.access_log:
            file = self._files["access"] = _opened(settings.access_log, "--access-log", log)
            self.access = AccessLog(
                file.put,
                settings.access_log_sample,
                rng=random.Random(),  # noqa: S311 - a sample is no secret
                clock=system.steady_s,
                wall_clock=system.wall_s,
            )
        if settings.slow_log:
            file = self._files["slow"] = _opened(settings.slow_log, "--slow-log", log)
            self.slow = SlowLog(
                file.put,
                least_s=settings.slow_log_s or math.inf,
                factor=settings.slow_log_factor or math.inf,
                clock=system.steady_s,
                wall_clock=system.wall_s,
            )
        if self._files:
            telemetry.watch_each(metrics.LOG_LINES, self._counts)

    def start(self) -> None:
        """Begin to write."""
        for file in self._files.values():
            file.start()

    def close(self) -> None:
        """Write what waits, for a moment at most, and write no more."""
        for file in self._files.values():
            file.close()

    def look(self, balancer: Balancer) -> None:
        """Learn how long requests of each model version take now; to be called once a second or so."""
        if self.slow is None:
            return
        now_s = self._clock()
        self.slow.learn(
            {
                served: served.window.quantile(_QUANTILE, now_s)
                for served in balancer.served_models()
                if served.window.count >= ENOUGH
            }
        )

    def _counts(self) -> Iterator[tuple[tuple[str, str], float]]:
        for name, file in self._files.items():
            yield (name, "written"), file.written
            yield (name, "dropped"), file.dropped
            yield (name, "lost"), file.lost
        if self.slow is not None:
            yield ("slow", "left_out"), self.slow.left_out


def _opened(path: str, option: str, log: FilteringBoundLogger) -> LineFile:
    try:
        return LineFile(path, log)
    except OSError as error:
        raise ConfigError(
            f"cannot write to {path!r}: {error.strerror or error}; give another {option}"
        ) from error
