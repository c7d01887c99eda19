"""Removes uploaded files whose time has come, and bytes that no file has any more. IO: the store; the disk, in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import JobsUnavailable, Overloaded
from capamesh.router.jobs.stored_files import FileId
from capamesh.router.jobs.uploads.uploads import in_thread

if TYPE_CHECKING:
    from capamesh.router.jobs.store.file_store import FileStore
    from capamesh.router.jobs.uploads.folder import FileFolder

EXPIRE_EVERY_S: Final = 60.0
"""Seconds between two looks for files whose time has come."""
COLLECT_EVERY: Final = 60
"""Bytes that no file has are looked for once in so many of these looks: each hour."""
GARBAGE_S: Final = 3600.0
"""Seconds for which bytes have to be unchanged before they are taken for garbage: their file may be about to be kept."""
LOOKED_AT: Final = 500
"""The files of the folder that are looked at together."""


async def keep_tidy(
    files: FileStore,
    folder: FileFolder,
    wall_s: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Tidy for ever; what fails is tried again at the next look."""
    looks = 0
    while True:
        try:
            await expire(files, folder)
            if looks % COLLECT_EVERY == 0:
                await collect(files, folder, wall_s() - GARBAGE_S)
        except (JobsUnavailable, Overloaded):
            pass  # whoever asks the store for something is told
        looks += 1
        await sleep(EXPIRE_EVERY_S)


async def expire(files: FileStore, folder: FileFolder) -> int:
    """Remove the files whose time has come and return how many there were."""
    count = 0
    last: FileId | None = None
    while True:
        gone, last = await files.expire(last)
        for file_id, tenant in gone:
            await in_thread(partial(folder.remove, tenant, file_id))
        count += len(gone)
        if last is None:
            return count


async def collect(files: FileStore, folder: FileFolder, changed_before_s: float) -> int:
    """Remove the bytes, last changed before a time in seconds since 1970, that no file has; return of how many they were."""
    found = folder.found(changed_before_s)
    count = 0
    while some := await in_thread(partial(_next, found)):
        known = await files.known([file_id for file_id, _ in some])
        garbage = [place for file_id, place in some if file_id not in known]
        await in_thread(partial(_remove, garbage))
        count += len(garbage)
    return count


def _next(found: Iterator[tuple[FileId, Path]]) -> list[tuple[FileId, Path]]:
    return list(islice(found, LOOKED_AT))


def _remove(places: list[Path]) -> None:
    for place in places:
        place.unlink(missing_ok=True)
