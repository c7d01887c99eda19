"""A worker process from its owner's first message to its last. IO: asyncio, a link server, model files.

What it and its agent say to each other is in `capamesh.node.contract.messages`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from capamesh.node.contract.loop_meter import LoopMeter
from capamesh.node.contract.messages import (
    DeviceOffer,
    Drain,
    Drained,
    Links,
    Metrics,
    Renewed,
    Revocations,
    Routers,
    Sandboxed,
    Start,
    Stop,
    Stuck,
    Survived,
    to_wire,
    worker_message,
)
from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.models.lifecycle import ModelLifecycle
from capamesh.node.models.preparation import Preparation
from capamesh.node.models.registry import ModelRegistry
from capamesh.node.models.shortage import PAUSE_S, TRIES, Reserve
from capamesh.node.profiling.cache_upkeep import PROFILES, clean
from capamesh.node.profiling.profile_cache import ProfileCache
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.scheduling import MemoryBudget
from capamesh.node.worker.device_log import log_device, log_fallback
from capamesh.node.worker.dialing import RouterDialing
from capamesh.node.worker.idle_memory import IdleMemory
from capamesh.node.worker.memory_limit import budget_bytes, hold_to
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.adverts import Device
from capamesh.protocol.errors import LinkLost, LocalError, ProtocolViolation
from capamesh.protocol.loop_watch import LoopWatch
from capamesh.protocol.network import RevocationList
from capamesh.protocol.tensors import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from capamesh.node.contract.messages import ToAgent, ToWorker
    from capamesh.node.worker.opening import Opened
    from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.links.link import Link
    from capamesh.protocol.links.wire import Listener

RECHECK_MEMBERS_S = 60.0
"""Seconds between two checks of links for peers whose membership has expired (guess)."""
QUIET_S = 0.5
"""A drained worker leaves after this long without a request: what crossed the goaway on the wire
has arrived by then (guess: several round trips around the world)."""
QUIET_STEP_S = 0.05
OBSERVE_S = 0.5
"""Seconds that the free memory in an answer may be old (guess: probes are as old)."""
METRICS_TURNS = 4
"""Counts are reported every so many observations: 2 s; a Prometheus scrape comes every 15 s."""
CLEAN_S = 3600.0
"""Seconds between two removals of what is long unused in the cache, and before the first: the models of the folder have
used theirs by then (guess)."""
FLUSH_S = 0.2
"""Seconds that a stuck worker's last answers may take to leave (guess: a socket's buffer)."""
STUCK_STATUS = 70
"""EX_SOFTWARE of sysexits.h."""


class Worker:
    """One device's worker."""

    def __init__(
        self,
        start: Start,
        opened: Opened,
        channel: AsyncioChannel,
        log: FilteringBoundLogger,
    ) -> None:
        """`opened` is what this process may not open any more."""
        self._start = start
        self._channel = channel
        self._log = log
        self._opened = opened
        self._membership = opened.membership
        self._trust = self._membership.trust()
        self._models = ModelRegistry()
        self._backend = OnnxBackend(
            "cuda" if start.device_kind == "cuda" else "cpu",
            device_uuid=start.device_uuid,
            intra_op_threads=start.settings.threads,
            memory_limit_bytes=start.settings.memory_limit_bytes,
            cache_folder=Path(start.cache_folder),
            on_lost=self._device_lost,
            on_fallback=partial(log_fallback, log),
        )
        self._reserve = Reserve(log)
        self._loop = asyncio.get_running_loop()
        self._marks = marks = InFlightJournal(opened.page)
        self._budget = MemoryBudget(
            budget_bytes(
                is_gpu=start.device_kind == "cuda",
                total_bytes=start.memory_total_bytes,
                free_bytes=start.memory_free_bytes,
            )
        )
        self._lifecycle = ModelLifecycle(
            start.settings,
            Path(start.models_folder),
            self._models,
            self._backend,
            Preparation(
                self._backend,
                ProfileCache(Path(start.cache_folder) / PROFILES),
                circumstances={
                    "device": start.device_uuid or start.device_name,
                    "threads": str(start.settings.threads),
                },
                clock=time.perf_counter,
            ),
            verdicts=start.verdicts,
            compute_capability=self._backend.compute_capability(),
            budget=self._budget,
            marks=marks,
            on_change=self._tell_now,
            on_stuck=self._stuck,
            on_moved=self._moved,
            on_survived=self._survived,
            reserve=self._reserve,
            log=log,
        )
        self._idle_memory = IdleMemory(self._models, self._backend, self._budget)
        self._loop_meter = LoopMeter()
        self._has_reported = False
        self._is_ending = False
        self._leaving: asyncio.Task[None] | None = None
        """The task of leaving for another folder of models."""
        self._service = WorkerService(
            self._models,
            self._trust,
            control=self._lifecycle.change,
            clock=time.monotonic,
            later=self._loop.call_later,
            limits=Limits(),
            log=log,
            bulk_refused_s=start.bulk_refused_s,
        )
        self._service.on_links = self._links_changed
        self._transport = opened.transport
        self._address = ""
        self._free_bytes = start.memory_free_bytes

    async def run(self) -> None:
        """Serve until the agent says stop or is gone."""
        log_device(self._log, self._start, self._backend)
        self._send(Sandboxed(self._opened.sandbox))
        self._log.info("sandbox", holds=self._opened.sandbox)
        self._limit_memory()
        self._idle_memory.begin()
        server = None if self._start.settings.is_dialing else await self._listen()
        watch = LoopWatch(self._log, self._loop_meter.beat)
        watch.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                dialing = RouterDialing(self._dial, tasks)
                background = [tasks.create_task(self._lifecycle.run())]
                background += [
                    tasks.create_task(self._reserve.lasting(run))
                    for run in (self._observe, self._recheck_members, self._clean_cache)
                ]

                def drain() -> None:
                    self._service.drain()
                    background.append(tasks.create_task(self._drained()))

                await self._reserve.lasting(partial(self._listen_to_agent, dialing, drain))
                dialing.close()
                for task in background:
                    task.cancel()
        finally:
            watch.stop()
            if server is not None:
                server.close()
            self._service.close("the node is stopping")
            self._lifecycle.close()

    async def _listen_to_agent(self, dialing: RouterDialing, drain: Callable[[], None]) -> None:
        """Do what the agent says until it says stop or is gone.

        No message is lost for want of memory: a peer that was revoked and is not known to be would go on. Where
        one cannot be obeyed at all, this process ends; the next one is told everything anew.
        """
        async for raw in self._channel.messages():
            try:
                message = worker_message(raw)
            except ProtocolViolation as error:
                self._log.warning("unknown_message", error=error.message)
                continue
            if isinstance(message, Stop):
                return
            try:
                await self._reserve.lasting(
                    partial(self._obey, message, dialing, drain), tries=TRIES
                )
            except MemoryError as short:
                self._stuck(f"no memory to obey {message.TYPE!r}: {short}")

    async def _obey(
        self, message: ToWorker, dialing: RouterDialing, drain: Callable[[], None]
    ) -> None:
        match message:
            case Revocations(data):
                self._revoke(data)
            case Routers(routers):
                dialing.update(routers)
            case Renewed(chain, ca_der):
                self._renew(chain, ca_der)
            case Drain():
                drain()
            case Start() | Stop():
                pass  # at the beginning and at the end, before this is asked
            case _:
                assert_never(message)

    def _limit_memory(self) -> None:
        """Have runs that find no memory fail; on a GPU it is the driver that refuses, and the host's is not limited.

        CUDA maps more of the host's memory than it uses, how much depends on the driver.
        """
        start = self._start
        limit = 0
        if start.device_kind != "cuda":
            limit = hold_to(self._budget.limit_bytes)
            self._reserve.take()
        self._log.info(
            "memory_budget",
            budget_bytes=self._budget.limit_bytes,
            models_limit_bytes=start.settings.memory_limit_bytes,
            process_limit_bytes=limit,
        )

    async def _listen(self) -> Listener:
        start = self._start
        server = await self._transport.listen(start.host, start.port, lambda: self._service)
        host, port = start.advertised_host, server.sockets[0].getsockname()[1]
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return server

    async def _dial(self, peer: PeerId, address: str) -> Link:
        link = await self._transport.dial(address, self._service)
        if link.member is None or link.member.peer_id != peer:
            link.close("another router answered")
            raise LinkLost(f"dialled {peer} at {address}, but another router answered")
        return link

    def _tell(self) -> None:
        self._has_reported = True
        start = self._start
        device = Device(
            index=start.device_index,
            kind=start.device_kind,
            name=start.device_name,
            provider=self._models.provider,
            memory_total_bytes=start.memory_total_bytes,
            memory_free_bytes=min(self._free_bytes, start.memory_total_bytes),
            data_addresses=(self._address,) if self._address else (),
            runtime=self._backend.runtime,
            driver=start.driver,
        )
        self._send(DeviceOffer(device, self._models.offers()))

    def _send(self, message: ToAgent) -> None:
        self._channel.send(to_wire(message))

    def _tell_now(self) -> None:
        """Tell what is on offer, or a moment later where there is no memory to do so."""
        try:
            self._tell()
        except MemoryError:
            self._reserve.let_go()
            self._loop.call_later(PAUSE_S, self._tell_now)

    def _revoke(self, encoded: bytes) -> None:
        self._trust.update(RevocationList.decode(encoded, self._membership.ca_der))
        self._service.recheck_members()

    def _renew(self, chain: tuple[bytes, ...], ca_der: bytes) -> None:
        """Show the membership that the agent has renewed on links, those that are open included."""
        try:
            membership = self._membership.with_chain(chain, ca_der, dt.datetime.now(dt.UTC))
            hello = self._transport.renew(membership)
        except LocalError as error:
            self._log.error("renewed_membership_not_shown", error=error.message)
            return
        self._membership = membership
        self._service.introduce(hello)

    async def _recheck_members(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_MEMBERS_S)
            self._service.recheck_members()
            if self._has_reported:  # the folder has been read
                self._tell()  # again, in case the agent was not reading when there was news

    async def _clean_cache(self) -> None:
        while True:
            await asyncio.sleep(CLEAN_S)
            removed = await asyncio.to_thread(clean, Path(self._start.cache_folder), time.time())
            if removed:
                self._log.info("cache_cleaned", removed=removed)

    async def _observe(self) -> None:
        """See to what no request sees to: the free memory, silent sequences, the counts."""
        for turn in itertools.count():
            self._service.tidy()
            if self._models.reported_anew():
                self._tell()
            if self._start.device_kind != "cuda":
                await self._idle_memory.give_back()
            self._free_bytes = await asyncio.to_thread(self._backend.free_bytes)
            self._service.free_bytes = self._free_bytes
            if turn % METRICS_TURNS == 0:
                self._send(Metrics(self._models.counts(), self._loop_meter.snapshot()))
            await asyncio.sleep(OBSERVE_S)

    def _survived(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._tell_survived)

    def _tell_survived(self) -> None:
        for hosted in self._models:
            bounds = hosted.bounds
            if bounds is None:
                continue
            requests, size_bytes = bounds.suspicion.survived()
            if requests or size_bytes:
                self._send(Survived(hosted.source.name, hosted.version, requests, size_bytes))

    def _links_changed(self, count: int) -> None:
        with contextlib.suppress(ConnectionError):
            self._send(Links(count))

    def _device_lost(self, loss: str) -> None:
        """End this process, for no model can be run in it any more; told in a run's thread, before the run's mark goes."""
        self._marks.settle()
        reason = f"the device answers nothing any more: {loss}"
        with contextlib.suppress(RuntimeError):  # the event loop is closed: it ends anyway
            self._loop.call_soon_threadsafe(self._stuck, reason)

    def _stuck(self, reason: str) -> None:
        """End this process, for a run or a load that cannot be stopped holds its device; the agent starts another."""
        if self._is_ending:
            return
        self._is_ending = True
        self._log.error("worker_stuck", reason=reason)
        with contextlib.suppress(ConnectionError):
            self._send(Stuck(reason))
        self._service.fail_all(f"the worker is restarted: {reason}")
        asyncio.get_running_loop().call_later(FLUSH_S, os._exit, STUCK_STATUS)

    def _moved(self) -> None:
        """Have another process read the models' folder, once this one has answered what it has."""
        if self._leaving is None:
            self._log.warning("models_folder_moved", folder=self._start.models_folder)
            self._leaving = self._loop.create_task(self._reserve.lasting(self._leave))

    async def _leave(self) -> None:
        self._service.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._start.settings.watchdog_s or None):
                await self._quiet()
        self._stuck("another folder lies where the models' did, which only a new process may read")

    async def _quiet(self) -> None:
        quiet_s = 0.0
        while quiet_s < QUIET_S:
            await asyncio.sleep(QUIET_STEP_S)
            quiet_s = quiet_s + QUIET_STEP_S if self._service.is_quiet else 0.0

    async def _drained(self) -> None:
        await self._quiet()
        with contextlib.suppress(ConnectionError):
            self._send(Drained())
