"""Uploads on their way to the disk and into the store: how many at once, in which order, and what is checked of them. IO: threads, the store.

The steps of one file follow one another, in a thread; the lines of requests are checked in slices of the loop's time. A file is
whole in the store only after it is whole on the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from capamesh.protocol.errors import Overloaded, TooLarge, TooManyRequests
from capamesh.router.jobs.stored_files import (
    MAX_BATCH_BYTES,
    MAX_FILE_BYTES,
    Owner,
    Purpose,
    Requests,
    StoredFile,
    Whole,
)
from capamesh.router.jobs.uploads.folder import ArrivingFile
from capamesh.router.jobs.uploads.request_lines import RequestLines
from capamesh.router.requests.slices import in_slices

if TYPE_CHECKING:
    from capamesh.router.jobs.store.file_store import FileStore
    from capamesh.router.jobs.uploads.folder import FileFolder
    from capamesh.router.requests.slices import Slices

MOST_AT_ONCE: Final = 64
"""The most uploads at once of one process of a router (guess: some 100 KB each, and more than keep its disk busy)."""
MOST_OF_TENANT: Final = 16
"""The most of one tenant among these."""
MOST_CHECKED: Final = 4
"""The most files of requests that are checked at once by one process: their digests take 50 MB each at most."""
PIECE_BYTES: Final = 256 * 1024
"""The bytes of a file that are read at a time (guess)."""
ROOM_STEP_BYTES: Final = 64 * 2**20
"""The bytes that room is taken for in the store, where an upload does not say how many it has."""
_WRITERS: Final = ThreadPoolExecutor(4, thread_name_prefix="uploads")
"""The threads that write uploads and read files, one step each (guess: what keeps a disk busy)."""

_Result = TypeVar("_Result")


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """Return what a function of the disk returns; it goes on when whoever waits for it leaves."""
    return await asyncio.shield(asyncio.get_running_loop().run_in_executor(_WRITERS, function))


async def in_thread_or_undone(
    function: Callable[[], _Result], undo: Callable[[_Result], None]
) -> _Result:
    """Return what a function returns that opens something; where nobody waits for it any more, it is undone."""
    opening = asyncio.get_running_loop().run_in_executor(_WRITERS, function)

    def undone(done: asyncio.Future[_Result]) -> None:
        if not done.cancelled() and done.exception() is None:
            undo(done.result())

    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(undone)
        raise


def most_bytes(purpose: Purpose) -> int:
    """Return the most bytes of a file for a purpose."""
    return MAX_BATCH_BYTES if purpose is Purpose.BATCH else MAX_FILE_BYTES


def check_size(size_bytes: int, purpose: Purpose) -> None:
    """Raise `TooLarge` unless a file for a purpose may have so many bytes."""
    most = most_bytes(purpose)
    if size_bytes > most:
        raise TooLarge(
            f"the file has {size_bytes} bytes or more; one for {purpose} has at most {most}: divide it into several"
        )


class Uploads:
    """The uploads of one process."""

    def __init__(
        self, files: Callable[[], Awaitable[FileStore]], folder: FileFolder, slices: Slices
    ) -> None:
        """`files` returns the store, which it may open first; long checks take turns in `slices`."""
        self.files: Final = files
        self.folder: Final = folder
        self._slices = slices
        self._of_tenant: Counter[str] = Counter()
        self._checked = 0

    @contextmanager
    def place(self, tenant: str) -> Generator[None]:
        """Hold one of the places of those at once; raises `Overloaded` or `TooManyRequests`: there is none."""
        if self._of_tenant.total() >= MOST_AT_ONCE:
            raise Overloaded(
                f"{MOST_AT_ONCE} uploads are under way, the most at once; try again later", 1.0
            )
        if self._of_tenant[tenant] >= MOST_OF_TENANT:
            raise TooManyRequests(
                f"{MOST_OF_TENANT} uploads of this tenant are under way, the most at once; wait for one of them",
                1.0,
            )
        self._of_tenant[tenant] += 1
        try:
            yield
        finally:
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]

    async def begin(
        self, owner: Owner, name: str, purpose: Purpose, size_bytes: int, keep_s: float
    ) -> StoredFile:
        """Keep a file that is to arrive, with room for so many bytes.

        Raises:
            TooLarge: a file may not have so many.
            TooManyRequests: its owner has the most files.
            StorageFull: its owner has as many bytes as it may, or the disk has no room.
        """
        check_size(size_bytes, purpose)
        await in_thread(partial(self.folder.check_room, size_bytes))
        most_bytes = await in_thread(self.folder.own_bytes)
        files = await self.files()
        return await files.begin(owner, name, purpose, size_bytes, keep_s, most_bytes)

    async def begin_own(self, tenant: str, name: str, purpose: Purpose, keep_s: float) -> Upload:
        """Return a file that the router makes for a tenant, whatever the tenant has; it is to be closed."""
        files = await self.files()
        file = await files.begin(Owner(tenant), name, purpose, 0, keep_s, None)
        return await self.open(file, is_bounded=False)

    async def open(self, file: StoredFile, *, is_bounded: bool = True) -> Upload:
        """Return a file to be written on; raises `FileConflict`: another request writes it. It is to be closed."""
        arriving = await in_thread_or_undone(
            partial(self.folder.arriving, file), ArrivingFile.close
        )
        return Upload(self, file, arriving, is_bounded=is_bounded)

    async def discard(self, file: StoredFile) -> None:
        """Forget a file that will not be whole, and remove its bytes."""
        files = await self.files()
        await files.remove(file.id, None)
        await in_thread(partial(self.folder.remove, file.tenant, file.id))

    @contextmanager
    def checking(self) -> Generator[RequestLines]:
        """Hold one of the places of those that check requests; raises `Overloaded`: there is none."""
        if self._checked >= MOST_CHECKED:
            raise Overloaded(
                f"{MOST_CHECKED} files of requests are being checked, the most at once; try again later",
                1.0,
            )
        self._checked += 1
        try:
            yield RequestLines(secrets.token_bytes)
        finally:
            self._checked -= 1

    async def check(self, lines: RequestLines, data: bytes) -> None:
        """Check the next bytes of a file of requests; raises `InvalidParameter`."""
        await in_slices(self._slices, lines.take(data), "requests of a batch")

    async def checked(self, lines: RequestLines) -> Requests:
        """Return what the requests of a file are, once all of it was checked; raises `InvalidParameter`."""
        return await in_slices(self._slices, lines.finish(), "requests of a batch")


class Upload:
    """One request that writes a file."""

    def __init__(
        self, uploads: Uploads, file: StoredFile, arriving: ArrivingFile, *, is_bounded: bool
    ) -> None:
        """Write a file; `is_bounded`: its bytes are among those that its tenant may have."""
        self._is_bounded = is_bounded
        self._uploads = uploads
        self.file: Final = file
        self._arriving = arriving
        self._room_bytes = file.size_bytes
        self._step: asyncio.Future[None] | None = None
        """The step that a thread does, maybe for a request that has left."""
        self._digest = None if arriving.size_bytes else hashlib.sha256()
        """The digest of all that is there; None: some of it came before."""

    @property
    def size_bytes(self) -> int:
        """The bytes that are there."""
        return self._arriving.size_bytes

    async def keep(self) -> None:
        """Keep what is there for as long again as an upload may stand still; raises `FileNotFound`: it was deleted."""
        most_bytes = await in_thread(self._uploads.folder.own_bytes)
        files = await self._uploads.files()
        await files.reserve(self.file.id, self._room_bytes, most_bytes)

    async def write(self, data: bytes) -> None:
        """Write the next bytes.

        Raises:
            TooLarge: a file may not have so many.
            StorageFull: its owner has as many bytes as it may, or the disk is full. What fits of the bytes is there then.
            FileNotFound: the file was deleted meanwhile.
        """
        end = self.size_bytes + len(data)
        if self._is_bounded:
            check_size(end, self.file.purpose)
        if self._is_bounded and end > self._room_bytes:
            self._room_bytes = end + ROOM_STEP_BYTES
            await self.keep()
        await self._run(partial(self._write, data))

    async def restart(self) -> None:
        """Throw away what is there."""
        await self._run(self._restart)

    async def finish(
        self, purpose: Purpose, keep_s: float, requests: Requests | None
    ) -> StoredFile:
        """Make the file whole and return it; raises as `place`."""
        whole = await self.place(purpose, keep_s, requests)
        files = await self._uploads.files()
        return await files.finish(self.file.id, whole)

    async def place(self, purpose: Purpose, keep_s: float, requests: Requests | None) -> Whole:
        """Bring the file to its place and return what the store is to know of it; `requests` were found in it, None: it is still to be looked at.

        Raises:
            InvalidParameter: it is a file of requests, and they are wrong.
            FileNotFound: it was deleted meanwhile.
            Overloaded: too many files are being checked.
        """
        if self._is_bounded:
            check_size(self.size_bytes, purpose)
        if requests is None and purpose is Purpose.BATCH:
            requests = await self._look()
        digest = self._digest
        sha256 = await in_thread(self._read_through) if digest is None else digest.hexdigest()
        await self._run(self._arriving.finish)
        return Whole(purpose, keep_s, self.size_bytes, sha256, requests or Requests())

    async def close(self) -> None:
        """Bring to the disk what is there, after what is under way, and let others write."""
        if self._step is not None and not self._step.done():
            await asyncio.wait([self._step])
        await in_thread(self._arriving.close)

    async def _run(self, step: Callable[[], None]) -> None:
        self._step = asyncio.get_running_loop().run_in_executor(_WRITERS, step)
        await asyncio.shield(self._step)

    def _restart(self) -> None:
        self._arriving.restart()
        self._digest = hashlib.sha256()

    def _write(self, data: bytes) -> None:
        self._arriving.write(data)
        if self._digest is not None:
            self._digest.update(data)

    async def _look(self) -> Requests:
        """Return what the requests are that came before."""
        with self._uploads.checking() as lines:
            at = 0
            while data := await in_thread(partial(self._arriving.read, at, PIECE_BYTES)):
                at += len(data)
                await self._uploads.check(lines, data)
            return await self._uploads.checked(lines)

    def _read_through(self) -> str:
        digest = hashlib.sha256()
        at = 0
        while data := self._arriving.read(at, PIECE_BYTES):
            at += len(data)
            digest.update(data)
        return digest.hexdigest()
