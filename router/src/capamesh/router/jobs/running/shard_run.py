"""One shard from its lease to the manifest that is to be committed. IO: its input and its part, in threads; calls to nodes.

A window of rows is read while the one before is sent, and no further ahead; its rows are cut into full batches, each of which waits
for room in the model's lane and is one call. What comes back is kept until all is there, and then written as one part.
Whoever cancels `run` ends all of it at once: calls are withdrawn, and nothing is left in the lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from capamesh.protocol.errors import NoEndpoint
from capamesh.protocol.tensors import Tensor
from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES
from capamesh.router.jobs.inputs.rows import REQUEST_ROWS, RowBatch, RowWindow, part_of
from capamesh.router.jobs.running.bisection import Bisection
from capamesh.router.jobs.running.errors import JobHeld, ShardFailed, ShardGivenBack, first_of
from capamesh.router.jobs.running.hosted_rows import classified_rows, out_row_bytes
from capamesh.router.jobs.running.job_prices import JobPrices, paid_rows
from capamesh.router.jobs.running.nodes import BulkCall, Ended
from capamesh.router.jobs.running.packing import Packer
from capamesh.router.jobs.running.shard_results import ShardResults
from capamesh.router.jobs.running.trials import TRIES, search
from capamesh.router.jobs.running.verdict import (
    Verdict,
    is_proven_death,
    judge,
    rest_s,
    told,
    wait_s,
)
from capamesh.router.jobs.spec import InputFormat
from capamesh.router.jobs.values import BadRow, Manifest

if TYPE_CHECKING:
    from capamesh.router.jobs.outputs.sink import Sink
    from capamesh.router.jobs.readers.input_reading import InputReading, InThread
    from capamesh.router.jobs.running.bisection import Trial
    from capamesh.router.jobs.running.call_counts import CallCounts
    from capamesh.router.jobs.running.lane import Ticket
    from capamesh.router.jobs.running.model_work import ModelWork
    from capamesh.router.jobs.running.nodes import Hosting, Nodes
    from capamesh.router.jobs.values import Job, Lease

FAILED_TWICE: Final = 2
"""The runs of a batch that fail before its rows are suspected."""
DEAD_OFTEN: Final = 3
"""The ends of whole nodes that a batch is in before its rows are suspected (guess: nodes end by themselves, too)."""

_Told = TypeVar("_Told")


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools that all shards of a router are run with."""

    nodes: Nodes
    in_thread: InThread
    clock: Callable[[], float]
    """Seconds; it never goes back."""
    calls: CallCounts
    prices: JobPrices


class ShardRun:
    """The work on one shard."""

    def __init__(
        self, job: Job, lease: Lease, work: ModelWork, hosting: Hosting, tools: Tools
    ) -> None:
        self.job = job
        self.lease = lease
        self.work = work
        self._hosting = hosting
        self._tools = tools
        self.results = ShardResults(lease, job.spec)
        self._names: dict[str, str] = {}
        """The names of nodes for people, by their ids."""
        self._unsent_rows = lease.range.rows
        out_bytes = lease.range.rows * out_row_bytes(hosting)
        self._out_bytes = min(out_bytes, MAX_SHARD_BYTES)
        self.planned_bytes = lease.range.size_bytes + self._out_bytes
        """The bytes of its rows, until all have results, and of these, as far as the plan tells."""
        self.may_begin = asyncio.Event()
        """The event that there is room for it here."""

    @property
    def unsent_rows(self) -> int:
        """Return the rows that were not sent yet; of requests with several rows each, fewer."""
        return max(0, self._unsent_rows)

    @property
    def _nodes_now(self) -> frozenset[str]:
        """The nodes that host the model now: a shard is at work for seconds, and they come and go."""
        hosted = self.work.hosted
        return frozenset() if hosted is None else hosted.nodes

    async def run(self, reading: InputReading, sink: Sink) -> tuple[Manifest, list[BadRow]]:
        """Do the work, and return the manifest and the bad rows, which are to be committed.

        Raises:
            ShardEnd: the shard cannot be done now, or the job never.
            CapameshError: what the input or the output raised.
        """
        try:
            async with aclosing(self._batches(reading)) as batches, asyncio.TaskGroup() as tasks:
                async for batch in batches:
                    ticket = await self._room(batch.rows)
                    self._unsent_rows -= batch.rows
                    task = tasks.create_task(self._run_batch(batch, ticket))
                    # one that is cancelled before it begins does not come to its own end
                    task.add_done_callback(partial(_leave, ticket))
        except BaseExceptionGroup as group:
            raise first_of(group) from None
        finally:
            self.work.pump()
        self.planned_bytes = self._out_bytes
        return await self._tools.in_thread(lambda: self.results.write(sink))

    # rows

    async def _batches(self, reading: InputReading) -> AsyncGenerator[RowBatch]:
        """Yield the rows in full batches, and read the next window meanwhile."""
        spec, work = self.job.spec.input, self.work
        # of what the node makes the model's inputs first, nobody knows how long that takes
        is_plain = (
            spec.format is not InputFormat.BATCH
            and spec.columns.keys() <= self._hosting.inputs.keys()
        )
        classified = classified_rows(self._hosting, self.job.spec.output.classes)
        packer = Packer(
            lambda: min(work.batch_rows, classified),
            lambda: min(work.call_rows if is_plain else work.batch_rows, classified),
        )
        windows = reading.windows(self.job, self.lease.range, self._hosting.known_inputs)
        coming = asyncio.ensure_future(anext(windows, None))
        try:
            while (window := await coming) is not None:
                coming = asyncio.ensure_future(anext(windows, None))
                for batch in self._cut(window, packer):
                    yield batch
        finally:
            coming.cancel()
            await asyncio.wait({coming})
            if not coming.cancelled():
                coming.exception()  # nobody waits for it any more
            await windows.aclose()
        for batch in packer.rest():
            yield batch

    def _cut(self, window: RowWindow, packer: Packer) -> Iterator[RowBatch]:
        self.results.sha256 = window.sha256
        self.results.take_bad(window.bad)
        self._unsent_rows -= len(window.bad)
        for batch in window.batches:
            yield from packer.add(batch)

    # calls

    async def _room(self, rows: int, *, is_again: bool = False, is_trial: bool = False) -> Ticket:
        """Return a ticket once there is room for a call; whoever has it gives it back."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = self.work.lane.ask(
            self.job.id,
            rows,
            partial(_tell, granted, None),
            is_again=is_again,
            is_trial=is_trial,
        )
        try:
            self.work.pump()
            await granted
        except BaseException:
            ticket.leave()
            raise
        return ticket

    async def _run_batch(self, batch: RowBatch, ticket: Ticket) -> None:
        """Send a batch until there is a result for each of its rows, or a reason why there is none."""
        failures = runs_failed = deaths = 0
        not_at: frozenset[str] = frozenset()
        while True:
            ended, is_suspect = await self._call(batch, ticket, failures, not_at=not_at)
            verdict = judge(ended, batch.rows)
            runs_failed += verdict is Verdict.FAILED
            if verdict is Verdict.ANSWERED:
                self._keep(batch, ended)
                return
            if verdict is Verdict.NOBODY and not not_at:
                raise JobHeld(told(ended))
            if verdict is Verdict.REFUSED or runs_failed >= FAILED_TWICE:
                await self._find_wrong(batch, ended)
                return
            deaths += verdict is Verdict.DIED
            if is_suspect or deaths >= DEAD_OFTEN:
                self.work.suspect()
                await self._find_deadly(batch, ended.node)
                return
            failures += 1
            if failures >= TRIES:
                words = f"rows {batch.numbers[0]} to {batch.numbers[-1]}: {told(ended)}"
                raise ShardGivenBack(words) if verdict is Verdict.UNSENT else ShardFailed(words)
            # elsewhere, if there is another node: the one that failed may be wedged
            others = self._nodes_now - {ended.node}
            not_at = frozenset((ended.node,)) if ended.node and others else frozenset()
            await asyncio.sleep(rest_s(failures))
            ticket = await self._room(batch.rows, is_again=True)

    async def _find_wrong(self, batch: RowBatch, ended: Ended) -> None:
        """Find the rows that nodes refuse, or on which the model fails."""
        bisection = Bisection(batch.rows, has_other_node=len(self._nodes_now) > 1)
        code = "peer_error" if ended.error is None else ended.error.code
        bisection.begin_refused(code, told(ended), ended.node)
        await self._search(batch, bisection, "")

    async def _find_deadly(self, batch: RowBatch, node: str) -> None:
        """Find the rows of which workers end: each runs alone, once, and not at `node` at first, which has just lost its worker.

        Of a call of many batches the one is looked for first that ends a worker by itself: only its rows run alone.
        """
        rows = self.work.batch_rows
        if batch.rows > rows:
            for first in range(0, batch.rows, rows):
                part = part_of(batch, first, first + rows)
                await self._run_batch(part, await self._room(part.rows, is_again=True))
            return
        bisection = Bisection(batch.rows, has_other_node=len(self._nodes_now) > 1)
        bisection.begin_died()
        await self._search(batch, bisection, node)

    async def _search(self, batch: RowBatch, bisection: Bisection, lost: str) -> None:
        async with AsyncExitStack() as stack:
            trials = _Trials(self, stack, lost)
            bad = await search(batch, bisection, trials.run, self._keep)
        self.results.take_bad(
            [replace(each, node=self._names.get(each.node, each.node)) for each in bad]
        )

    async def run_trial(self, rows: RowBatch, not_at: str, failures: int) -> tuple[Ended, bool]:
        """Run rows as one call at any node but one."""
        ticket = await self._room(rows.rows, is_again=True)
        names = frozenset((not_at,)) if not_at else frozenset[str]()
        return await self._call(rows, ticket, failures, not_at=names)

    async def run_alone(self, rows: RowBatch, node: str, failures: int) -> tuple[Ended, bool]:
        """Run a row at the node that is kept free for it."""
        ticket = await self._room(rows.rows, is_trial=True)
        return await self._call(rows, ticket, failures, only_at=node)

    async def _call(
        self,
        batch: RowBatch,
        ticket: Ticket,
        failures: int,
        *,
        only_at: str = "",
        not_at: frozenset[str] = frozenset(),
    ) -> tuple[Ended, bool]:
        """Send rows with a ticket, again while no node has room, and return the end and whether they are suspected of a worker's."""
        rows = batch.rows
        while True:
            ended, is_suspect = await self._send(
                batch, ticket, failures, only_at=only_at, not_at=not_at
            )
            verdict = judge(ended, rows)
            if verdict is Verdict.OVER_QUOTA:
                raise JobHeld(told(ended))
            if verdict is not Verdict.FULL:
                return ended, is_suspect
            await asyncio.sleep(wait_s(ended.error))
            ticket = await self._room(rows, is_again=True, is_trial=ticket.is_trial)

    async def _send(
        self,
        batch: RowBatch,
        ticket: Ticket,
        failures: int,
        *,
        only_at: str,
        not_at: frozenset[str],
    ) -> tuple[Ended, bool]:
        lane, tools = self.work.lane, self._tools
        rows, asked_not_at = batch.rows, not_at
        if lane.reserved and not ticket.is_trial and not lane.is_only_node:
            not_at |= {lane.reserved}
        if not only_at:
            not_at |= self.work.full_nodes(not_at)
        ending: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        began_s = tools.clock()
        try:
            outputs, classes = self._asked(batch)
            allowed_s = lane.allowed_s(rows, self._hosting.slow_row_s, failures)
            call = BulkCall(
                self.job,
                self._tensors(batch),
                rows,
                allowed_s if batch.form is None else max(allowed_s, batch.form.least_s),
                outputs,
                classes,
                only_at,
                not_at,
            )
            started = tools.nodes.start(call, partial(self._ended, batch, ending))
            ticket.sent(started)
            try:
                ended = await ending
            finally:
                started.cancel()
            verdict = judge(ended, rows)
            if verdict is Verdict.NOBODY and not_at != asked_not_at:
                # the node that is kept free, or has all that it may have, is the only one that is there now
                ended = replace(ended, error=NoEndpoint(told(ended)))
                verdict = judge(ended, rows)
            tools.calls.count(verdict)
            word = tools.nodes.word_of(ended.node)
            is_first = verdict is Verdict.DIED and lane.is_suspect(ticket)
            is_proven = is_proven_death(ended)
            self._names[ended.node] = ended.name
        finally:
            self.work.left(ticket)
        now_s = tools.clock()
        if verdict is Verdict.ANSWERED and ended.answer is not None:
            queue_s, run_s = ended.answer.queue_us / 1e6, ended.answer.run_us / 1e6
            lane.answered(rows, now_s - began_s, queue_s, run_s, now_s)
            self.results.run_s += run_s
        elif verdict is Verdict.FULL:
            lane.refused(now_s)
        if is_first and not is_proven:
            is_proven = await self.work.has_outlived(ended.node, word)
        return ended, is_proven

    def _ended(self, batch: RowBatch, ending: asyncio.Future[Ended], ended: Ended) -> None:
        """Take in the end of a call. Its price is due as soon as it is answered, whoever waits for that still."""
        if judge(ended, batch.rows) is Verdict.ANSWERED and ended.answer is not None:
            paid = paid_rows(batch, ended.answer)
            self._tools.prices.add(self.job.id, paid, ended.price_per_million)
        _tell(ending, ended)

    def _asked(self, batch: RowBatch) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the outputs that are asked for, none for all, and how many classes of each, none for no classes."""
        if batch.form is not None:
            return batch.form.outputs, ()
        classes = self.job.spec.output.classes
        if not classes:
            return self._hosting.outputs_for(batch.inputs), ()
        names = tuple(spec.name for spec in self._hosting.outputs)
        return names, tuple(classes.get(name, 0) for name in names)

    def _tensors(self, batch: RowBatch) -> tuple[Tensor, ...]:
        """Return a batch as the model's inputs, of shape [rows, *row_shape], which share its memory but for BYTES."""
        if batch.form is not None:
            return batch.form.tensors(batch.inputs[REQUEST_ROWS].tolist())
        return tuple(
            Tensor.from_numpy(name, array, self._hosting.known_inputs[name].datatype)
            for name, array in batch.inputs.items()
        )

    def _keep(self, batch: RowBatch, ended: Ended) -> None:
        assert ended.answer is not None  # noqa: S101 - it was judged so
        self.results.keep(batch, ended.answer)


class _Trials:
    """The trials of one search: from the first row on that runs alone, a node is kept free for them."""

    def __init__(self, run: ShardRun, stack: AsyncExitStack, lost: str) -> None:
        self._run = run
        self._stack = stack
        self._lost = lost
        """The node that has lost its worker last; "": none has."""
        self._is_kept_free = False

    async def run(self, rows: RowBatch, trial: Trial, failures: int) -> tuple[Ended, bool]:
        """Run a trial as one call."""
        if not trial.is_single_try:
            return await self._run.run_trial(rows, trial.not_at, failures)
        work = self._run.work
        if not self._is_kept_free:
            self._is_kept_free = True
            await self._stack.enter_async_context(work.kept_free(self._lost))
        not_at = trial.not_at or (work.lane.reserved if failures or self._lost else "")
        node = await work.free_node(not_at)
        ended, is_suspect = await self._run.run_alone(rows, node, failures)
        self._lost = node if is_suspect else ""
        return ended, is_suspect


def _tell(future: asyncio.Future[_Told], told: _Told) -> None:
    """Resolve a future, unless whoever waited for it has been cancelled."""
    if not future.done():
        future.set_result(told)


def _leave(ticket: Ticket, _task: asyncio.Task[None]) -> None:
    ticket.leave()
