"""The batches of the store as the router uses them: each method is one operation, whose result is durable once it is awaited. IO: the store's thread.

The methods raise `JobsUnavailable` and `Overloaded` as those of `JobStore` do.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from capamesh.router.jobs.store import batch_operations
from capamesh.router.jobs.store.database import Change
from capamesh.router.jobs.values import JobId, Pinned, RowRange, new_job_id

if TYPE_CHECKING:
    from capamesh.router.jobs.batches import Batch, BatchAsked
    from capamesh.router.jobs.spec import JobSpec
    from capamesh.router.jobs.store.file_store import Ask
    from capamesh.router.jobs.stored_files import FileId, Whole


class BatchStore:
    """The batches of all routers that share one database."""

    def __init__(self, ask: Ask, wall_s: Callable[[], float]) -> None:
        """Ask the store of jobs; `wall_s` is the clock that ids of jobs are made of."""
        self._ask = ask
        self._wall_s = wall_s

    async def create(
        self, tenant: str, spec: JobSpec, pinned: Pinned, asked: BatchAsked
    ) -> tuple[Batch, bool]:
        """Keep a new batch and its job and return it and True; the one of its client key, and False.

        Raises `FileNotFound`, `KeyUsed` or `TooManyRequests`.
        """
        job_id = new_job_id(self._wall_s(), secrets.randbits)
        return await self._ask(
            lambda turn: batch_operations.create(turn, job_id, tenant, spec, pinned, asked)
        )

    async def get(self, job: JobId, tenant: str | None) -> Batch:
        """Return the batch of a job; None: whosever it is. Raises `JobNotFound`."""
        return await self._ask(
            partial(batch_operations.get, job_id=job, tenant=tenant), Change.NONE
        )

    async def page(self, tenant: str | None, last: JobId | None, count: int) -> list[Batch]:
        """Return batches, the newest first, from the one after `last` on."""
        return await self._ask(
            lambda turn: batch_operations.page(turn, tenant, last, count), Change.NONE
        )

    async def claim(self) -> tuple[Batch, int] | None:
        """Lease a batch whose files are to be made, and return it and its token; None: there is none."""
        return await self._ask(batch_operations.claim, Change.FLEETING)

    async def renew(self, job: JobId, token: int) -> bool:
        """Renew such a lease; False: it is lost."""
        return await self._ask(
            partial(batch_operations.renew, job_id=job, token=token), Change.FLEETING
        )

    async def fail(self, job: JobId, token: int, trouble: str) -> None:
        """Keep why the files of a batch could not be made."""
        await self._ask(lambda turn: batch_operations.fail(turn, job, token, trouble))

    async def finish(
        self,
        job: JobId,
        token: int,
        output: tuple[FileId, Whole] | None,
        errors: tuple[FileId, Whole] | None,
    ) -> bool:
        """Make files whole and a batch's; False: the lease is lost, and they are nobody's."""
        return await self._ask(
            lambda turn: batch_operations.finish(turn, job, token, output, errors)
        )

    async def undone(self, job: JobId, from_row: int) -> Sequence[RowRange]:
        """Return ranges of a job's rows that were not done, from a row on, in order."""
        return await self._ask(
            lambda turn: batch_operations.undone(turn, job, from_row), Change.NONE
        )
