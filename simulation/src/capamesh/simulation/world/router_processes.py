"""Routers of a world: one process, or a main process with its workers, each on a machine of its own at the router's address."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
from capamesh.protocol.child import Process
from capamesh.protocol.data_dir import DataDir
from capamesh.router.process.seat import Controls, WholeRouter
from capamesh.router.process.workers.main import MainProcess, MainSeat
from capamesh.router.process.workers.mesh import MainMesh
from capamesh.router.process.workers.worker import serve_worker
from capamesh.simulation.memory_tcp import MACHINE, Machine, MemorySocket
from capamesh.simulation.sim_loop import SimLoop
from capamesh.simulation.world.memory_mesh import MemoryMesh, MeshBus

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.system import System
    from capamesh.router.process.router import Router

KILLED = -9


class AloneSeat(WholeRouter):
    """The seat of a router that is one process and shares its real one: no lock and no signals, and a mesh in memory."""

    def __init__(self, bus: MeshBus) -> None:
        super().__init__()
        self.make_mesh = partial(MemoryMesh, bus)

    @override
    def take_home(self, folder: Path, log: FilteringBoundLogger) -> DataDir:
        return DataDir(folder, log)

    @override
    def obey(self, controls: Controls) -> None:
        """Do nothing: there are no signals."""


class WorldMainSeat(MainSeat):
    """The same of the main process of a router with workers."""

    def __init__(self, bus: MeshBus, loop: SimLoop) -> None:
        super().__init__()
        mesh = partial(MemoryMesh, bus)
        self.make_mesh = partial(MainMesh, mesh, tell=self._tell, hear=self._hear)
        self._loop = loop
        self.listening = self._listening

    @override
    def take_home(self, folder: Path, log: FilteringBoundLogger) -> DataDir:
        return DataDir(folder, log)

    @override
    def command(self, main: MainProcess) -> None:
        """Do nothing: there are no signals."""

    def _listening(self, host: str, port: int, option: str) -> list[socket.socket]:
        del option
        made = self._loop.network.socket()
        made.bind((host, port))
        made.listen()
        return [made]


class Workers:
    """The workers of one router of a world, while its main process lives."""

    def __init__(
        self,
        loop: SimLoop,
        system: Callable[[], System],
        log: FilteringBoundLogger,
        broken: Callable[[BaseException], None],
    ) -> None:
        """Each gets a `system`; `broken` is told what ends one of them that should not."""
        self._loop = loop
        self._system = system
        self._log = log
        self._broken = broken
        self._pids = itertools.count(2)
        self.processes: dict[WorkerProcess, None] = {}
        """Those that live."""

    @property
    def routers(self) -> list[Router]:
        """The routers in them, of those that have begun to serve."""
        return [each.router for each in self.processes if each.router is not None]

    async def launch(
        self, argv: Sequence[str], inherited: Sequence[int], environment: Mapping[str, str] | None
    ) -> tuple[Process, AsyncioChannel]:
        """Start one: `child.Launch`."""
        del argv, environment
        network = self._loop.network
        process = WorkerProcess(next(self._pids), self._loop, self.processes)
        ours, theirs = network.pair(process.machine)
        shared = [network.open_socket(each) for each in inherited]
        with process.machine.here():
            process.task = self._loop.create_task(self._serve(process, theirs, shared))
        return process, await AsyncioChannel.connect(ours)

    def kill(self) -> None:
        """End them all: the machine is gone."""
        for each in list(self.processes):
            each.kill()

    async def _serve(
        self, process: WorkerProcess, theirs: MemorySocket, shared: Sequence[MemorySocket]
    ) -> None:
        try:
            channel = await AsyncioChannel.connect(theirs)
            await serve_worker(channel, shared, (), self._system(), self._log, process.serves)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001 - it ends the story, which raises it
            if not self._loop.is_closed():
                self._broken(exc)
        if not self._loop.is_closed():
            self._loop.call_soon(process.end, 0, context=Context())


class WorkerProcess(Process):
    """One worker."""

    def __init__(self, pid: int, loop: SimLoop, alive: dict[WorkerProcess, None]) -> None:
        """It is among those `alive` until it ends."""
        self.pid = pid
        self.machine = Machine(MACHINE.get().address)
        self.router: Router | None = None
        """Its router, once it serves."""
        self.task: asyncio.Task[None]
        self._loop = loop
        self._alive = alive
        self._ended: asyncio.Future[int] = loop.create_future()
        alive[self] = None

    @override
    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    @override
    def kill(self) -> None:
        self.end(KILLED)

    def serves(self, router: Router) -> None:
        """Take in that its router is made."""
        self.router = router

    def end(self, status: int) -> None:
        """End it, if it has not ended."""
        if self in self._alive:
            del self._alive[self]
            self._loop.kill(self.machine)
            self._ended.set_result(status)
