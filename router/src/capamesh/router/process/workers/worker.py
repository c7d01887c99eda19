"""The seat of a worker: what a router does once is the main process's to do, and a channel leads there. IO: the channel."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from capamesh.protocol.adverts import SequenceSource
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import ConfigError, ProtocolViolation, TooLarge
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import Role
from capamesh.router.access.operator_key import OperatorKey
from capamesh.router.fleet.overrides import Hold
from capamesh.router.http.elsewhere import METRICS, Elsewhere
from capamesh.router.page.others import OthersFigures, figures_of
from capamesh.router.process.parts import RouterParts
from capamesh.router.process.router import Router
from capamesh.router.process.seat import Controls, Seat
from capamesh.router.process.workers.histories import totals_values
from capamesh.router.process.workers.key_claims import WorkerClaims
from capamesh.router.process.workers.mesh import WorkerMesh
from capamesh.router.process.workers.messages import (
    Ask,
    Claimed,
    Counts,
    Current,
    Drains,
    Farewell,
    Figures,
    Forget,
    Gather,
    Heard,
    Held,
    Known,
    Lost,
    MeshState,
    Others,
    Part,
    Recall,
    Reload,
    Renewed,
    Revocations,
    Start,
    Status,
    ToMain,
    Up,
    Whole,
    from_wire,
    held_of,
    hold_of,
    settings_of,
    to_wire,
)

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.channel.asyncio_channel import AsyncioChannel
    from capamesh.protocol.channel.framing import Message
    from capamesh.protocol.system import System

COUNTS_EVERY_S: Final = 5.0
"""Seconds between two reports of the counts, which is what is lost of them if a worker is killed."""
FIGURES_EVERY_S: Final = 2.0
"""Seconds between two reports of what the page shows (guess: people look no closer)."""
GATHER_S: Final = 3.0
"""Seconds after which a page is shown as this worker has it alone: the main process has a shorter deadline of its own."""
SETTLE_S: Final = 2.0
"""Seconds for which a new worker waits for its links (guess: a dial takes some ms, and one node may be dead)."""
LOOK_S: Final = 0.02
"""Seconds between two looks whether all links are up."""
STOP: Final = "stop"


class WorkerHome(DataDir):
    """The data folder as a worker uses it: the main process holds the lock, and writes the status and the boot time."""

    def __init__(
        self,
        folder: Path,
        log: FilteringBoundLogger,
        report: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`report` takes the status."""
        super().__init__(folder, log)
        self._report = report

    @override
    def lock(self) -> None:
        """Do nothing: the main process holds the lock for as long as it lives."""

    @override
    def write_status(self, status: Mapping[str, Any]) -> bool:
        self._report(status)
        return True

    @override
    def next_boot_ns(self, time_ns: int) -> int:
        return time_ns

    @override
    def current(self, source: SequenceSource, time_ns: int) -> SequenceSource:
        return source


class Colleagues(Elsewhere):
    """The other processes of a worker's router, reached by the main one."""

    def __init__(self, send: Callable[[ToMain], bool]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    @override
    async def whole(self, page: str, own: bytes) -> bytes:
        number = next(self._numbers)
        return await self._answer(number, Gather(number, page, own), own)

    @override
    async def hold(self, hold: Hold) -> None:
        number = next(self._numbers)
        await self._answer(number, held_of(hold, number), b"")

    @override
    def forget(self, peer: PeerId) -> None:
        self._send(Forget(peer))

    def answered(self, whole: Whole) -> None:
        """Take what the main process answered."""
        waiting = self._waiting.get(whole.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(whole.body)

    async def _answer(self, number: int, question: Gather | Held, instead: bytes) -> bytes:
        """Return the answer to a question, or `instead` where none comes."""
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            if not self._send(question):
                return instead
            async with asyncio.timeout(GATHER_S):
                return await waiting
        except TimeoutError:
            return instead
        finally:
            del self._waiting[number]


class WorkerSeat(Seat):
    """The seat of one worker."""

    def __init__(
        self,
        channel: AsyncioChannel,
        shared: Sequence[socket.socket],
        shared_metrics: Sequence[socket.socket],
        log: FilteringBoundLogger,
    ) -> None:
        """`shared` are the sockets on which HTTP comes to all workers, `shared_metrics` those on which operators do."""
        self.is_main = False
        self.shared = shared
        self.shared_metrics = shared_metrics
        self.colleagues = self.elsewhere = Colleagues(self.send)
        self.make_mesh = partial(self._joined, send=self.send)
        self.others = OthersFigures()
        self._channel = channel
        self._log = log
        self._mesh: WorkerMesh
        self._controls: Controls
        self._parts: RouterParts
        self._claims: WorkerClaims
        self._is_current = asyncio.Event()
        self._parts_made: set[asyncio.Task[None]] = set()

    def serve(self, parts: RouterParts) -> None:
        """Go by these parts, which were made with this seat."""
        self._parts = parts
        repeated = parts.request_parts.repeated
        self._claims = repeated.claims = WorkerClaims(
            self.send, repeated, parts.balancer, parts.settings.limits, clock=parts.routing.clock
        )

    def send(self, message: ToMain) -> bool:
        """Send a message to the main process; return False where it cannot be sent."""
        try:
            return self._channel.send(to_wire(message))
        except (ProtocolViolation, TooLarge) as error:
            self._log.warning("message_not_sent", message=message.TYPE, error=error.message)
            return False

    @override
    def take_home(self, folder: Path, log: FilteringBoundLogger) -> DataDir:
        return WorkerHome(folder, log, lambda status: void(self.send(Status(dict(status)))))

    @override
    def operator_key(self, folder: Path) -> OperatorKey:
        return OperatorKey.kept(folder)

    @override
    def obey(self, controls: Controls) -> None:
        self._controls = controls

    @override
    def renewed(self) -> None:
        """Do nothing: the main process has renewed it, and told all."""

    @override
    async def settle(self) -> None:
        """Wait until it has heard what there is to hear, and has the links that can be had."""
        await self._is_current.wait()
        endpoints = self._parts.fleet.endpoints
        try:
            async with asyncio.timeout(SETTLE_S):
                while any(each.link is None for each in endpoints()):  # noqa: ASYNC110 - links tell others
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            return

    @override
    async def run(self) -> None:
        self.send(Up())
        async with asyncio.TaskGroup() as tasks:
            reports = [tasks.create_task(each) for each in (self._report(), self._tell_figures())]
            try:
                async for message in self._channel.messages():
                    if message["type"] == STOP:
                        self._stop()
                    else:
                        self._parts.supervisor.do("channel", partial(self._take, message))
            finally:
                for each in reports:
                    each.cancel()
        self._stop()  # the main process is gone
        await asyncio.Event().wait()

    async def farewell(self) -> None:
        """Report the counts for the last time, and take leave."""
        await self._count()
        self.send(Farewell())
        await self._channel.drain()

    def _joined(self, *arguments: Any, **options: Any) -> WorkerMesh:  # noqa: ANN401 - as handed on
        self._mesh = WorkerMesh(*arguments, **options)
        return self._mesh

    def _stop(self) -> None:
        self._controls.stop()
        self._is_current.set()  # nothing is to be waited for any more

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(COUNTS_EVERY_S)
            await self._count()

    async def _tell_figures(self) -> None:
        while True:
            await asyncio.sleep(FIGURES_EVERY_S)
            self.send(Figures(*figures_of(self._parts.fleet)))

    async def _count(self) -> None:
        body = await self._controls.part(METRICS)
        self.send(Counts(body, totals_values(self._controls.totals())))

    def _take(self, raw: Message) -> None:
        parts = self._parts
        match from_wire(raw):
            case Heard(data):
                self._mesh.heard(data)
            case Known(envelopes):
                parts.members.restore(envelopes)
            case Lost(nodes):
                parts.lost.restore(nodes)
            case Forget(peer):
                parts.lost.forget(PeerId(peer))
            case Current():
                self._is_current.set()
            case MeshState(addrs):
                self._mesh.turned(addrs)
            case Revocations(data):
                self._mesh.heard_revocations(data)
            case Drains(data):
                self._mesh.heard_drains(data)
            case Renewed():
                self._renew()
            case Reload():
                self._controls.reload()
            case Held() as held:
                self._controls.take(hold_of(held))
                self.send(Part(held.number, b""))
            case Ask(number, page):
                self._begin(self._answer(number, page))
            case Others(links, models, traffic):
                self.others.take(links, models, traffic)
            case Whole() as whole:
                self.colleagues.answered(whole)
            case Claimed() as claimed:
                self._claims.claimed(claimed)
            case Recall() as recall:
                self._claims.recalled(recall)
            case other:
                raise ProtocolViolation(f"a worker was sent {other.TYPE!r}, which it sends itself")

    def _renew(self) -> None:
        try:
            self._parts.upkeep.renewed(
                self._parts.home.membership(None, Role.ROUTER, self._parts.system.now())
            )
        except ConfigError as error:
            self._log.error("membership_not_renewed", error=error.message)

    async def _answer(self, number: int, page: str) -> None:
        body = b""
        if page == METRICS:
            await self._count()  # before its part, which is then that this was sent
        else:
            body = await self._controls.part(page)
        self.send(Part(number, body))

    def _begin(self, answer: Awaitable[None]) -> None:
        task = asyncio.ensure_future(answer)
        self._parts_made.add(task)
        task.add_done_callback(self._parts_made.discard)


async def serve_worker(
    channel: AsyncioChannel,
    shared: Sequence[socket.socket],
    shared_metrics: Sequence[socket.socket],
    system: System,
    log: FilteringBoundLogger,
    made: Callable[[Router], None],
) -> None:
    """Serve until the main process says stop or is gone; `made` is told once all is read in."""
    async for message in channel.messages():
        start = from_wire(message)
        assert isinstance(start, Start)  # noqa: S101 - what a main process sends first
        log = log.bind(process="worker", worker=start.number)
        seat = WorkerSeat(channel, shared, shared_metrics, log)
        loop = asyncio.get_running_loop()
        parts = RouterParts(settings_of(start.settings), log, loop, seat, system)
        seat.serve(parts)
        router = Router(parts)
        made(router)
        await router.run()
        await seat.farewell()
        return


def void(_: object) -> None:
    """Take a value that nobody needs."""
