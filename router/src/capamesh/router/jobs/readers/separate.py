"""Reads inputs of jobs in processes of their own. IO: those, and the files whose bytes they are given, in threads."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Container, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.schema import plain_values, read
from capamesh.router.jobs.errors import InputInvalid, ReaderEnded
from capamesh.router.jobs.inputs.limits import MAX_ID_CHARS, MAX_SHARD_ROWS, PIECE_RANGES
from capamesh.router.jobs.inputs.rows import RowWindow, finished
from capamesh.router.jobs.readers import words
from capamesh.router.jobs.readers.input_reading import InputReading
from capamesh.router.jobs.readers.pool import Use
from capamesh.router.jobs.readers.process import FilesToRead
from capamesh.router.jobs.readers.wire import unpacked
from capamesh.router.jobs.spec import Encoding, InputFormat, InputSpec
from capamesh.router.jobs.values import Job, JobId, RowRange

if TYPE_CHECKING:
    from capamesh.protocol.channel.framing import Message
    from capamesh.protocol.tensor_spec import TensorSpec
    from capamesh.router.jobs.inputs.limits import ShardLimits
    from capamesh.router.jobs.inputs.source import Sources
    from capamesh.router.jobs.readers.input_reading import InThread, ReadHere
    from capamesh.router.jobs.readers.pool import Loan, Readers
    from capamesh.router.jobs.readers.process import ReaderProcess


MOST_CHARS: Final = 4000
"""The most characters of a message or a fingerprint that are taken of a reader (guess)."""
MOST_GROUPS: Final = 2**31
MOST_OFFSET: Final = 2**63
"""The bounds of a store's columns."""
DIGEST_BYTES: Final = (0, 32)
"""The bytes of a range's digest."""
MOST_EMPTY: Final = 1000
"""The most windows without a row one after the other (guess: of an honest range few have none)."""
NONSENSE: Final = (
    ArithmeticError,
    LookupError,
    ProtocolViolation,
    RecursionError,
    TypeError,
    ValueError,
)
"""The errors of reading a message that no reader sends: its file has taken hold of it."""


class ReadSeparately(InputReading):
    """Reads files in other processes, and folders, whose files are not looked into, here."""

    def __init__(
        self, readers: Readers, sources: Sources, in_thread: InThread, here: ReadHere
    ) -> None:
        """`here` reads folders."""
        self._readers = readers
        self._sources = sources
        self._in_thread = in_thread
        self._here = here

    @override
    async def look(self, spec: InputSpec, tenant: str) -> int | None:
        if spec.format is InputFormat.FOLDER:
            return await self._here.look(spec, tenant)
        files = await self._in_thread(partial(self._files, spec, tenant))
        # a file that is not there is told before what is wrong in it
        await self._in_thread(files.stamp)
        async with self._loan(Use.LOOK, tenant, files) as loan:
            task = _Task(loan, files, {"type": words.LOOK, **_input(spec, files)})
            found = await task.next()
            rows = None if found is None else found["rows"]
        return rows if isinstance(rows, int) else None

    @override
    async def plan(
        self, spec: InputSpec, tenant: str, limits: ShardLimits
    ) -> AsyncGenerator[tuple[str, list[RowRange]]]:
        if spec.format is InputFormat.FOLDER:
            async for piece in self._here.plan(spec, tenant, limits):
                yield piece
            return
        files = await self._in_thread(partial(self._files, spec, tenant))
        asked = {"type": words.PLAN, **_input(spec, files), "limits": plain_values(limits)}
        fingerprint, planned = "", 0
        async with self._loan(Use.PLAN, tenant, files) as loan:
            task = _Task(loan, files, asked)
            while (found := await task.next()) is not None:
                ranges = _ranges(found["ranges"], limits, planned)
                if not fingerprint:
                    fingerprint = _fingerprint(found["fingerprint"])
                elif not ranges:
                    raise ProtocolViolation("a piece of a plan has no ranges")
                planned += sum(each.rows for each in ranges)
                yield fingerprint, ranges

    @override
    async def windows(
        self, job: Job, rows: RowRange, inputs: Mapping[str, TensorSpec]
    ) -> AsyncGenerator[RowWindow]:
        spec = job.spec.input
        if spec.format is InputFormat.FOLDER:
            async for window in self._here.windows(job, rows, inputs):
                yield window
            return
        files = await self._in_thread(partial(self._files, spec, job.tenant))
        asked = {
            "type": words.ROWS,
            **_input(spec, files),
            "fingerprint": job.fingerprint,
            "range": plain_values(rows),
            "inputs": _tensors(spec, inputs),
        }
        given, left, empty = 0, rows.rows, 0
        while True:
            async with self._loan(Use.ROWS, job.tenant, files) as loan:
                task = _Task(loan, files, {**asked, "skip": given})
                for _ in range(given):
                    if await task.next() is None:
                        return  # the shard fails of too few rows
                while not loan.is_recalled:
                    found = await task.next()
                    if found is None:
                        return
                    before = left
                    window, left = await self._in_thread(
                        partial(_window, loan.process, found["head"], spec, left)
                    )
                    empty = empty + 1 if left == before else 0
                    if empty > MOST_EMPTY:
                        raise ProtocolViolation(f"{empty} windows without a row")
                    given += 1
                    with loan.paused():
                        yield window

    @override
    async def names(
        self, spec: InputSpec, tenant: str, rows: RowRange
    ) -> AsyncGenerator[list[tuple[int, str]]]:
        files = await self._in_thread(partial(self._files, spec, tenant))
        asked = {"type": words.NAMES, **_input(spec, files), "range": plain_values(rows)}
        left = rows.rows
        async with self._loan(Use.PLAN, tenant, files) as loan:
            task = _Task(loan, files, asked)
            while (found := await task.next()) is not None:
                names = json.loads(found["names"])
                if not names:
                    raise ProtocolViolation("a piece of names has none")
                left -= len(names)
                _check_rows(left)
                yield [(int(number), str(name)[:MAX_ID_CHARS]) for number, name in names]

    @override
    def keep_only(self, jobs: Container[JobId]) -> None:
        self._here.keep_only(jobs)

    @asynccontextmanager
    async def _loan(self, use: Use, tenant: str, files: FilesToRead) -> AsyncGenerator[Loan]:
        """Have a process, which is given bytes of these files. One that sends what no reader sends is ended, and raises `ReaderEnded`."""
        try:
            async with self._readers.lend(use, tenant) as loan:
                try:
                    yield loan
                except NONSENSE as exc:
                    loan.process.end(f"it sent what no reader sends: {exc}"[:MOST_CHARS])
                    raise _ended_over(files, loan.process.ended) from exc
        finally:
            files.close()

    def _files(self, spec: InputSpec, tenant: str) -> FilesToRead:
        """Return the files of a task. Runs in a thread."""
        has_paths = Encoding.PATH in spec.encoding.values()
        return FilesToRead(
            self._sources.source(spec.url, tenant),
            self._sources.beside(spec.url, tenant) if has_paths else None,
            self._in_thread,
        )


class _Task:
    """A task of a reader, whose items are asked for one by one."""

    def __init__(self, loan: Loan, files: FilesToRead, message: Mapping[str, Any]) -> None:
        self._loan = loan
        self._files: FilesToRead | None = files
        self._ended_over = partial(_ended_over, files)
        self._message = message

    async def next(self) -> Message | None:
        """Return the next item; None: there are no more. Raises what went wrong."""
        message, files = self._message, self._files
        self._message, self._files = {"type": words.NEXT}, None
        try:
            found = await self._loan.process.ask(message, files)
        except ReaderEnded as exc:
            raise self._ended_over(exc.message) from exc
        if found["type"] == words.ITEM:
            return found
        self._loan.is_over = True
        if found["type"] == words.FAILED:
            raise words.ERRORS.get(found["error"], InputInvalid)(str(found["message"])[:MOST_CHARS])
        return None


def _ended_over(files: FilesToRead, reason: str) -> ReaderEnded:
    return ReaderEnded(
        f"the process that read {files.source.name} ended over it: {reason}; if the file is sound, write it anew with less in"
        " a row, and fewer rows in a group"
    )


def _input(spec: InputSpec, files: FilesToRead) -> dict[str, Any]:
    return {"input": plain_values(spec), "name": files.source.name}


def _tensors(spec: InputSpec, inputs: Mapping[str, TensorSpec]) -> list[tuple[str, str, list[int]]]:
    """Return the declarations of the inputs that a spec fills; requests have their own."""
    if spec.format is InputFormat.BATCH:
        return []
    declared = (inputs[name] for name in spec.columns)
    return [(each.name, each.datatype.name, list(each.shape)) for each in declared]


def _window(
    process: ReaderProcess, head: bytes, spec: InputSpec, left: int
) -> tuple[RowWindow, int]:
    """Return the window of a head, and how many rows of its range are left after it, of so many. Runs in a thread."""
    window = unpacked(head, process.rows)
    left -= len(window.bad) + sum(batch.rows for batch in window.batches)
    _check_rows(left)
    return finished(window, spec), left


def _fingerprint(given: object) -> str:
    """Return what a reader gives as a fingerprint. Raises `ProtocolViolation`: it is no line of ASCII."""
    if (
        isinstance(given, str)
        and 0 < len(given) <= MOST_CHARS
        and given.isascii()
        and given.isprintable()
    ):
        return given
    raise ProtocolViolation(f"{given!r} is no fingerprint")


def _ranges(given: object, limits: ShardLimits, planned: int) -> list[RowRange]:
    """Return a piece of a plan of which so many rows came before. Raises `ProtocolViolation`: what the ranges are to bound, they do not."""
    ranges = read(given, list[RowRange])
    if len(ranges) > PIECE_RANGES:
        raise ProtocolViolation(f"{len(ranges)} ranges at a time, the limit is {PIECE_RANGES}")
    for each in ranges:
        if not (
            each.first_row == planned
            and 0 < each.rows <= MAX_SHARD_ROWS
            and 0 <= each.group < MOST_GROUPS
            and 0 <= each.offset < MOST_OFFSET
            and 0 <= each.size_bytes <= limits.in_bytes
            and len(each.digest) in DIGEST_BYTES
        ):
            raise ProtocolViolation(f"{each}, behind {planned} rows, is no range of a plan")
        planned += each.rows
    return ranges


def _check_rows(left: int) -> None:
    """Raise `ProtocolViolation` where more rows came than a range has: what is kept of them has no bound."""
    if left < 0:
        raise ProtocolViolation(f"{-left} rows more than were asked for")
