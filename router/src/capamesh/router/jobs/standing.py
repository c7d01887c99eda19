"""The interface of whoever runs jobs, as the routes ask it, and one who runs none. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from capamesh.router.jobs.spec import JobSpec
    from capamesh.router.jobs.values import JobId, Pinned


@dataclass(frozen=True, slots=True)
class Progress:
    """The pace of a job that is under way, as far as this router knows it."""

    rows_per_s: float | None
    """The rows a second of late, over all routers; None: too little is known."""
    left_s: float | None
    """Seconds until its end at that rate; None: nobody can tell."""
    nodes: int
    """The nodes that have run rows of it of late for this router."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The rows of a job that were run before it is submitted."""

    rows: int
    rows_per_s: float


class JobRunner(ABC):
    """The runner of jobs of one router's process. Its methods never raise, and but for `measure` they return at once."""

    @abstractmethod
    def wake(self) -> None:
        """Look at the store now: a job was submitted, or goes on."""

    @abstractmethod
    def standing(self, job: JobId) -> Progress | None:
        """Return the pace of a job; None: this router knows nothing of it."""

    @abstractmethod
    def calls(self) -> Mapping[str, int]:
        """Return how many calls of jobs have ended in this process, by what came of them; none before it runs any."""

    @abstractmethod
    def promise(self, spec: JobSpec, rows: int) -> float | None:
        """Return the seconds that a new job of so many rows takes at the idle capacity measured lately, after the jobs before it.

        `math.inf`: nothing is idle. None: nothing was measured yet.
        """

    @abstractmethod
    async def measure(self, spec: JobSpec, pinned: Pinned, tenant: str) -> Measured | None:
        """Run some rows of a job that is not submitted, so that `promise` goes by what they took.

        None: they cannot be run now, or other jobs of its model run, whose rate tells.
        """


class NoRunner(JobRunner):
    """Runs nothing: another process of the store may."""

    @override
    def wake(self) -> None:
        """Do nothing."""

    @override
    def standing(self, job: JobId) -> Progress | None:
        return None

    @override
    def calls(self) -> Mapping[str, int]:
        return {}

    @override
    def promise(self, spec: JobSpec, rows: int) -> float | None:
        return None

    @override
    async def measure(self, spec: JobSpec, pinned: Pinned, tenant: str) -> Measured | None:
        return None
