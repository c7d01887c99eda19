"""The interface by which routers read inputs of jobs, and its form for this process: folders, whose files nobody looks into. IO: threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Container,
    Iterator,
    Mapping,
)
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from typing_extensions import override

from capamesh.router.jobs.inputs.likely_rows import likely_rows
from capamesh.router.jobs.inputs.limits import NAMES_AT_ONCE, PIECE_RANGES
from capamesh.router.jobs.inputs.opening import open_planned, open_reader
from capamesh.router.jobs.inputs.requests import names_of
from capamesh.router.jobs.inputs.rows import RowWindow, columns_of, read_windows
from capamesh.router.jobs.spec import InputFormat, InputSpec
from capamesh.router.jobs.values import Job, JobId, RowRange

if TYPE_CHECKING:
    from capamesh.protocol.tensor_spec import TensorSpec
    from capamesh.router.jobs.inputs.limits import ShardLimits
    from capamesh.router.jobs.inputs.reader import Reader
    from capamesh.router.jobs.inputs.source import Source, Sources

PIECE_S: Final = 2.0
"""Seconds after which a piece of a plan is given on, however short it is: less than half of a lease."""
KEPT_JOBS: Final = 16
"""The jobs whose readers are kept for their next shards (guess): one of a folder holds the list of its files."""
KEPT_READERS: Final = 4
"""The readers that are kept of each: as many shards of one job as are read at a time (guess)."""

_Result = TypeVar("_Result")


class InThread(Protocol):
    """Runs a function elsewhere."""

    def __call__(self, function: Callable[[], _Result], /) -> Awaitable[_Result]:
        """Run `function` in a thread; what it returns or raises is the result."""
        ...


class InputReading(ABC):
    """Reads inputs of jobs for the loop.

    All methods raise `InvalidRequest` where jobs may not read what a spec names, `InputInvalid` where it cannot be read,
    `InputChanged` where it is not what it was, `PlaceUnavailable` where that may pass, and `ConfigError` where a library is missing.
    """

    @abstractmethod
    async def look(self, spec: InputSpec, tenant: str) -> int | None:
        """Return how many rows an input seems to have, once it is known to have the columns; None: only reading all of it would tell."""

    @abstractmethod
    def plan(
        self, spec: InputSpec, tenant: str, limits: ShardLimits
    ) -> AsyncGenerator[tuple[str, list[RowRange]]]:
        """Yield the fingerprint of an input and ranges of its rows, some at a time, at least once."""

    @abstractmethod
    def windows(
        self, job: Job, rows: RowRange, inputs: Mapping[str, TensorSpec]
    ) -> AsyncGenerator[RowWindow]:
        """Yield the rows of a range of a planned job's input, as `inputs.rows.read_windows` does."""

    @abstractmethod
    def names(
        self, spec: InputSpec, tenant: str, rows: RowRange
    ) -> AsyncGenerator[list[tuple[int, str]]]:
        """Yield the numbers and the names of the requests of a range of a file, some at a time."""

    @abstractmethod
    def keep_only(self, jobs: Container[JobId]) -> None:
        """Forget what is kept of all other jobs."""


class ReadHere(InputReading):
    """Reads inputs in threads of this process, and looks at folders there."""

    def __init__(self, sources: Sources, in_thread: InThread, clock: Callable[[], float]) -> None:
        """`clock` is one that never goes back, in seconds."""
        self._sources = sources
        self._in_thread = in_thread
        self._clock = clock
        self._kept: OrderedDict[JobId, list[Reader]] = OrderedDict()

    @override
    async def look(self, spec: InputSpec, tenant: str) -> int | None:
        return await self._in_thread(lambda: self._looked(spec, tenant))

    def _looked(self, spec: InputSpec, tenant: str) -> int | None:
        source = None
        if spec.format is not InputFormat.FOLDER:
            source = self._sources.source(spec.url, tenant)
            source.stamp()  # a file that is not there is told before what is wrong in it
        return counted_rows(open_reader(spec, tenant, self._sources), spec, source)

    @override
    async def plan(
        self, spec: InputSpec, tenant: str, limits: ShardLimits
    ) -> AsyncGenerator[tuple[str, list[RowRange]]]:
        reader = await self._in_thread(lambda: open_reader(spec, tenant, self._sources))
        pieces = plan_pieces(reader, spec, limits, self._clock)
        while (piece := await self._in_thread(lambda: next(pieces, None))) is not None:
            yield piece

    @override
    async def windows(
        self, job: Job, rows: RowRange, inputs: Mapping[str, TensorSpec]
    ) -> AsyncGenerator[RowWindow]:
        kept = self._kept.get(job.id)
        reader = kept.pop() if kept else await self._in_thread(lambda: self.reader(job))
        windows = read_windows(reader, rows, job.spec.input, inputs)
        while (window := await self._in_thread(lambda: next(windows, None))) is not None:
            yield window
        self._keep(job.id, reader)

    @override
    async def names(
        self, spec: InputSpec, tenant: str, rows: RowRange
    ) -> AsyncGenerator[list[tuple[int, str]]]:
        pieces = name_pieces(self._sources.source(spec.url, tenant), rows)
        while (piece := await self._in_thread(lambda: next(pieces, None))) is not None:
            yield piece

    @override
    def keep_only(self, jobs: Container[JobId]) -> None:
        for job in [job for job in self._kept if job not in jobs]:
            del self._kept[job]

    def reader(self, job: Job) -> Reader:
        """Return the reader of a planned job's input. Runs in a thread."""
        return open_planned(job, self._sources)

    def _keep(self, job: JobId, reader: Reader) -> None:
        """Keep a reader that has done its work well: opening one may take a look at each file of a folder."""
        kept = self._kept.setdefault(job, [])
        self._kept.move_to_end(job)
        if len(kept) < KEPT_READERS:
            kept.append(reader)
        if len(self._kept) > KEPT_JOBS:
            self._kept.popitem(last=False)


def counted_rows(reader: Reader, spec: InputSpec, source: Source | None) -> int | None:
    """Return what `InputReading.look` does; `source` is the file that the reader reads, None: it is a folder."""
    reader.check_columns(columns_of(spec))
    return likely_rows(spec.format, reader, source)


def plan_pieces(
    reader: Reader, spec: InputSpec, limits: ShardLimits, clock: Callable[[], float]
) -> Iterator[tuple[str, list[RowRange]]]:
    """Yield what `InputReading.plan` does, a piece at least every `PIECE_S`."""
    reader.check_columns(columns_of(spec))
    fingerprint = reader.fingerprint()
    yield fingerprint, []
    piece: list[RowRange] = []
    until_s = clock() + PIECE_S
    for each in reader.ranges(limits):
        piece.append(each)
        if len(piece) == PIECE_RANGES or clock() >= until_s:
            yield fingerprint, piece
            piece, until_s = [], clock() + PIECE_S
    if piece:
        yield fingerprint, piece


def name_pieces(source: Source, rows: RowRange) -> Iterator[list[tuple[int, str]]]:
    """Yield the numbers and the names of the requests of a range, some at a time."""
    names = names_of(source, rows)
    while piece := list(islice(names, NAMES_AT_ONCE)):
        yield piece
