"""One router from start to stop: serves, drains, stops, heeds signals. IO: asyncio, signals."""

from __future__ import annotations

import asyncio
import shutil
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.loop_watch import LoopWatch
from capamesh.protocol.member_status import HEARTBEAT_S
from capamesh.router.fleet.membership import TICK_S
from capamesh.router.http.elsewhere import REQUESTS
from capamesh.router.jobs.running.fleet_nodes import FleetNodes
from capamesh.router.page.history import BIN_S
from capamesh.router.process.addresses import authority
from capamesh.router.process.exposure import require_safe
from capamesh.router.process.fronts import Fronts
from capamesh.router.process.gauges import (
    watch_cache,
    watch_fleet,
    watch_keys,
    watch_network,
    watch_process,
    watch_requests,
    watch_routing,
    watch_versions,
)
from capamesh.router.process.job_parts import JobParts
from capamesh.router.process.node_gauges import NodeGauges
from capamesh.router.process.page_parts import PageParts
from capamesh.router.process.parts import RouterParts
from capamesh.router.process.seat import Controls
from capamesh.router.process.shared_cache import shared_store
from capamesh.router.process.tls_watch import TlsWatch

if TYPE_CHECKING:
    from capamesh.router.fleet.overrides import Hold
    from capamesh.router.page.history import Totals


class Router(Controls):
    """One router of a network."""

    def __init__(self, parts: RouterParts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._log = parts.log
        self._page = PageParts(parts)
        self._jobs = JobParts(
            parts.settings,
            parts.fleet,
            parts.log,
            parts.inference.slices,
            lambda: parts.requests.is_closing,
            parts.system,
        )
        self._shared_cache = shared_store(
            parts.settings,
            parts.standing.network_id,
            parts.routing.pipeline.cache,
            parts.telemetry,
            parts.log,
        )
        self._has_links = asyncio.Event()
        self._stop = asyncio.Event()
        self._tls_watch = None if parts.tls is None else TlsWatch(parts.tls, parts.log)
        self._fronts: Fronts

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish the requests under way and return.

        SIGHUP reads the rules anew, and looks at the token file and the certificate. Raises `ConfigError` where clients of
        other machines could do what they should not.
        """
        parts = self._parts
        seat = parts.seat
        if seat.is_main:
            require_safe(parts.settings, asks_for_keys=parts.inference.ring.is_required)
        seat.obey(self)
        parts.standing.write()
        watch = LoopWatch(self._log, parts.telemetry.loop_beat, parts.inference.slices.describe)
        if not parts.system.is_virtual:
            watch.start()
        self._watch()
        self._fronts = fronts = Fronts(parts, self._page, self._jobs)
        await fronts.set_up()
        last_fleet = parts.last_fleet.read() if seat.is_main else None
        if last_fleet is not None:
            envelopes, lost = last_fleet
            parts.members.restore(envelopes)
            parts.lost.restore(lost)
        try:
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(
                        parts.pool.run(
                            self._settings.link_host, self._settings.link_port, self._listening
                        )
                    ),
                    tasks.create_task(parts.mesh.run()),
                    tasks.create_task(self._tick()),
                    tasks.create_task(seat.run()),
                    tasks.create_task(self._beat()),
                    tasks.create_task(self._sample()),
                    tasks.create_task(parts.key_watch.run()),
                    tasks.create_task(self._jobs.run(self._nodes_of_jobs())),
                    tasks.create_task(self._jobs.count()),
                ]
                if seat.is_main:
                    background += [
                        tasks.create_task(parts.announcer.run()),
                        tasks.create_task(parts.last_fleet.keep()),
                    ]
                for each in (self._tls_watch, self._shared_cache, parts.traces.exporter):
                    if each is not None:
                        background.append(tasks.create_task(each.run()))
                parts.watch.start()
                await self._has_links.wait()
                await seat.settle()
                parts.traces.logs.start()
                await fronts.listen()
                parts.standing.enter("serving")
                self._log.info("router_ready", **parts.standing.client_addresses)
                await self._stop.wait()
                parts.standing.enter("draining")
                self._log.info("router_draining", patience_s=self._settings.drain_s)
                await self._drain(fronts)
                await parts.key_watch.close()
                parts.watch.close()
                for task in background:
                    task.cancel()
        finally:
            watch.stop()
            parts.watch.close()
            await fronts.clean_up()
            await self._jobs.close()
            parts.owners.close()
            parts.traces.logs.close()
            parts.standing.enter("stopped")
            self._log.info("router_stopped")

    @override
    def stop(self) -> None:
        self._stop.set()

    @override
    def reload(self) -> None:
        self._parts.supervisor.do("membership", self._parts.standing.beat)
        if self._tls_watch is not None:
            self._tls_watch.hasten()
        if self._settings.rules_file is not None:
            self._parts.reload(self._settings.rules_file)

    @override
    def take(self, hold: Hold) -> None:
        self._fronts.routing.take(hold)

    @override
    async def part(self, page: str) -> bytes:
        fronts = self._fronts
        return (
            fronts.routing.part_of_requests() if page == REQUESTS else await fronts.fleet.part(page)
        )

    @override
    def totals(self) -> Totals:
        return self._page.totals()

    def _nodes_of_jobs(self) -> FleetNodes:
        """Return the nodes as jobs see them: their calls go the way of all requests."""
        parts, inference = self._parts, self._parts.inference
        return FleetNodes(
            parts.fleet,
            parts.balancer,
            parts.routing.pipeline,
            inference.ring,
            inference.meter,
            clock=parts.routing.clock,
        )

    async def _drain(self, fronts: Fronts) -> None:
        """Accept nothing new, and answer what is under way, requests still being sent included."""
        parts = self._parts
        fronts.stop_accepting()
        parts.requests.is_closing = True
        fronts.ask_to_leave()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await fronts.wait_left()
                # others may have come since the last was answered
                while parts.requests.count:
                    await parts.requests.wait_none()
        except TimeoutError:
            self._log.warning("drain_cut_short", open_requests=parts.requests.count)
        fronts.close()  # before the links end: from now on nobody can ask for anything
        parts.routing.close()

    def _watch(self) -> None:
        """Export what the parts of this process are like."""
        settings, parts = self._settings, self._parts
        telemetry, fleet, clock = parts.telemetry, parts.fleet, parts.clocks.steady_s
        if parts.system.has_figures:
            watch_process(
                telemetry,
                package_version("capamesh"),
                lambda: shutil.disk_usage(settings.data_folder),
            )
        watch_fleet(telemetry, fleet, parts.pool, parts.owners.owners, parts.lost, clock)
        NodeGauges(fleet, clock, lost=parts.lost).watch(telemetry)
        watch_network(
            telemetry,
            parts.hearing,
            parts.clocks,
            lambda: parts.upkeep.figures(parts.system.now()),
        )
        watch_requests(telemetry, parts.requests, parts.answers)
        watch_routing(telemetry, parts.prober, parts.balancer)
        watch_versions(telemetry, fleet)
        watch_keys(telemetry, parts.quotas)
        self._jobs.watch(telemetry)
        watch_cache(telemetry, parts.routing.pipeline.cache, parts.inference.repeated)

    def _listening(self, port: int) -> None:
        self._parts.standing.link_address = authority(self._parts.link_host, port)
        self._has_links.set()
        self._parts.announcer.listening(self._parts.standing.link_address)

    # turns of the loops

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._parts.supervisor.do("members", self._look_at_members)
            self._parts.supervisor.do("status", self._parts.standing.tick)
            self._parts.supervisor.do("logs", self._look_at_latencies)

    def _look_at_members(self) -> None:
        """Notice who has been silent for too long, what the operator should know, and whose files are served now."""
        self._parts.members.tick()
        self._parts.drains.tick()
        skew = self._parts.hearing.skew(self._parts.clocks.now())
        for notice in self._parts.notices.about(self._parts.hearing.quotas.over(), skew):
            (self._log.info if notice.is_good else self._log.warning)(notice.event, **notice.fields)
            self._parts.standing.write()
        if self._parts.owners.tick():
            self._parts.routing.wake()

    def _look_at_latencies(self) -> None:
        self._parts.traces.logs.look(self._parts.balancer)

    async def _beat(self) -> None:
        while True:
            self._parts.supervisor.do("membership", self._parts.standing.beat)
            await asyncio.sleep(HEARTBEAT_S)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(BIN_S)
            self._parts.supervisor.do("history", self._page.history.sample)
