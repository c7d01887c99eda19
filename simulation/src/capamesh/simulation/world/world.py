"""`World(seed)`: a fleet of production routers and nodes with clients, in one loop. IO: a folder."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from capamesh.protocol.network import Role
from capamesh.protocol.system import System
from capamesh.router.process.parts import RouterParts
from capamesh.router.process.router import Router
from capamesh.router.process.workers.main import MainProcess
from capamesh.router.settings import RouterSettings
from capamesh.simulation.memory_tcp import Machine
from capamesh.simulation.sim_loop import SimLoop
from capamesh.simulation.world import members
from capamesh.simulation.world.memory_mesh import MeshBus
from capamesh.simulation.world.memory_wire import Certificates
from capamesh.simulation.world.node import WorldNode
from capamesh.simulation.world.router_processes import AloneSeat, Workers, WorldMainSeat
from capamesh.simulation.world.virtual_threads import VirtualThreads

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError

HTTP_PORT = 8000
TIMEOUT_S = 5.0
"""The deadline of a request."""


class Violation(Exception):
    """Something that must always be true is not."""


@dataclass(slots=True)
class Host:
    """A machine that runs a router or a node, again each time that it is started."""

    name: str
    address: str
    folder: Path
    start: Callable[[Host], Any]
    """Makes the process, on its machine; its `run` is what the machine runs."""
    skew_s: float = 0.0
    """Seconds by which its time of day is wrong."""
    machine: Machine | None = None
    """The process; None while it is down."""
    process: Any = None
    """The router or the node; None likewise, and until it is made."""
    task: asyncio.Task[None] | None = None
    workers: Workers | None = None
    """Those of a router that has some, while it is up."""
    starts: int = 0
    slowness: float = 1.0
    fault: CapameshError | None = None
    """The error of all its runs."""
    is_revoked: bool = False
    stood_until_s: float = 0.0
    """The time when it last went on after it had been frozen."""
    ran: list[list[float]] = field(default_factory=list[list[float]])
    """The first numbers of the rows of each run of its model."""

    @property
    def routers(self) -> list[Router]:
        """The routers' processes that serve requests."""
        if self.workers is not None:
            return self.workers.routers
        return [self.process] if isinstance(self.process, Router) else []

    @property
    def machines(self) -> list[Machine]:
        """The machines of its processes."""
        processes = () if self.workers is None else self.workers.processes
        own = () if self.machine is None else (self.machine,)
        return [*own, *[each.machine for each in processes]]


class World:
    """One fleet from its start to its end."""

    def __init__(
        self, seed: int, *, routers: int, nodes: int, workers: int = 0, rules: str = ""
    ) -> None:
        """Make the hosts, none of which runs yet.

        Each router has so many `workers`; with 0 it is one process. `rules` is the text of the routers' file of rules.
        """
        self.seed = seed
        random.seed(seed)  # what draws from the process's own source
        self._workers = workers
        self.rng = random.Random(f"{seed}/world")  # noqa: S311 - replays
        self.folder = Path(tempfile.mkdtemp(prefix="world-", dir=_memory_folder()))
        self.data = self.folder / "data"
        self.data.mkdir()
        """The folder that jobs may read."""
        self.keys = self.folder / "keys.db"
        """The store of clients' keys; without it the routers ask for none."""
        self.rules = self.folder / "rules.toml"
        self.rules.write_text(rules)
        self._processes = itertools.count()
        self.trace = hashlib.sha256()
        """The digest of what happened."""
        self.lines: list[str] = []
        self.loop = SimLoop(seed)
        self.threads = VirtualThreads(self.loop)
        self.certificates = Certificates()
        self.bus = MeshBus(self.loop.network, random.Random(f"{seed}/mesh"))  # noqa: S311 - replays
        self.log = structlog.wrap_logger(
            None,
            processors=[self._logged],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        )
        self.routers = [
            self._host("router", Role.ROUTER, at, self._router) for at in range(routers)
        ]
        self.nodes = [self._host("node", Role.NODE, at, self._node) for at in range(nodes)]
        self._story: asyncio.Task[None]
        self.failures: list[BaseException] = []
        self.loop.set_exception_handler(self._broken)

    def play(self, story: Coroutine[Any, Any, None]) -> None:
        """Play `story` to its end; raises what it raises, or what broke in a process."""
        self._story = self.loop.create_task(story)
        try:
            self.loop.run_until_complete(self._story)
        except asyncio.CancelledError:
            raise self.failures[0] from None
        finally:
            for host in [*self.routers, *self.nodes]:
                self.kill(host)
            self.threads.end_all()
            self.loop.close()
            shutil.rmtree(self.folder)

    def say(self, text: str) -> None:
        """Take down what happened now."""
        line = f"{self.loop.time() - 1000:10.4f} {text}"
        self.trace.update(line.encode())
        self.lines.append(line)

    def wall_s(self) -> float:
        """Return the time of day where no clock is wrong, in seconds since 1970."""
        return members.START.timestamp() + self.loop.time() - 1000

    # hosts

    def start(self, host: Host) -> None:
        """Start a host's process."""
        host.machine = machine = Machine(host.address)
        host.starts += 1
        self.say(f"{host.name} starts")
        with machine.here():
            host.task = self.loop.create_task(self._run(host), name=host.name)

    def kill(self, host: Host) -> None:
        """End a host's process without another line of its code."""
        if host.machine is not None:
            self.say(f"{host.name} is killed")
            self.loop.kill(host.machine)
            if host.workers is not None:
                host.workers.kill()
            host.machine = host.process = host.task = host.workers = None

    def freeze(self, host: Host) -> None:
        """Let no code of a host run until `thaw`."""
        self.say(f"{host.name} is frozen")
        for each in host.machines:
            self.loop.freeze(each)

    def thaw(self, host: Host) -> None:
        """Let it go on."""
        self.say(f"{host.name} goes on")
        host.stood_until_s = self.loop.time()
        for each in host.machines:
            if each.is_halted:
                self.loop.thaw(each)

    async def _run(self, host: Host) -> None:
        try:
            host.process = host.start(host)
            await host.process.run()
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001 - it ends the story, which raises it
            if not self.loop.is_closed():  # else it is the garbage of a process that was killed
                self._break(exc)

    def _host(self, kind: str, role: Role, number: int, start: Callable[[Host], Any]) -> Host:
        name = f"{kind} {number}"
        folder = self.folder / name.replace(" ", "-")
        members.member(role, number).save(folder)
        address = f"20.0.{1 + (kind == 'node')}.{number + 1}"
        return Host(name, address, folder, start)

    def _system(self, host: Host) -> System:
        loop = self.loop
        rng = random.Random(f"{self.seed}/{host.name}/{next(self._processes)}")  # noqa: S311 - replays
        return System(
            steady_s=loop.time,
            work_s=loop.time,
            wall_ns=lambda: int((self.wall_s() + host.skew_s) * 1e9),
            rng=rng,
            token_bytes=rng.randbytes,
            threads=self.threads,
            make_wire=self.certificates.make_wire,
            is_virtual=True,
            has_figures=False,
        )

    def _router(self, host: Host) -> Router | MainProcess:
        settings = RouterSettings(
            data_folder=host.folder,
            http_host=host.address,
            http_port=HTTP_PORT,
            is_insecure=True,
            allowed_hosts=("*",),
            mesh_port=0,
            link_host=host.address,
            link_port=0,
            name=host.name.replace(" ", "-"),
            timeout_s=TIMEOUT_S,
            rules_file=self.rules,
            keys=str(self.keys),
            jobs=str(self.folder / "jobs.db"),
            jobs_folder=self.folder / "results",
            jobs_places=(str(self.data),),
            workers=self._workers or 1,
        )
        log, system = self.log.bind(host=host.name), self._system(host)
        if not self._workers:
            return Router(RouterParts(settings, log, self.loop, AloneSeat(self.bus), system))
        host.workers = Workers(self.loop, partial(self._system, host), log, self._break)
        seat = WorldMainSeat(self.bus, self.loop)
        system = replace(system, launch=host.workers.launch)
        return MainProcess(RouterParts(settings, log, self.loop, seat, system), seat)

    def _node(self, host: Host) -> WorldNode:
        number = self.nodes.index(host)
        return WorldNode(
            members.member(Role.NODE, number),
            host.folder,
            host.address,
            self.bus,
            self._system(host),
            self.log.bind(host=host.name),
            slowness=lambda: host.slowness,
            fault=lambda: host.fault,
            ran=host.ran.append,
        )

    def _logged(self, _: object, __: str, event: MutableMapping[str, Any]) -> str:
        said = " ".join(f"{key}={value}" for key, value in event.items())
        self.say(said.replace(str(self.folder), "FOLDER"))
        raise structlog.DropEvent

    def _broken(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exc = context.get("exception") or RuntimeError(context["message"])
        self._break(exc)

    def _break(self, exc: BaseException) -> None:
        """End the story with what must not happen in any process."""
        self.say(f"broken: {exc!r}")
        self.failures.append(exc)
        self._story.cancel()


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made in it
