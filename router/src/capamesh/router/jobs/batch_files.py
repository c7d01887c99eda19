"""Makes the files of batches that have ended: the answers in the order of the requests, and the requests without one. IO: store, disk.

Any router makes them, under a lease; two that did so would make the same, and the store takes those of one. A batch that expired,
failed or was cancelled has the answers that it got, and its other requests are named with the reason.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import CapameshError, JobsUnavailable, OutputFailed, Overloaded
from capamesh.protocol.schema import Mismatch, json_value, read
from capamesh.router.jobs.endpoints import ENDPOINTS
from capamesh.router.jobs.inputs.limits import NAMES_AT_ONCE
from capamesh.router.jobs.outputs.answers import error_line, undone_line
from capamesh.router.jobs.places import RESULTS_FOLDER
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.shard_operations import MAX_MANIFESTS
from capamesh.router.jobs.stored_files import FileId, Purpose, Whole
from capamesh.router.jobs.uploads.uploads import PIECE_BYTES, in_thread
from capamesh.router.jobs.values import RENEW_S, BadRow

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from capamesh.router.jobs.batches import Batch
    from capamesh.router.jobs.places import Places
    from capamesh.router.jobs.spec import InputSpec
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.uploads.uploads import Upload, Uploads
    from capamesh.router.jobs.values import Manifest, Part, RowRange

    Names = Callable[[InputSpec, str, RowRange], AsyncGenerator[list[tuple[int, str]]]]

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks for batches that have ended."""
_UNDONE: Final = {
    JobState.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    JobState.CANCELLED: (
        "batch_cancelled",
        "The batch was cancelled before this request was executed.",
    ),
    JobState.FAILED: ("batch_failed", "The batch failed before this request was executed."),
}


class LeaseLost(Exception):
    """Another router makes the files now."""


class BatchFiles:
    """The maker of one process."""

    def __init__(
        self,
        store: JobStore,
        places: Places,
        uploads: Uploads,
        names: Names,
        clock: Callable[[], float],
        log: FilteringBoundLogger,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`names` yields numbers and names of a tenant's requests; `clock` is one that never goes back, in seconds."""
        self._store = store
        self._places = places
        self._uploads = uploads
        self._names = names
        self._clock = clock
        self._log = log
        self._sleep = sleep

    async def run(self) -> None:
        """Make files for ever; what fails is tried again, by whoever leases it next."""
        while True:
            try:
                if await self.turn():
                    continue
            except (JobsUnavailable, Overloaded) as error:
                self._log.warning("batch_files_failed", reason=error.message)
            except Exception:  # noqa: BLE001 - any bug is one turn's
                self._log.exception("batch_files_crashed")
            await self._sleep(LOOK_EVERY_S)

    async def turn(self) -> bool:
        """Make the files of one batch, if there is one; return whether that was so. Raises what the store raises."""
        taken = await self._store.batches.claim()
        if taken is None:
            return False
        batch, token = taken
        making = _Making(
            batch, token, self._store, self._places, self._uploads, self._names, self._clock
        )
        try:
            await making.run()
        except LeaseLost:
            pass
        except CapameshError as error:
            self._log.warning("batch_files_failed", batch=batch.id, reason=error.message)
            await self._store.batches.fail(batch.job.id, token, error.message)
            return False  # others may be better off
        return True


class _Making:
    """The files of one batch, under one lease."""

    def __init__(
        self,
        batch: Batch,
        token: int,
        store: JobStore,
        places: Places,
        uploads: Uploads,
        names: Names,
        clock: Callable[[], float],
    ) -> None:
        self._batch = batch
        self._token = token
        self._store = store
        self._places = places
        self._uploads = uploads
        self._names = names
        self._clock = clock
        self._renew_s = clock() + RENEW_S

    async def run(self) -> None:
        """Make the files, and have the store take them. Raises `LeaseLost`, or what the disk or the store raises."""
        job = self._batch.job.id
        output, errors = _New(self, "output"), _New(self, "error")
        is_taken = False
        try:
            async for manifest in self._manifests():
                await self._copy(manifest.part, output)
                await self._copy_bad(manifest.bad_part, errors)
            await self._name_undone(errors)
            is_taken = await self._store.batches.finish(
                job, self._token, await output.whole(), await errors.whole()
            )
        finally:
            for each in (output, errors):
                await asyncio.shield(each.close(is_kept=is_taken))
        if not is_taken:
            raise LeaseLost

    async def begin(self, name: str) -> Upload:
        """Return a new file of the batch."""
        batch = self._batch
        return await self._uploads.begin_own(
            batch.job.tenant, f"{batch.id}_{name}.jsonl", Purpose.BATCH_OUTPUT, batch.asked.keep_s
        )

    @property
    def keep_s(self) -> float:
        """Seconds for which its files are kept."""
        return self._batch.asked.keep_s

    async def discard(self, upload: Upload) -> None:
        """Remove a file that is nobody's."""
        await self._uploads.discard(upload.file)

    async def check(self) -> None:
        """Renew the lease when that is due. Raises `LeaseLost`."""
        if self._clock() < self._renew_s:
            return
        self._renew_s = self._clock() + RENEW_S
        if not await self._store.batches.renew(self._batch.job.id, self._token):
            raise LeaseLost

    async def _manifests(self) -> AsyncIterator[Manifest]:
        from_seq = 0
        while True:
            found = await self._store.manifests(self._batch.job.id, from_seq, MAX_MANIFESTS)
            for _, _, manifest in found:
                yield manifest
            if len(found) < MAX_MANIFESTS:
                return
            from_seq = found[-1][0] + 1

    def _path(self, part: Part) -> Path:
        return self._places.jobs_folder / RESULTS_FOLDER / self._batch.job.id / part.name

    async def _copy(self, part: Part | None, output: _New) -> None:
        if part is None:
            return
        pieces = _pieces(self._path(part), part)
        while (piece := await in_thread(partial(next, pieces, None))) is not None:
            await output.write(piece)

    async def _copy_bad(self, part: Part | None, errors: _New) -> None:
        if part is None:
            return
        endpoint = ENDPOINTS.get(self._batch.asked.endpoint)
        field = None if endpoint is None else endpoint.prompt_field
        lines = _bad_lines(self._path(part), part, field)
        while some := await in_thread(partial(_joined, lines)):
            await errors.write(some)

    async def _name_undone(self, errors: _New) -> None:
        """Name the requests that were not done, and why; where the file of requests is gone, they have no name any more."""
        job = self._batch.job
        reason = _UNDONE.get(job.state)
        if reason is None:
            return
        from_row = 0
        with suppress(CapameshError):
            while found := await self._store.batches.undone(job.id, from_row):
                for each in found:
                    names = self._names(job.spec.input, job.tenant, each)
                    async with aclosing(names):
                        async for some in names:
                            lines = [undone_line(number, name, *reason) for number, name in some]
                            await errors.write(b"".join(lines))
                from_row = found[-1].first_row + 1


class _New:
    """One file that is being made; it is begun with its first bytes."""

    def __init__(self, making: _Making, name: str) -> None:
        self._making = making
        self._name = name
        self._upload: Upload | None = None

    async def write(self, data: bytes) -> None:
        """Write the next bytes."""
        await self._making.check()
        if self._upload is None:
            self._upload = await self._making.begin(self._name)
        await self._upload.write(data)

    async def whole(self) -> tuple[FileId, Whole] | None:
        """Bring the file to its place, and return what the store is to know of it; None: it has no bytes."""
        upload = self._upload
        if upload is None:
            return None
        await self._making.check()
        return upload.file.id, await upload.place(Purpose.BATCH_OUTPUT, self._making.keep_s, None)

    async def close(self, *, is_kept: bool) -> None:
        """Let go of the file; one that is not kept is removed."""
        if self._upload is None:
            return
        await self._upload.close()
        if not is_kept:
            with suppress(CapameshError):  # its time ends it then
                await self._making.discard(self._upload)


def _pieces(path: Path, part: Part) -> Iterator[bytes]:
    """Yield the bytes of a part. Raises `OutputFailed`: they are not what was written."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                yield piece
    except OSError as exc:
        raise OutputFailed(f"cannot read the results in {path}: {exc.strerror}") from exc
    if digest.hexdigest() != part.sha256:
        raise OutputFailed(
            f"{path} is not what was written: it should have {part.size_bytes} bytes with the SHA-256 {part.sha256}"
        )


def _bad_lines(path: Path, part: Part, prompt_field: str | None) -> Iterator[bytes]:
    """Yield the lines of requests that failed, by a part of bad rows; raises as `_pieces`."""
    rest = b""
    for piece in _pieces(path, part):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            try:
                row = read(json_value(line), BadRow)
            except Mismatch as exc:
                raise OutputFailed(f"{path} has a line that is no bad row: {exc}") from exc
            yield error_line(row, prompt_field)


def _joined(lines: Iterator[bytes]) -> bytes:
    """Return the next lines as one; empty: there are no more."""
    return b"".join(islice(lines, NAMES_AT_ONCE))
