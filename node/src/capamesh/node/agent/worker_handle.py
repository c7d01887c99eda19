"""One device's worker as its agent sees it: the process, what it died of, what it counted. IO: a process, a file."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from typing_extensions import override

from capamesh.node.agent.metrics.totals import WorkerFigures, WorkerSample
from capamesh.node.agent.quarantine import CrashRecord
from capamesh.node.contract.messages import (
    DeviceOffer,
    Drain,
    Drained,
    Links,
    Metrics,
    Sandboxed,
    Start,
    Stuck,
    Survived,
    agent_message,
    to_wire,
)
from capamesh.node.devices.in_flight_page import InFlightPage, Phase
from capamesh.protocol.bulk_deaths import BulkDeaths
from capamesh.protocol.child import Child
from capamesh.protocol.errors import ConfigError, ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from capamesh.node.agent.settings import NodeSettings
    from capamesh.node.contract.messages import ToAgent, ToWorker
    from capamesh.node.devices.host import DeviceInfo
    from capamesh.node.devices.in_flight_page import Marked
    from capamesh.protocol.channel.framing import Message

CACHE_FOLDER = "cache"
"""The folder, in the data folder, of measured profiles and compiled engines, which may be deleted at any time."""


class WorkerHandle:
    """Keeps the worker of one device running, and from models that end it again and again."""

    def __init__(
        self,
        number: int,
        device: DeviceInfo,
        start: Start,
        *,
        on_message: Callable[[int, ToAgent], None],
        on_up: Callable[[int], None],
        on_down: Callable[[int], None],
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet. `on_up` is told of each new process before that has said a word, `on_down` of its end."""
        self.number = number
        self.device = device
        self._start = start
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._log = log.bind(device=device.index)
        self._clock = clock
        self._page: InFlightPage | None = None
        self._started_s = clock()
        self._crashes = CrashRecord()
        self._bulk_deaths = BulkDeaths()
        self._figures = WorkerFigures()
        self._is_leaving = False
        self._stuck = ""
        self.sandbox = ""
        """The sandbox that the worker reported; empty before it did."""
        self.links = 0
        """The links of routers that can ask the worker, as it last reported."""
        self.last_down = ""
        """The reason for which the worker was last lost; empty while it never was."""
        self._child = Child(
            f"worker-{number}",
            [sys.executable, "-P", "-m", "capamesh.node.worker"],
            opening=self._opening,
            on_message=self._said,
            on_down=self._down,
            log=log,
        )

    @override
    def __repr__(self) -> str:
        return f"WorkerHandle({self._child!r}, {self._crashes!r})"

    @property
    def pid(self) -> int | None:
        """The process id, or None while it is down."""
        return self._child.pid

    async def run(self) -> None:
        """Keep it running until cancelled; see `Child.run`."""
        await self._child.run()

    def send(self, message: ToWorker) -> bool:
        """Queue a message to it; see `Child.send`."""
        return self._child.send(to_wire(message))

    def drain(self) -> bool:
        """Ask it to finish its work; its end is no crash from now on. Returns False when it is down."""
        self._is_leaving = True
        return self.send(Drain())

    def heard(self, message: ToAgent) -> None:
        """Take note of what the worker says of itself, and hand it on."""
        match message:
            case DeviceOffer():
                self._offered(message)
            case Metrics(models, loop):
                self._figures.reported(models)
                self._figures.loop_reported(loop)
            case Sandboxed(holds):
                self.sandbox = holds
            case Survived(name, version, requests, size_bytes):
                for request in requests:
                    self._crashes.survived(name, version, request)
                if size_bytes:
                    self._crashes.survived_size(name, version, size_bytes)
            case Links(count):
                self.links = count
            case Stuck(reason):
                self._stuck = reason
            case Drained():
                pass
            case _:
                assert_never(message)
        self._on_message(self.number, message)

    def _said(self, raw: Message) -> None:
        try:
            message = agent_message(raw)
        except ProtocolViolation as error:
            self._log.warning("unknown_message", error=error.message)
            return
        self.heard(message)

    def _offered(self, offer: DeviceOffer) -> None:
        """Take note of what it has: replaced files are not to blame for earlier deaths, and of lost ones nothing is counted."""
        self._figures.keep({(model.name, model.version) for model in offer.models})
        for model in offer.models:
            if self._crashes.offered(model.name, model.version, model.digest):
                self._log.info("blame_forgotten", model=model.name, version=model.version)
            if model.is_ready:
                self._crashes.loaded(model.name, model.version)

    def sample(self) -> WorkerSample:
        """Return how it is now, and its counts over all its lives."""
        return WorkerSample(
            number=self.number,
            is_up=self.pid is not None,
            starts=self._child.starts,
            models=self._figures.models(),
            loop=self._figures.loop(),
        )

    def _opening(self) -> Mapping[str, Any]:
        """Return the start message of a new life, whose process is there by now, and tell of it."""
        self._started_s = self._clock()
        verdicts = tuple(self._crashes.verdicts(self._started_s))
        bulk_refused_s = self._bulk_deaths.left_s(self._started_s)
        start = replace(self._start, verdicts=verdicts, bulk_refused_s=bulk_refused_s)
        try:
            self._page = InFlightPage.create(Path(start.running_page))
        except ConfigError as error:  # it can do without: only crashes are then blamed on nobody
            self._log.warning("no_running_page", error=error.message)
            start = replace(start, running_page="")
        self._on_up(self.number)
        return to_wire(start)

    def _down(self, reason: str) -> None:
        if self._stuck:
            reason, self._stuck = f"{reason}: {self._stuck}", ""
        self.last_down = reason
        self._figures.ended()
        self.links = 0
        self.sandbox = ""
        if self._page is not None:
            marked = self._page.marked()
            self._page.close()
            self._page = None
            if not self._is_leaving:
                self._blame(marked, reason)
        self._on_down(self.number)

    def _blame(self, marked: list[Marked], reason: str) -> None:
        now_s = self._clock()
        lived_s = now_s - self._started_s
        self._log.warning(
            "worker_died",
            reason=reason,
            lived_s=round(lived_s, 1),
            executing=[f"{mark.name}/{mark.version} {mark.phase.name.lower()}" for mark in marked],
        )
        has_bulk = any(mark.phase is Phase.BULK for mark in marked)
        if has_bulk and self._bulk_deaths.excuse(now_s):
            self._child.forgive()
            found = self._crashes.died_in_bulk(marked, reason, now_s)
            refused_s = self._bulk_deaths.left_s(now_s)
            if refused_s:
                self._log.error("bulk_refused", lasts_s=round(refused_s, 1))
        else:
            found = self._crashes.died(marked, reason, lived_s, now_s)
        for reported in found:
            self._log.error("worker_guarded", reason=reported)


def start_of(
    settings: NodeSettings, number: int, device: DeviceInfo, advertised_host: str
) -> Start:
    """Return what the worker `number` is told at each start; `WorkerHandle` adds what is held against models."""
    threads = settings.worker.threads or device.cores
    return Start(
        replace(settings.worker, threads=threads),
        membership_folder=str(settings.data_folder),
        models_folder=str(settings.models_folder),
        cache_folder=str(settings.data_folder / CACHE_FOLDER),
        running_page=str(settings.data_folder / f"worker-{number}.running"),
        device_index=device.index,
        device_uuid=device.uuid,
        device_kind=device.kind,
        device_name=device.name,
        memory_total_bytes=device.memory_total_bytes,
        memory_free_bytes=device.memory_free_bytes,
        driver=device.driver_version,
        host=settings.host,
        port=settings.port + number if settings.port else 0,
        advertised_host=advertised_host,
    )
