"""Sends the spans of requests that have ended to a collector, over OTLP in JSON. IO: HTTP, by aiohttp."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp

from capamesh.router.telemetry.tracing import Tracer, export_request

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

EVERY_S: Final = 1.0
"""Seconds between two looks at what waits (guess: nobody sees a trace sooner)."""
BATCH: Final = 10
"""Requests that are sent at once (measured: the JSON of ten with two attempts each keeps the loop for two milliseconds)."""
LIMIT_S: Final = 5.0
"""Seconds that a collector has for one batch (guess)."""


class OtlpExporter:
    """Sends batches to one collector. What that does not take is lost and counted: requests go on as if it were not there."""

    def __init__(
        self,
        url: str,
        tracer: Tracer,
        resource: dict[str, str],
        log: FilteringBoundLogger,
        *,
        every_s: float = EVERY_S,
    ) -> None:
        """`url` ends in `/v1/traces`; `resource` names this router, as `service.name` and `service.instance.id` do."""
        self._url = url
        self._tracer = tracer
        self._resource = resource
        self._log = log
        self._every_s = every_s
        self._is_refused = False
        """True from a batch that was not taken to the next that is: only the change is told."""
        self.sent = 0
        """The number of spans that the collector has taken."""
        self.lost = 0
        """The number of spans that it has not taken."""

    async def run(self) -> None:
        """Send what waits, again and again, until cancelled."""
        limit = aiohttp.ClientTimeout(total=LIMIT_S)
        async with aiohttp.ClientSession(timeout=limit) as session:
            while True:
                while spans := self._tracer.taken(BATCH):
                    self._settle(len(spans), await self._refusal(session, spans))
                await asyncio.sleep(self._every_s)

    async def _refusal(self, session: aiohttp.ClientSession, spans: list[dict[str, object]]) -> str:
        """Send a batch; return why it was not taken, empty when it was."""
        try:
            async with session.post(
                self._url, json=export_request(spans, self._resource), allow_redirects=False
            ) as reply:
                return "" if reply.ok else f"HTTP status {reply.status}"
        except Exception as error:  # noqa: BLE001 - nothing that a collector does ends the router
            return f"{type(error).__name__}: {error}"

    def _settle(self, count: int, refusal: str) -> None:
        if refusal:
            self.lost += count
        else:
            self.sent += count
        if bool(refusal) == self._is_refused:
            return
        self._is_refused = bool(refusal)
        if refusal:
            self._log.warning("traces_refused", url=self._url, reason=refusal)
        else:
            self._log.info("traces_taken", url=self._url)
