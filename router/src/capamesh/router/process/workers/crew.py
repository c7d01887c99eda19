"""All workers of a router: what they are told, what they answer together, and how one is replaced. IO: processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from capamesh.router.http.elsewhere import HISTORY, METRICS, NODES, REQUESTS
from capamesh.router.page.others import added as added_figures
from capamesh.router.process.workers import merging
from capamesh.router.process.workers.gathering import Gathering
from capamesh.router.process.workers.handle import WorkerHandle
from capamesh.router.process.workers.histories import added, ended, totals_values
from capamesh.router.process.workers.key_ledger import KeyLedger
from capamesh.router.process.workers.messages import (
    Ask,
    Claim,
    Counts,
    Drains,
    Farewell,
    Figures,
    Gather,
    Held,
    Others,
    Part,
    Recalled,
    Reload,
    Revocations,
    Start,
    Status,
    ToMain,
    ToWorker,
    Unclaim,
    Up,
    Whole,
    settings_values,
)
from capamesh.router.process.workers.shares import worker_settings
from capamesh.router.telemetry.summing import Sum

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.system import System
    from capamesh.router.page.history import Totals
    from capamesh.router.page.history_answers import HistoryAnswers
    from capamesh.router.settings import RouterSettings

REPLACED_S: Final = 60.0
"""Seconds that a new worker may take until it serves; if it takes more, the old one stays (guess: a cold disk)."""


class Crew:
    """The workers of one router."""

    def __init__(
        self,
        settings: RouterSettings,
        http_fds: Sequence[int],
        metrics_fds: Sequence[int],
        *,
        memory_bytes: int,
        own_counts: Callable[[], bytes],
        on_message: Callable[[WorkerHandle, ToMain], None],
        on_change: Callable[[], None],
        system: System,
        log: FilteringBoundLogger,
    ) -> None:
        """`on_message` is told what is not the crew's own matter, `on_change` that a worker's status is another.

        `own_counts` returns the metrics of the main process itself.
        """
        self._settings = settings
        self._fds = http_fds, metrics_fds
        self._memory_bytes = memory_bytes
        self._own_counts = own_counts
        self._on_message = on_message
        self._on_change = on_change
        self._log = log
        self.history: HistoryAnswers
        self._workers: dict[WorkerHandle, asyncio.Task[None]] = {}
        self._gathering = Gathering()
        self._system = system
        self._keys = KeyLedger(system.steady_s)
        self._gone = Sum()
        """The counts of processes that are gone."""
        self._gone_totals: dict[str, Any] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._ports: dict[WorkerHandle, int] = {}

    # their life

    def start(self) -> None:
        """Start all workers."""
        for number in range(1, self._settings.workers + 1):
            self._add(number)

    async def stop(self) -> None:
        """Let all finish their requests, and return when they are gone."""
        await asyncio.gather(*(self._end(worker) for worker in list(self._workers)))

    async def replace(self) -> None:
        """Replace the workers one by one: the old one serves until the new one does, and finishes what it has."""
        for old in list(self._workers):
            new = self._add(old.number)
            if await self._is_up(new):
                await self._end(old)
                self._log.info("worker_replaced", worker=old.number, pid=new.pid)
            else:
                await self._end(new)
                self._log.error("worker_not_replaced", worker=old.number)

    def _add(self, number: int) -> WorkerHandle:
        port = self._free_port()

        def opening() -> Start:
            mine = worker_settings(self._settings, self._memory_bytes, port)
            return Start(number, settings_values(mine))

        worker = WorkerHandle(
            number,
            opening,
            *self._fds,
            on_message=self._received,
            on_down=self._lost,
            drain_s=self._settings.drain_s,
            launch=self._system.launch,
            log=self._log,
        )
        self._ports[worker] = port
        self._workers[worker] = asyncio.create_task(worker.run(), name=f"worker {number}")
        return worker

    def _free_port(self) -> int:
        """Return a port for links that no worker has: there is one more than there are workers."""
        first = self._settings.link_port
        if not first:
            return 0
        taken = set(self._ports.values())
        return next(port for port in link_ports(self._settings) if port not in taken)

    async def _end(self, worker: WorkerHandle) -> None:
        await worker.finish()
        task = self._workers[worker]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        worker.forget()
        del self._workers[worker], self._ports[worker]
        self._on_change()

    async def _is_up(self, worker: WorkerHandle) -> bool:
        try:
            async with asyncio.timeout(REPLACED_S):
                await worker.serves.wait()
        except TimeoutError:
            return False
        return True

    # what they are told and say

    def tell(self, message: ToWorker) -> None:
        """Send a message to each."""
        for worker in self._workers:
            worker.tell(message)

    def hear(self, sender: PeerId, envelope: bytes) -> None:
        """Pass an envelope on to each."""
        for worker in self._workers:
            worker.hear(sender, envelope)

    def tick(self) -> None:
        """Send what workers are owed."""
        for worker in self._workers:
            worker.flush()

    def share(self, traffic: dict[str, dict[str, float]]) -> None:
        """Tell each what the page shows of the others, and the traffic of each model at all of them."""
        for worker in self._others(None):
            others = added_figures(each.figures for each in self._others(worker))
            worker.ask(Others(*others, traffic))

    def reload(self) -> None:
        """Let each read the rules anew."""
        self.tell(Reload())

    def now(self) -> tuple[str, str]:
        """Return the state of the router by its workers, and the reason: that of the best of them."""
        found = [(str(one.get("state")), str(one.get("reason", ""))) for one in self._statuses()]
        return next((each for each in found if each[0] == "ready"), None) or next(
            iter(found), ("starting", "its workers are not up yet")
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return what the router's status says of each."""
        return [worker.row for worker in sorted(self._workers, key=lambda each: each.number)]

    @property
    def link_addresses(self) -> tuple[str, ...]:
        """The addresses at which nodes dial them."""
        return tuple(worker.link_address for worker in self._workers if worker.link_address)

    def totals(self) -> Totals:
        """Return what all have counted since the router was started, those included that are gone."""
        parts = [worker.history for worker in self._workers if worker.history]
        return added([*parts, self._gone_totals] if self._gone_totals else parts)

    def _statuses(self) -> Iterator[Mapping[str, Any]]:
        return (worker.status for worker in self._workers if worker.is_serving)

    def _received(self, worker: WorkerHandle, message: ToMain) -> None:
        match message:
            case Part():
                self._gathering.answered(worker, message)
            case Gather():
                if message.page == METRICS:
                    worker.counts = message.body
                self._begin(self._make_whole(worker, message))
            case Held():
                self._on_message(worker, message)
                self._begin(self._hold(worker, message))
            case Status():
                self._on_change()
            case Claim() | Unclaim() | Recalled():
                self._keys.received(worker, message)
            case Counts() | Figures() | Farewell():
                pass
            case Up() | Revocations() | Drains():
                self._on_message(worker, message)

    def _lost(self, worker: WorkerHandle) -> None:
        """Keep what a worker has counted that is gone."""
        self._gathering.lost(worker)
        self._keys.lost(worker)
        if worker.counts:
            self._gone.add_counts(worker.counts)
        if worker.history:
            gone = ended(worker.history)
            known = self._gone_totals
            self._gone_totals = gone if not known else totals_values(added([known, gone]))
        self._on_change()

    # pages

    async def _make_whole(self, worker: WorkerHandle, gather: Gather) -> None:
        name, _, rest = gather.page.partition("/")
        try:
            body = await self._whole(worker, gather, name, rest)
        except (
            ValueError,
            KeyError,
            TypeError,
        ):  # a bug of ours: the page of one is better than none
            self._log.exception("page_not_whole", page=name)
            body = gather.body
        worker.ask(Whole(gather.number, body))

    async def _whole(self, worker: WorkerHandle, gather: Gather, name: str, rest: str) -> bytes:
        if name == HISTORY:
            span, _, model = rest.partition("/")
            return self.history.answer(model, int(span)).plain
        others = self._others(worker)
        parts = await self._gathering.ask(others, lambda number: Ask(number, gather.page))
        if name == METRICS:
            return self._metrics()
        bodies = [gather.body, *(body for body in parts.values() if body)]
        if name == REQUESTS:
            return merging.merged_requests(bodies)
        if name == NODES:
            return merging.merged_node(bodies) if rest else merging.merged_nodes(bodies)
        return gather.body

    def _metrics(self) -> bytes:
        """Return the newest metrics of all; each has sent its own before its part, so that no count ever goes back."""
        whole = Sum()
        for worker in self._workers:
            if worker.counts:
                whole.add(worker.counts)
        whole.add(self._own_counts())
        whole.add_counts(self._gone.text())
        return whole.text()

    async def _hold(self, worker: WorkerHandle, held: Held) -> None:
        """Let all others take the operator's word, and tell the one that heard it when they have."""
        await self._gathering.ask(self._others(worker), lambda number: replace(held, number=number))
        worker.ask(Whole(held.number, b""))

    def _others(self, worker: WorkerHandle | None) -> list[WorkerHandle]:
        return [each for each in self._workers if each is not worker and each.is_up]

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)


def link_ports(settings: RouterSettings) -> range:
    """Return the ports on which workers take links: one for each, and one for the worker that replaces another."""
    return range(settings.link_port, settings.link_port + settings.workers + 1)
