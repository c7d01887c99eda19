"""A node of a world: the worker's own service, runners and links, and the agent's own announcement, in one process. IO: its folder.

What is left out: the files of models, and the processes that keep a crash of one from the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.node.agent.announcement import Announcement, NodeFacts
from capamesh.node.agent.announcer import Announcer
from capamesh.node.agent.hearing import Hearing
from capamesh.node.contract.messages import DeviceOffer
from capamesh.node.devices.in_flight_journal import InFlightJournal
from capamesh.node.generation import GenerationSettings
from capamesh.node.models.preparation import LoadResult
from capamesh.node.models.registry import HostedModel, ModelRegistry
from capamesh.node.profiling.profile_cache import Measured
from capamesh.node.scheduling import BatchPlan, DynamicBatcher
from capamesh.node.scheduling.generation_runner import GenerationRunner
from capamesh.node.scheduling.generation_scheduler import GenerationScheduler
from capamesh.node.scheduling.runner import ModelRunner
from capamesh.node.scheduling.stats import Meter
from capamesh.node.scheduling.watched_slots import WatchedSlots
from capamesh.node.worker.process import OBSERVE_S, QUIET_S, QUIET_STEP_S, RECHECK_MEMBERS_S
from capamesh.node.worker.service import WorkerService
from capamesh.protocol.adverts import KIND_GOODBYE, Device
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.links.transport import LinkTransport
from capamesh.protocol.mesh.gossip import demand_topic
from capamesh.protocol.network import RevocationList
from capamesh.protocol.tensors import Limits
from capamesh.simulation.world import model, talker
from capamesh.simulation.world.memory_mesh import MemoryMesh, MeshBus

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.runtime.api import LoadedModel
    from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder
    from capamesh.node.scheduling.scheduler import Scheduler
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import Membership
    from capamesh.protocol.system import System

FREE_BYTES = 2**30
MAX_IN_FLIGHT = 256
WATCHDOG_S = 60.0


class WorldNode:
    """One process of a node, from its start to its end."""

    def __init__(
        self,
        membership: Membership,
        folder: Path,
        address: str,
        bus: MeshBus,
        system: System,
        log: FilteringBoundLogger,
        *,
        slowness: Callable[[], float],
        fault: Callable[[], CapameshError | None],
        ran: Callable[[list[float]], None],
    ) -> None:
        """`slowness`, `fault` and `ran` are those of its model; made on the machine that it runs on."""
        self._address = address
        self._membership = membership
        self._trust = membership.trust()
        self._marks = InFlightJournal(None)
        loop = asyncio.get_running_loop()
        self.models = ModelRegistry()
        self._system = system
        self.models.ready(self._counting(model.WorldModel(slowness, fault, ran)))
        self.models.ready(self._talking(talker.decoder(slowness)))
        self.service = WorkerService(
            self.models,
            self._trust,
            control=lambda _call, changed: changed(None),
            clock=system.steady_s,
            later=loop.call_later,
            limits=Limits(),
            log=log,
            now=system.now,
        )
        self.service.free_bytes = FREE_BYTES
        self._transport = LinkTransport(
            membership, folder, agent_version="0", log=log, system=system
        )
        home = DataDir(folder, log)
        self._announcement = Announcement(
            NodeFacts(membership.identity.peer_id, "", 0.0, "0", address)
        )
        self._hearing = Hearing(self._trust, log, system)
        self.mesh = MemoryMesh(
            bus,
            membership,
            subscribe=[demand_topic(membership.network_id)],
            on_message=self._heard,
            on_ready=self._ready,
            on_subscribed=self._subscribed,
            on_revocations=self._revoked,
            on_drains=lambda _: None,
        )
        self._announcer = Announcer(
            self._announcement,
            membership,
            home,
            self.mesh,
            self._hearing,
            log,
            system,
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        listener = await self._transport.listen(self._address, 0, lambda: self.service)
        port = listener.sockets[0].getsockname()[1]
        device = Device(
            0,
            "cpu",
            "cpu",
            self.models.provider,
            2 * FREE_BYTES,
            FREE_BYTES,
            (f"{self._address}:{port}",),
        )
        self._announcement.offered(0, DeviceOffer(device, self.models.offers()))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.mesh.run())
            tasks.create_task(self._announcer.run())
            tasks.create_task(self._recheck_members())
            while True:
                self.service.tidy()
                await asyncio.sleep(OBSERVE_S)

    async def drain(self) -> None:
        """Take nothing new, answer what is under way, and say goodbye: as an agent does that is told to stop."""
        self._announcement.is_draining = True
        self._announcer.changed()
        self.service.drain()
        quiet_s = 0.0
        while quiet_s < QUIET_S:
            await asyncio.sleep(QUIET_STEP_S)
            quiet_s = quiet_s + QUIET_STEP_S if self.service.is_quiet else 0.0
        self._announcer.publish(KIND_GOODBYE)
        self.service.close("the node is stopping")

    async def _recheck_members(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_MEMBERS_S)
            self.service.recheck_members()

    def _heard(self, topic: str, raw: bytes, sender: PeerId) -> None:
        del topic, sender
        router = self._hearing.router_in(raw)
        if router is not None:
            self._announcer.router_heard(router)

    def _ready(self, peer: PeerId, addrs: tuple[str, ...]) -> None:
        del peer, addrs
        self._announcer.changed()

    def _subscribed(self, topic: str, peers: tuple[PeerId, ...]) -> None:
        del peers
        if topic == self._announcer.topic:
            self._announcer.reached()

    def _revoked(self, encoded: bytes) -> None:
        if self._trust.update(RevocationList.decode(encoded, self._membership.ca_der)):
            self.service.recheck_members()

    def _counting(self, loaded: model.WorldModel) -> HostedModel:
        plan = BatchPlan(
            loaded.inputs, loaded.outputs, is_batching=True, batch_rows=model.BATCH_ROWS
        )
        scheduler = DynamicBatcher(plan, model.RULES, model.PROFILE, max_in_flight=MAX_IN_FLIGHT)
        prepared = LoadResult(loaded, plan, Measured(model.PROFILE, 0, True))
        return HostedModel(model.source(), prepared, self._runner(loaded, scheduler))

    def _talking(self, loaded: LoadedDecoder) -> HostedModel:
        meter, clock = Meter(), self._system.steady_s
        scheduler = GenerationScheduler(
            loaded.text,
            meter=meter,
            most_in_flight=MAX_IN_FLIGHT,
            clock=clock,
            marks=self._marks,
            number=0,
            watchdog_s=WATCHDOG_S,
            on_stuck=_stuck,
        )
        slots = WatchedSlots(loaded.slots, meter, self._marks, 0, clock)
        generation = GenerationRunner(
            slots,
            GenerationSettings(),
            clock=clock,
            on_broken=_stuck,
            threads=self._system.threads,
        )
        scheduler.begin(generation)
        prepared = LoadResult(
            loaded, BatchPlan((), ()), Measured(None, 0, False), max_parts=loaded.slots.length
        )
        return HostedModel(model.source(talker.NAME), prepared, self._runner(loaded, scheduler))

    def _runner(self, loaded: LoadedModel, scheduler: Scheduler) -> ModelRunner:
        return ModelRunner(
            loaded,
            scheduler,
            may_run_here=False,
            clock=self._system.steady_s,
            switch=model.Switch,
            marks=self._marks,
            number=0,
            watchdog_s=WATCHDOG_S,
            on_stuck=_stuck,
            threads=self._system.threads,
        )


def _stuck(reason: str) -> None:
    raise AssertionError(f"no run of a world is stuck: {reason}")
