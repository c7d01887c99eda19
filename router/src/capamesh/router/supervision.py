"""Does the turns of loops that must outlive a bug in one of them. Holds state, does no IO but the log's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.telemetry import Telemetry

LOG_EVERY_S = 60.0
"""One that crashes at each turn is written down so often (guess: to be seen, and to fill no disk)."""


class Supervisor:
    """The turns of one router's loops: each is done, or logged and counted, and the next comes in any case."""

    def __init__(
        self, telemetry: Telemetry, log: FilteringBoundLogger, *, clock: Callable[[], float]
    ) -> None:
        self._telemetry = telemetry
        self._log = log
        self._clock = clock
        self._logged_s: dict[str, float] = {}
        """The time at which a crash of each loop was last logged."""

    def do(self, loop: str, turn: Callable[[], None]) -> None:
        """Do one turn of the loop of that name."""
        try:
            turn()
        except Exception:  # noqa: BLE001 - any bug is one turn's, and is written down
            self._telemetry.crashed(loop)
            now_s = self._clock()
            if now_s - self._logged_s.get(loop, -math.inf) >= LOG_EVERY_S:
                self._logged_s[loop] = now_s
                self._log.exception("turn_crashed", loop=loop)
