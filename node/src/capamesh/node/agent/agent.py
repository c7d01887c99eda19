"""The node agent: keeps the mesh sidecar and one worker a device running, and tells the network. IO: asyncio."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
from contextlib import AsyncExitStack
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

from capamesh.node.agent.announcement import Announcement, NodeFacts, check_advertised
from capamesh.node.agent.announcer import Announcer
from capamesh.node.agent.hearing import Hearing
from capamesh.node.agent.known_routers import KnownRouters
from capamesh.node.agent.metrics.totals import AgentReadings, LoopFigures
from capamesh.node.agent.status import (
    NO_ROUTER,
    Routers,
    all_models_status,
    sample_of,
    serving_facts,
    standing,
    worker_status,
)
from capamesh.node.agent.worker_handle import CACHE_FOLDER, WorkerHandle, start_of
from capamesh.node.contract.loop_meter import LoopMeter
from capamesh.node.contract.messages import (
    DeviceOffer,
    Drained,
    Links,
    Renewed,
    Revocations,
    Sandboxed,
)
from capamesh.node.devices.host import read_devices
from capamesh.node.devices.nvml import GpuReader
from capamesh.protocol.advertised_address import (
    advertised_host,
    listen_multiaddr,
    member_name,
    reachable_multiaddr,
    require_free,
)
from capamesh.protocol.adverts import (
    KIND_ADVERT,
    KIND_GOODBYE,
    Sequence,
    advert_to_body,
)
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.drains import Drains
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.loop_watch import LoopWatch
from capamesh.protocol.member_status import HEARTBEAT_S
from capamesh.protocol.membership_upkeep import MembershipUpkeep
from capamesh.protocol.mesh.client import MeshClient
from capamesh.protocol.mesh.gossip import demand_topic
from capamesh.protocol.network import RevocationList, Role
from capamesh.protocol.network_clock import clock_fields
from capamesh.protocol.private_files import make_folder
from capamesh.protocol.serving_notice import ServingNotice
from capamesh.protocol.system import System
from capamesh.protocol.token_file import token_file_of

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.agent.settings import NodeSettings
    from capamesh.node.contract.messages import ToAgent
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import Membership

CHECK_ROUTERS_EVERY_S = 10.0
"""Seconds after which it is told that no router is reached (guess: as often as a router advertises)."""
FAREWELL_S = 0.5
"""Time for a goodbye to leave the sidecar before it is stopped (guess: gossip takes milliseconds)."""


class NodeAgent:
    """One node of a network."""

    def __init__(self, settings: NodeSettings, log: FilteringBoundLogger) -> None:
        """Take over the data folder and read the devices; raise `ConfigError` when that cannot be."""
        if not settings.models_folder.is_dir():
            raise ConfigError(
                f"the models folder {settings.models_folder} does not exist: give --models"
            )
        self._settings = settings
        self._log = log
        self._home = DataDir(settings.data_folder, log)
        self._home.lock()
        self._membership = self._home.membership(settings.token, Role.NODE, dt.datetime.now(dt.UTC))
        if not settings.worker.is_dialing:
            require_free(settings.host, settings.mesh_port, "--mesh-port")
        self._trust = self._membership.trust()
        self._trust.update(self._home.revocations(self._membership))
        self._drains = Drains(self._trust, self._home, log)
        self._upkeep = MembershipUpkeep(
            self._home,
            self._membership,
            self._trust,
            token_file=token_file_of(settings.token_file, settings.token),
            on_renewed=self._renewed,
            log=log,
        )
        self._announcement = Announcement(
            NodeFacts(
                peer=self._membership.identity.peer_id,
                region=settings.region,
                price_per_million=settings.price_per_million,
                agent_version=package_version("capamesh"),
                name=member_name(settings.name),
            )
        )
        self._mesh = MeshClient(
            self._membership,
            listen=[]
            if settings.worker.is_dialing
            else [listen_multiaddr(settings.host, settings.mesh_port)],
            bootstrap=[*self._home.bootstrap(), *settings.bootstrap],
            subscribe=[demand_topic(self._membership.network_id)],
            use_mdns=settings.use_mdns,
            revocations=self._trust.encoded_revocations if self._trust.revocations.version else b"",
            drains=self._drains.encoded,
            on_message=self._heard,
            on_ready=self._mesh_ready,
            on_subscribed=self._subscribed,
            on_revocations=self._revoked,
            on_drains=self._drained_by_owner,
            on_down=lambda _: self._write_status(),
            log=log,
        )
        system = System()
        self._hearing = Hearing(self._trust, log, system)
        self._announcer = Announcer(
            self._announcement,
            self._membership,
            self._home,
            self._mesh,
            self._hearing,
            log,
            system,
        )
        self._advertised_host = advertised_host(settings.host, settings.advertised_host)
        advert_to_body(self._announcement.advert(Sequence(0, 0)))  # a bad region ends the start
        check_advertised(self._advertised_host)
        devices = read_devices(GpuReader(), visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))
        if settings.port and not settings.worker.is_dialing:
            for number in range(len(devices)):
                require_free(settings.host, settings.port + number, "--port")
        if settings.metrics_host:
            require_free(settings.metrics_host, settings.metrics_port, "--metrics")
        make_folder(settings.data_folder / CACHE_FOLDER)
        self._workers = [
            WorkerHandle(
                number,
                device,
                start_of(settings, number, device, self._advertised_host),
                on_message=self._worker_said,
                on_up=lambda _: self._write_status(),
                on_down=self._worker_down,
                log=log,
            )
            for number, device in enumerate(devices)
        ]
        self._routers = KnownRouters()
        self._drained: set[int] = set()
        self._all_drained = asyncio.Event()
        self._state = "starting"
        """The state of its own life; while it is serving, `standing` says more."""
        self._metrics_url = ""
        self._loop_meter = LoopMeter()
        self._notice = ServingNotice(
            log,
            lambda: serving_facts(self._workers, self._announcement.advert(Sequence(0, 0)).models),
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain, say goodbye and return.

        SIGHUP looks at the token file at once, which is looked at every few seconds anyway.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._look_after_membership)
        watch = LoopWatch(self._log, self._loop_meter.beat)
        watch.start()
        try:
            async with AsyncExitStack() as pages, asyncio.TaskGroup() as tasks:
                await self._serve_metrics(pages)
                self._write_status()
                mesh = tasks.create_task(self._mesh.run())
                workers = [tasks.create_task(worker.run()) for worker in self._workers]
                announcing = tasks.create_task(self._announcer.run())
                checking = tasks.create_task(self._check_routers())
                beating = tasks.create_task(self._beat())
                await stop.wait()
                await self._drain()
                announcing.cancel()
                checking.cancel()
                beating.cancel()
                self._announcer.publish(KIND_GOODBYE)
                await asyncio.sleep(FAREWELL_S)
                for task in (mesh, *workers):
                    task.cancel()
        finally:
            watch.stop()
            self._state = "stopped"
            self._write_status()
            self._log.info("node_stopped")

    async def _serve_metrics(self, pages: AsyncExitStack) -> None:
        settings = self._settings
        if not settings.metrics_host:
            return
        from capamesh.node.agent.metrics.server import serve_metrics  # noqa: PLC0415 - most nodes serve none, and save its memory

        page = serve_metrics(
            settings.metrics_host,
            settings.metrics_port,
            lambda: [sample_of(worker, self._announcement) for worker in self._workers],
            AgentReadings(
                version=package_version("capamesh"),
                data_folder=settings.data_folder,
                membership=lambda: self._upkeep.figures(dt.datetime.now(dt.UTC)),
                clock_behind_s=lambda: clock_fields(self._hearing.skew())["peers_ahead_s"],
                loop=lambda: LoopFigures.from_message(self._loop_meter.snapshot()),
            ),
        )
        self._metrics_url = await pages.enter_async_context(page)
        self._log.info("metrics_served", url=self._metrics_url)

    # workers

    def _worker_said(self, number: int, message: ToAgent) -> None:
        match message:
            case DeviceOffer():
                if number not in self._announcement.workers:
                    self._brief(self._workers[number])
                if self._announcement.offered(number, message):
                    self._changed()
            case Links() | Sandboxed():
                self._write_status()
            case Drained():
                self._drained.add(number)
                self._check_drained()
            case _:
                pass  # of the worker alone, which has taken note of it

    def _brief(self, worker: WorkerHandle) -> None:
        """Tell a worker that just came up what the others heard before."""
        if self._trust.revocations.version:
            worker.send(Revocations(self._trust.revocations.encode()))
        if self._routers:
            worker.send(self._routers.message())
        if self._announcement.is_draining:
            worker.drain()

    def _worker_down(self, number: int) -> None:
        if self._announcement.lost(number, self._workers[number].last_down):
            self._changed()
        else:
            self._write_status()
        if self._announcement.is_draining:
            self._drained.add(number)
            self._check_drained()

    # the mesh

    def _mesh_ready(self, peer: PeerId, addrs: tuple[str, ...]) -> None:
        self._log.info("mesh_ready", peer=peer, addrs=addrs)
        self._changed()

    def _subscribed(self, topic: str, peers: tuple[PeerId, ...]) -> None:
        if topic == self._announcer.topic:
            self._log.info("routers_listening", count=len(peers))
            self._write_status()
            self._announcer.reached()

    def _heard(self, topic: str, raw: bytes, sender: PeerId) -> None:
        del topic, sender
        router = self._hearing.router_in(raw)
        if router is None:
            return
        self._announcer.router_heard(router)
        if self._settings.worker.is_dialing and self._routers.heard(
            router, asyncio.get_running_loop().time()
        ):
            for worker in self._workers:
                worker.send(self._routers.message())

    def _revoked(self, encoded: bytes) -> None:
        revocations = RevocationList.decode(encoded, self._membership.ca_der)
        if self._trust.update(revocations):
            for worker in self._workers:
                worker.send(Revocations(encoded))
            is_kept = self._home.keep_revocations(revocations)
            self._log.info("revocations_updated", version=revocations.version, is_kept=is_kept)
            self._upkeep.look(dt.datetime.now(dt.UTC))
            self._write_status()

    def _drained_by_owner(self, encoded: bytes) -> None:
        if self._drains.heard(encoded):
            self._write_status()

    # its own membership

    async def _beat(self) -> None:
        """Look after this node's own membership, and let its status show that it lives."""
        while True:
            self._look_after_membership()
            await asyncio.sleep(HEARTBEAT_S)

    def _look_after_membership(self) -> None:
        self._upkeep.beat(dt.datetime.now(dt.UTC))
        self._hearing.check_clock()
        self._write_status()

    def _renewed(self, membership: Membership) -> None:
        """Show a renewed membership to the mesh, on links and in adverts."""
        self._membership = membership
        for worker in self._workers:
            worker.send(Renewed(membership.chain, membership.ca_der))
        self._mesh.renew(membership, self._home.bootstrap())
        self._announcer.renewed(membership)

    # telling the network

    def _changed(self) -> None:
        if self._state == "starting" and self._announcement.is_ready and self._mesh.is_ready:
            self._state = "serving"
            self._log.info("node_ready")
        self._write_status()
        self._announcer.changed()

    async def _check_routers(self) -> None:
        """Say it when nobody can use this node: no router is reached, or none takes it."""
        while True:
            await asyncio.sleep(CHECK_ROUTERS_EVERY_S)
            self._write_status()
            if self._router_count == 0 and self._upkeep.ended is None:  # that is told by itself
                self._log.warning(
                    "no_router_reached",
                    mesh_warnings=self._mesh.warnings,
                    what_to_do=NO_ROUTER,
                )

    @property
    def _router_count(self) -> int:
        return sum(role is Role.ROUTER for role in self._mesh.members.values())

    async def _drain(self) -> None:
        self._state = "draining"
        self._log.info("node_draining", patience_s=self._settings.drain_s)
        self._write_status()
        self._announcement.is_draining = True
        self._announcer.changed()
        self._announcer.publish(KIND_ADVERT)
        for worker in self._workers:
            if not worker.drain():
                self._drained.add(worker.number)
        self._check_drained()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._all_drained.wait()
        except TimeoutError:
            self._log.warning("drain_cut_short", patience_s=self._settings.drain_s)

    def _check_drained(self) -> None:
        if len(self._drained) == len(self._workers):
            self._all_drained.set()

    def _write_status(self) -> None:
        advert = self._announcement.advert(Sequence(0, 0))
        drained_until = self._drains.until(advert.peer, self._hearing.membership_time())
        links = sum(worker.links for worker in self._workers)
        routers = Routers(links, self._router_count, self._mesh.bootstrap)
        life = (self._state, self._upkeep.ended)
        state, reason = standing(*life, advert.models, routers, drained_until)
        self._notice.look(state, reason)
        self._home.write_status(
            {
                "role": "node",
                "name": advert.name,
                "state": state,
                "reason": reason,
                **self._upkeep.fields(dt.datetime.now(dt.UTC)),
                "pid": os.getpid(),
                "peer_id": advert.peer,
                "network_id": self._membership.network_id,
                "routers": routers.met,
                "clock": clock_fields(self._hearing.skew()),
                "links": links,
                "sidecar_pid": self._mesh.pid,
                "worker_pids": [worker.pid for worker in self._workers],
                "mesh_addresses": [
                    reachable_multiaddr(addr, self._advertised_host) for addr in self._mesh.addrs
                ],
                "data_addresses": [a for device in advert.devices for a in device.data_addresses],
                "metrics": self._metrics_url,
                "workers": [worker_status(worker) for worker in self._workers],
                "models": all_models_status(self._workers, self._announcement),
            }
        )
