"""The main process of a router that has workers: it is the member of the network, and they serve. IO: asyncio, signals, a socket."""

from __future__ import annotations

import asyncio
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.advertised_address import listen_reason, require_free
from capamesh.protocol.errors import ConfigError, InvalidRequest
from capamesh.protocol.ids import PeerId
from capamesh.protocol.loop_watch import LoopWatch
from capamesh.protocol.member_status import HEARTBEAT_S
from capamesh.router.fleet.membership import TICK_S
from capamesh.router.http.limits import memory_bytes
from capamesh.router.http.server import BACKLOG
from capamesh.router.page.history import BIN_S, History
from capamesh.router.page.history_answers import HistoryAnswers
from capamesh.router.process.addresses import tell_addresses
from capamesh.router.process.exposure import require_safe
from capamesh.router.process.job_parts import require_jobs
from capamesh.router.process.seat import WholeRouter
from capamesh.router.process.workers.crew import Crew, link_ports
from capamesh.router.process.workers.mesh import MainMesh
from capamesh.router.process.workers.messages import (
    Current,
    Drains,
    Forget,
    Held,
    Known,
    Lost,
    MeshState,
    Renewed,
    Revocations,
    ToMain,
    Up,
    held_of,
    hold_of,
)
from capamesh.router.telemetry.metrics import LATENCY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capamesh.router.process.parts import RouterParts
    from capamesh.router.process.workers.handle import WorkerHandle
    from capamesh.router.process.workers.messages import ToWorker

FIGURES_EVERY_S: Final = 2.0
"""Seconds between two tellings of what the page shows, as workers report it."""
KNOWN_BYTES: Final = 2**20
"""The bytes of envelopes in one message to a new worker (guess: a few hundred adverts)."""


class MainSeat(WholeRouter):
    """The seat of the main process: what it hears goes to the workers too."""

    def __init__(self) -> None:
        super().__init__()
        self.crew: Crew | None = None
        """The workers; None while they are not made."""
        self.make_mesh = partial(MainMesh, self.make_mesh, tell=self._tell, hear=self._hear)
        self.listening = listening
        """Takes the addresses at which clients come."""

    def command(self, main: MainProcess) -> None:
        """Hand on the orders that come to the main process from now on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, main.stop)
        loop.add_signal_handler(signal.SIGHUP, main.reload)
        loop.add_signal_handler(signal.SIGUSR2, main.replace)

    @override
    def renewed(self) -> None:
        self._tell(Renewed())

    def _tell(self, message: ToWorker) -> None:
        if self.crew is not None:
            self.crew.tell(message)

    def _hear(self, sender: PeerId, envelope: bytes) -> None:
        if self.crew is not None:
            self.crew.hear(sender, envelope)


class MainProcess:
    """The main process of one router."""

    def __init__(self, parts: RouterParts, seat: MainSeat) -> None:
        """Take the HTTP address; raise `ConfigError` when it, or one for links, cannot be had, or is not safe.

        `seat` is that of `parts`.
        """
        self._parts = parts
        self._seat = seat
        self._settings = settings = parts.settings
        require_safe(settings, asks_for_keys=parts.inference.ring.is_required)
        require_jobs(settings, parts.log)
        self._log = parts.log
        self._stop = asyncio.Event()
        if settings.link_port:
            for port in link_ports(settings):
                require_free(
                    settings.link_host, port, "--links, of which a router with workers has several"
                )
        self._clients = seat.listening(settings.http_host, settings.http_port, "--http")
        self._operators: list[socket.socket] = []
        if settings.metrics_host:
            self._operators = seat.listening(
                settings.metrics_host, settings.metrics_port, "--metrics-listen"
            )
        self._sockets = [*self._clients, *self._operators]
        self.crew = seat.crew = crew = Crew(
            settings,
            [each.fileno() for each in self._clients],
            [each.fileno() for each in self._operators],
            memory_bytes=memory_bytes(),
            own_counts=parts.telemetry.exposition,
            on_message=self._received,
            on_change=self._changed,
            system=parts.system,
            log=parts.log,
        )
        parts.standing.workers = crew
        self._history = History(crew.totals, bounds_s=LATENCY.bounds, clock=parts.clocks.steady_s)
        crew.history = HistoryAnswers(self._history)
        self._replacement: asyncio.Task[None] | None = None
        """The replacement of all workers that was begun last."""

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then let the workers finish the requests under way, and return.

        SIGHUP reads the rules anew, and looks at the token file; SIGUSR2 replaces the workers one by one.
        """
        parts = self._parts
        self._seat.command(self)
        self._say_address()
        parts.standing.write()
        watch = LoopWatch(self._log, parts.telemetry.loop_beat)
        if not parts.system.is_virtual:
            watch.start()
        last_fleet = parts.last_fleet.read()
        if last_fleet is not None:
            envelopes, lost = last_fleet
            parts.members.restore(envelopes)
            parts.lost.restore(lost)
        try:
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(each)
                    for each in (
                        parts.mesh.run(),
                        parts.announcer.run(),
                        parts.last_fleet.keep(),
                        self._tick(),
                        self._beat(),
                        self._sample(),
                        self._share(),
                    )
                ]
                self.crew.start()
                parts.standing.enter("serving")
                self._log.info(
                    "router_ready",
                    **parts.standing.client_addresses,
                    workers=self._settings.workers,
                )
                await self._stop.wait()
                parts.standing.enter("draining")
                self._log.info("router_draining", patience_s=self._settings.drain_s)
                for listening in self._sockets:
                    listening.close()
                if self._replacement is not None:
                    self._replacement.cancel()
                await self.crew.stop()
                for task in background:
                    task.cancel()
        finally:
            watch.stop()
            for listening in self._sockets:
                listening.close()
            parts.owners.close()
            parts.standing.enter("stopped")
            self._log.info("router_stopped")

    def _say_address(self) -> None:
        found = [each[0].getsockname()[:2] for each in (self._clients, self._operators) if each]
        tell_addresses(self._parts, found[0], found[1] if found[1:] else None)

    # what workers say

    def _received(self, worker: WorkerHandle, message: ToMain) -> None:
        parts = self._parts
        match message:
            case Up():
                self._brief(worker)
            case Held():
                parts.overrides.hold(hold_of(message))
            case Forget(peer):
                parts.lost.forget(PeerId(peer))
                self.crew.tell(message)
            case Revocations(data):
                self._take("revocations", lambda: parts.revocations.post(data))
            case Drains(data):
                self._take("drains", lambda: parts.drains.spread(data))
            case _:
                pass

    def _brief(self, worker: WorkerHandle) -> None:
        """Tell a new worker all that there is to know."""
        parts = self._parts
        if parts.mesh.addrs:
            worker.tell(MeshState(parts.mesh.addrs))
        for known in chunks(parts.last_envelopes()):
            worker.ask(Known(known))
        worker.ask(Lost(parts.lost.rows()))
        for peer in parts.overrides.peers:
            for hold in parts.overrides.of(peer):
                worker.ask(held_of(hold))
        worker.ask(Current())

    def _take(self, what: str, take: object) -> None:
        assert callable(take)  # noqa: S101 - as it was made
        try:
            take()
        except (
            InvalidRequest
        ) as error:  # the worker has checked it: it is older than what came meanwhile
            self._log.info("list_refused", list=what, error=error.message)

    def _changed(self) -> None:
        """Announce the addresses at which workers take links, if they are others."""
        addresses = self.crew.link_addresses
        standing = self._parts.standing
        if addresses and ", ".join(addresses) != standing.link_address:
            standing.link_address = ", ".join(addresses)
            self._parts.announcer.listening(*addresses)

    # what it is told

    def stop(self) -> None:
        """Let the workers finish the requests under way, and end."""
        self._stop.set()

    def reload(self) -> None:
        """Read the rules anew, and look at the membership, here and in the workers."""
        self._parts.supervisor.do("membership", self._parts.standing.beat)
        if self._settings.rules_file is not None:
            self._parts.reload(self._settings.rules_file)
        self.crew.reload()

    def replace(self) -> None:
        """Replace the workers one by one."""
        if self._replacement is None or self._replacement.done():
            self._replacement = asyncio.create_task(self.crew.replace())

    # turns of the loops

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._parts.supervisor.do("members", self._look_at_members)
            self._parts.supervisor.do("status", self._parts.standing.tick)
            self.crew.tick()

    def _look_at_members(self) -> None:
        parts = self._parts
        parts.members.tick()
        parts.drains.tick()
        parts.owners.tick()

    async def _beat(self) -> None:
        while True:
            self._parts.supervisor.do("membership", self._parts.standing.beat)
            await asyncio.sleep(HEARTBEAT_S)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(BIN_S)
            self._parts.supervisor.do("history", self._history.sample)

    async def _share(self) -> None:
        while True:
            await asyncio.sleep(FIGURES_EVERY_S)
            self._parts.supervisor.do("figures", lambda: self.crew.share(self._history.newest()))


def listening(host: str, port: int, option: str) -> list[socket.socket]:
    """Return sockets that listen on all addresses of a host; raise `ConfigError`, which names the `option`, when one cannot."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            shared = socket.socket(family, kind, protocol)
            sockets.append(shared)
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                shared.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            shared.bind(address)
            shared.listen(BACKLOG)
    except OSError as exc:
        for shared in sockets:
            shared.close()
        raise ConfigError(
            f"cannot listen for HTTP on {host}:{port}: {listen_reason(exc)}; give another {option}"
        ) from exc
    return sockets


def chunks(envelopes: list[bytes]) -> Iterator[tuple[bytes, ...]]:
    """Yield the envelopes, some at a time."""
    chunk: list[bytes] = []
    size_bytes = 0
    for envelope in envelopes:
        chunk.append(envelope)
        size_bytes += len(envelope)
        if size_bytes >= KNOWN_BYTES:
            yield tuple(chunk)
            chunk, size_bytes = [], 0
    if chunk:
        yield tuple(chunk)
