"""Tells those who follow jobs what happens to them: one look a second at each followed job, however many follow it. IO: the store.

A follower has nothing here but its place: what it has missed it reads from the store, so that one who reads slowly holds no memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import CapameshError, Overloaded, TooManyRequests
from capamesh.router.jobs.errors import JobNotFound
from capamesh.router.jobs.states import ENDED

if TYPE_CHECKING:
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.values import Event, JobId, JobLook
    from capamesh.router.jobs.views import JobView, JobViews

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks at a job that somebody follows."""
MOST_FOLLOWERS: Final = 256
"""The most that follow jobs of one process (guess: the people and programs of a company)."""
MOST_OF_TENANT: Final = 64
"""The most of one tenant, so that it cannot take the places of all others."""
KEPT_EVENTS: Final = 100
"""The newest events of a job that its followers share, and the most that are read at once."""
RETRY_S: Final = 10.0
"""Seconds after which one who was turned away may try again (guess)."""


class FollowedJob:
    """A job that somebody follows, as it was at the last look."""

    def __init__(self, view: JobView, seen: int) -> None:
        self.view = view
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self.seen = seen
        """The number of the newest event that is known."""
        self.last_event = seen
        """The number of the newest event that there is."""
        self.looks = 0
        """The number of looks at it so far."""
        self.is_gone = False
        """True once the store has forgotten the job."""
        self.followers = 0
        self.looking: asyncio.Task[None] | None = None
        self.hastened = asyncio.Event()
        """Is set to have it looked at at once."""
        self._changed = asyncio.Event()

    @property
    def has_ended(self) -> bool:
        """Return whether nothing will happen to it any more."""
        return self.is_gone or (self.view.job.state in ENDED and self.seen >= self.last_event)

    def since(self, after: int) -> list[Event] | None:
        """Return the events after one, by its number; None: some of them are kept by the store alone."""
        if after >= self.seen:
            return []
        if not self._events or after + 1 < self._events[0].seq:
            return None
        return [event for event in self._events if event.seq > after]

    def take(self, view: JobView, events: Sequence[Event], last_event: int) -> None:
        """Take in what a look has found; fewer events than there are, where there are many."""
        self.view = view
        self.last_event = last_event
        self._events.extend(events)
        if events:
            self.seen = events[-1].seq

    async def wait(self, looks: int, timeout_s: float) -> None:
        """Wait until it was looked at more often than `looks`, for so long at most."""
        if self.looks != looks:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def tell(self) -> None:
        """Wake all who wait."""
        self.looks += 1
        self._changed.set()
        self._changed = asyncio.Event()


class Following:
    """The followed jobs of one router's process."""

    def __init__(self, store: Callable[[], Awaitable[JobStore]], views: JobViews) -> None:
        """`store` returns the store of jobs, or raises `JobsUnavailable`."""
        self._store = store
        self._views = views
        self._jobs: dict[JobId, FollowedJob] = {}
        self._tenants: Counter[str] = Counter()

    @property
    def followers(self) -> int:
        """Return how many follow a job."""
        return self._tenants.total()

    @contextmanager
    def place(self, tenant: str) -> Generator[None]:
        """Take the place of a follower; raise `Overloaded` if all are taken, `TooManyRequests` if this tenant has its share."""
        if self._tenants[tenant] >= MOST_OF_TENANT:
            raise TooManyRequests(
                f"{MOST_OF_TENANT} of this tenant follow jobs here already, the most that may; ask for the job now and then",
                RETRY_S,
            )
        if self.followers >= MOST_FOLLOWERS:
            raise Overloaded(
                f"{MOST_FOLLOWERS} follow jobs here already, the most that may; ask for the job now and then",
                RETRY_S,
            )
        self._tenants[tenant] += 1
        try:
            yield
        finally:
            self._tenants[tenant] -= 1
            if not self._tenants[tenant]:
                del self._tenants[tenant]

    @contextmanager
    def followed(self, look: JobLook) -> Generator[FollowedJob]:
        """Have a job, as it was just read from the store, looked at while this is open."""
        job_id = look.job.id
        followed = self._jobs.get(job_id)
        if followed is None:
            followed = self._jobs[job_id] = FollowedJob(self._view(look), look.last_event)
            followed.looking = asyncio.create_task(self._look(followed))
        followed.followers += 1
        try:
            yield followed
        finally:
            followed.followers -= 1
            if not followed.followers:
                del self._jobs[job_id]
                if followed.looking is not None:
                    followed.looking.cancel()

    def hasten(self, job: JobId) -> None:
        """Look at a job now, if it is followed: it was moved here."""
        followed = self._jobs.get(job)
        if followed is not None:
            followed.hastened.set()

    def _view(self, look: JobLook) -> JobView:
        return self._views.view(look.job, look.counts)

    async def _look(self, followed: FollowedJob) -> None:
        """Look at a job until it has ended, or nobody follows it."""
        job_id = followed.view.job.id
        while not followed.has_ended:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await followed.hastened.wait()
            except TimeoutError:
                pass
            followed.hastened.clear()
            try:
                store = await self._store()
                look = await store.look(job_id, None, followed.seen)
            except JobNotFound:
                followed.is_gone = True
            except (
                CapameshError
            ):  # the store fails: those who follow hear of the job again when it does not
                continue
            else:
                followed.take(self._view(look), look.events, look.last_event)
                if look.events and followed.seen < look.last_event:  # the rest of many
                    followed.hastened.set()
            followed.tell()
