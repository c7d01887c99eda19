"""The files of the store as the router uses them: each method is one operation, whose result is durable once it is awaited. IO: the store's thread.

The methods raise `JobsUnavailable` and `Overloaded` as those of `JobStore` do.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Protocol, TypeVar

from capamesh.router.jobs.store import file_operations
from capamesh.router.jobs.store.database import Change
from capamesh.router.jobs.store.group_commit import Operation
from capamesh.router.jobs.stored_files import (
    FileId,
    Owner,
    Purpose,
    StoredFile,
    Whole,
    new_file_id,
)

_Result = TypeVar("_Result")


class Ask(Protocol):
    """Runs one operation in the store's thread."""

    def __call__(
        self, operation: Operation[_Result], change: Change = Change.LASTING, /
    ) -> Awaitable[_Result]:
        """Return what the operation returns, once what it changes is as durable as that must be."""
        ...


class FileStore:
    """The files of all routers that share one database."""

    def __init__(self, ask: Ask, wall_s: Callable[[], float]) -> None:
        """Ask the store of jobs; `wall_s` is the clock that ids of files are made of."""
        self._ask = ask
        self._wall_s = wall_s

    async def begin(
        self,
        owner: Owner,
        name: str,
        purpose: Purpose,
        size_bytes: int,
        keep_s: float,
        most_bytes: int | None,
    ) -> StoredFile:
        """Keep a file whose bytes are to arrive, with room for so many; raises `TooManyRequests` or `StorageFull` if it is bounded."""
        file_id = new_file_id(self._wall_s(), secrets.randbits)
        return await self._ask(
            lambda turn: file_operations.begin(
                turn, file_id, owner, name, purpose, size_bytes, keep_s, most_bytes
            )
        )

    async def reserve(self, file: FileId, size_bytes: int, most_bytes: int) -> None:
        """Take room for so many bytes of a file that arrives; raises `StorageFull`, or `FileNotFound` if it was deleted."""
        await self._ask(lambda turn: file_operations.reserve(turn, file, size_bytes, most_bytes))

    async def finish(self, file: FileId, whole: Whole) -> StoredFile:
        """Say that a file is whole, and return it; raises `FileNotFound` if it was deleted."""
        return await self._ask(partial(file_operations.finish, file_id=file, whole=whole))

    async def get(self, file: FileId, tenant: str | None) -> StoredFile:
        """Return a file; None: whosever it is. Raises `FileNotFound`."""
        return await self._ask(
            partial(file_operations.get, file_id=file, tenant=tenant), Change.NONE
        )

    async def arriving(self, tenant: str, name: str) -> list[StoredFile]:
        """Return a tenant's files of one name whose bytes still arrive, a bounded number of them."""
        return await self._ask(
            partial(file_operations.arriving, tenant=tenant, name=name), Change.NONE
        )

    async def page(
        self,
        tenant: str | None,
        purpose: str,
        last: FileId | None,
        count: int,
        *,
        is_newest_first: bool,
    ) -> list[StoredFile]:
        """Return files that are ready, from the one behind `last` on."""
        return await self._ask(
            lambda turn: file_operations.page(
                turn, tenant, purpose, last, count, is_newest_first=is_newest_first
            ),
            Change.NONE,
        )

    async def remove(self, file: FileId, tenant: str | None) -> StoredFile:
        """Forget a file and return it as it was; raises `FileNotFound`, or `FileConflict` while a job reads it."""
        return await self._ask(partial(file_operations.remove, file_id=file, tenant=tenant))

    async def expire(self, last: FileId | None) -> tuple[list[tuple[FileId, str]], FileId | None]:
        """Forget files whose time has come; return their ids and tenants, and where to go on."""
        return await self._ask(partial(file_operations.expire, last=last))

    async def known(self, files: Sequence[FileId]) -> Collection[FileId]:
        """Return those of some files that the store has."""
        return await self._ask(partial(file_operations.known, files=files), Change.NONE)
