"""The inputs and outputs of jobs, as the runner opens them. IO: what opening does; all of it blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Container
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.router.jobs.inputs.opening import open_planned

if TYPE_CHECKING:
    from capamesh.router.jobs.inputs.reader import Reader
    from capamesh.router.jobs.outputs.sink import Sink
    from capamesh.router.jobs.places import Places
    from capamesh.router.jobs.values import Job, JobId

KEPT_JOBS: Final = 16
"""The jobs whose readers are kept for their next shards (guess): one of a folder holds the list of its files."""
KEPT_READERS: Final = 4
"""The readers that are kept of each: as many shards of one job as are read at a time (guess)."""


class JobFiles(ABC):
    """Opens what jobs name."""

    @abstractmethod
    def reader(self, job: Job) -> Reader:
        """Return the reader of a planned job's input. Raises `InvalidRequest`, `InputChanged` or `ConfigError`."""

    @abstractmethod
    def sink(self, job: Job) -> Sink:
        """Return where a job's parts go. Raises `InvalidRequest` or `ConfigError`."""


class PlacedFiles(JobFiles):
    """Opens what lies in the places that jobs may use."""

    def __init__(self, places: Places) -> None:
        self._places = places

    @override
    def reader(self, job: Job) -> Reader:
        return open_planned(job, self._places)

    @override
    def sink(self, job: Job) -> Sink:
        return self._places.sink(job.spec.output.url, job.id)


class KeptReaders:
    """Readers that wait for the next shard of their job: opening one may take a look at each file of a folder."""

    def __init__(self) -> None:
        self._kept: OrderedDict[JobId, list[Reader]] = OrderedDict()

    def take(self, job: JobId) -> Reader | None:
        """Return a reader of a job, which nobody else has; None: one is to be opened."""
        kept = self._kept.get(job)
        return kept.pop() if kept else None

    def keep(self, job: JobId, reader: Reader) -> None:
        """Keep a reader that has done its work well."""
        kept = self._kept.setdefault(job, [])
        self._kept.move_to_end(job)
        if len(kept) < KEPT_READERS:
            kept.append(reader)
        if len(self._kept) > KEPT_JOBS:
            self._kept.popitem(last=False)

    def keep_only(self, jobs: Container[JobId]) -> None:
        """Forget the readers of all other jobs."""
        for job in [job for job in self._kept if job not in jobs]:
            del self._kept[job]
