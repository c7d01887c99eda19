"""The page of one router, joined to the parts that it shows. Does no IO but to read the page's files."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Any, Final

from capamesh.router.http.documents import DocumentsApi
from capamesh.router.http.page import PageApi
from capamesh.router.page.feed import Feed
from capamesh.router.page.history import History, Totals
from capamesh.router.page.history_answers import HistoryAnswers
from capamesh.router.page.overview import OverviewMaker
from capamesh.router.page.static_files import StaticFiles
from capamesh.router.telemetry.metrics import LATENCY

MOST_SHORT: Final = 50
"""The most models that the page names as short of nodes (guess: more than one reads)."""
if TYPE_CHECKING:
    from capamesh.router.process.parts import RouterParts


class PageParts:
    """The parts of a router's page; `history` is to be sampled by a timer."""

    def __init__(self, parts: RouterParts) -> None:
        self._parts = parts
        clock = parts.clocks.steady_s
        self.history = History(self.totals, bounds_s=LATENCY.bounds, clock=clock)
        overview = OverviewMaker(
            parts.fleet,
            last_error=parts.pool.last_error,
            clock=clock,
            router=self._router,
            traffic=self.history.traffic,
            member_of=parts.hearing.quotas.member_of,
            drained_until=parts.drains.until,
            lost=parts.lost,
            others=parts.seat.others,
        )
        files = StaticFiles()
        self.documents = DocumentsApi(files)
        self.feed = Feed(
            overview.steps,
            boot=parts.system.token_bytes(4).hex(),
            log=parts.log,
            clock=clock,
        )
        self.api = PageApi(
            files,
            self.feed,
            HistoryAnswers(self.history),
            is_closing=lambda: parts.requests.is_closing,
            clock=clock,
            elsewhere=parts.seat.elsewhere,
        )

    def _router(self) -> dict[str, Any]:
        """Return the page's row of the router itself."""
        parts = self._parts
        state, reason = parts.standing.now()
        membership = parts.upkeep.fields(parts.system.now())
        return {
            "state": state,
            "reason": reason,
            "agent_version": package_version("capamesh"),
            "region": parts.settings.region,
            "policy": parts.settings.policy,
            "nodes": len(parts.fleet.adverts),
            "routers": parts.routers(),
            "models_short": [
                asdict(each) for each in parts.lost.short(parts.fleet.nodes_ready)[:MOST_SHORT]
            ],
            "expires_at": membership["expires_at"],
            "life_left": membership["life_left"],
        }

    def totals(self) -> Totals:
        """Return what the router has counted, and how its nodes are."""
        fleet, telemetry = self._parts.fleet, self._parts.telemetry
        in_flight = usable = 0
        for peer in fleet.adverts:
            is_usable = False
            for endpoint in fleet.endpoints_of(peer):
                in_flight += endpoint.rif
                is_usable = is_usable or endpoint.is_usable
            usable += is_usable
        return Totals(
            telemetry.latency_counts(),
            telemetry.refusals(),
            in_flight,
            len(fleet.adverts),
            usable,
        )
