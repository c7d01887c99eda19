"""Files that come in parts, which may be sent beside one another, and are joined in the order that their client says. IO: threads, the store.

A part is a file that arrives and is never whole by itself, whose name is the upload's; the file that they become arrives, too, until
they are joined. So what bounds files, and ends those that stand still, holds for both. Joining that breaks off begins anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import (
    FileConflict,
    FileNotFound,
    JobsUnavailable,
    TooLarge,
    TooManyRequests,
)
from capamesh.router.jobs.places import is_file_id
from capamesh.router.jobs.stored_files import FileId, Owner, Purpose, StoredFile
from capamesh.router.jobs.uploads.folder import ArrivingFile
from capamesh.router.jobs.uploads.uploads import PIECE_BYTES, in_thread, in_thread_or_undone
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    from capamesh.router.jobs.uploads.uploads import Upload, Uploads

MAX_PART_BYTES: Final = 64 * 2**20
"""The most bytes of a part (OpenAI's)."""
MAX_PARTS: Final = 1024
"""The most parts of an upload: so many of the largest are the largest file."""
_FILE, _UPLOAD, _PART = "file-", "upload_", "part_"


def upload_id_of(file: FileId) -> str:
    """Return the id of the upload that becomes a file."""
    return _UPLOAD + file.removeprefix(_FILE)


def part_id_of(file: FileId) -> str:
    """Return the id of the part that a file is."""
    return _PART + file.removeprefix(_FILE)


def _file_id_of(text: str, kind: str) -> FileId | None:
    found = _FILE + text.removeprefix(kind)
    return FileId(found) if text.startswith(kind) and is_file_id(found) else None


class JoinedUploads:
    """The uploads in parts of one process."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    async def begin(
        self, owner: Owner, name: str, purpose: Purpose, size_bytes: int, keep_s: float
    ) -> StoredFile:
        """Keep a file whose parts are to come, and return it; raises what `Uploads.begin` raises."""
        return await self._uploads.begin(owner, name, purpose, size_bytes, keep_s)

    async def find(self, upload_id: str, tenant: str | None) -> StoredFile:
        """Return the file that an upload becomes, or has become. Raises `FileNotFound`."""
        file_id = _file_id_of(upload_id, _UPLOAD)
        if file_id is None:
            raise FileNotFound(
                f"there is no upload {upload_id[:80]!r}; begin one: POST /v1/uploads"
            )
        files = await self._uploads.files()
        return await files.get(file_id, tenant)

    async def add(self, target: StoredFile, site: str, pieces: AsyncIterator[bytes]) -> StoredFile:
        """Keep the bytes of a part, which come from a `site` as `Owner` has it, and return it.

        Raises:
            FileConflict: the upload is complete.
            TooLarge: a part may not have so many bytes.
            TooManyRequests: the upload has the most parts, or its owner the most files.
            StorageFull: its owner has as many bytes as it may, or the disk is full.
        """
        uploads, files = self._uploads, await self._uploads.files()
        _check_pending(target)
        name = upload_id_of(target.id)
        if len(await files.arriving(target.tenant, name)) >= MAX_PARTS:
            raise TooManyRequests(f"the upload {name} has {MAX_PARTS} parts, the most that it may")
        own_bytes = await in_thread(uploads.folder.own_bytes)
        await files.reserve(target.id, target.size_bytes, own_bytes)  # it waits for as long again
        room_bytes = min(MAX_PART_BYTES, target.size_bytes)
        part = await uploads.begin(
            Owner(target.tenant, site), name, Purpose.USER_DATA, room_bytes, target.keep_s
        )
        is_whole = False
        try:
            upload = await uploads.open(part)
            try:
                async for data in pieces:
                    if upload.size_bytes + len(data) > MAX_PART_BYTES:
                        raise TooLarge(
                            f"the part has more than {MAX_PART_BYTES} bytes, the most of one; send several"
                        )
                    await upload.write(data)
            finally:
                await upload.close()
            await files.reserve(part.id, upload.size_bytes, own_bytes)
            is_whole = True
        finally:
            if not is_whole:
                await uploads.discard(part)
        return part

    async def complete(
        self, target: StoredFile, part_ids: Sequence[str], md5: str | None
    ) -> StoredFile:
        """Join parts in this order and return the file, which is whole; one that is so already is returned as it is.

        Raises:
            InvalidParameter: there is no such part, they have not as many bytes as were announced, or another MD5, or the file is
                one of requests that are wrong.
            FileConflict: another request writes the file.
            StorageFull: the disk has no room for them and for the file.
        """
        if target.is_ready:
            return target
        uploads, name = self._uploads, upload_id_of(target.id)
        files = await uploads.files()
        known = {part.id: part for part in await files.arriving(target.tenant, name)}
        parts = [_chosen(known, each) for each in part_ids]
        if len({part.id for part in parts}) < len(parts):
            raise InvalidParameter("part_ids", "part_ids names a part twice")
        total_bytes = sum(part.size_bytes for part in parts)
        if total_bytes != target.size_bytes:
            raise InvalidParameter(
                "part_ids",
                f"the parts have {total_bytes} bytes, and {target.size_bytes} were announced for the upload {name}",
            )
        await in_thread(partial(uploads.folder.check_room, total_bytes))
        upload = await uploads.open(target)
        try:
            await upload.restart()
            digest = hashlib.md5(usedforsecurity=False)
            for part in parts:
                await self._append(upload, part, digest.update)
            if md5 is not None and digest.hexdigest() != md5.lower():
                raise InvalidParameter(
                    "md5", f"the MD5 of the parts is {digest.hexdigest()}, and md5 is {md5[:80]!r}"
                )
            found = await upload.finish(target.purpose, target.keep_s, None)
        finally:
            await upload.close()
        await self._discard(list(known.values()))
        return found

    async def cancel(self, target: StoredFile) -> None:
        """Forget an upload and its parts; raises `FileConflict`: it is complete."""
        _check_pending(target)
        files = await self._uploads.files()
        parts = await files.arriving(target.tenant, upload_id_of(target.id))
        await self._discard([target, *parts])

    async def _append(
        self, upload: Upload, part: StoredFile, hear: Callable[[bytes], None]
    ) -> None:
        """Write a part at the end of a file."""
        folder = self._uploads.folder
        arriving = await in_thread_or_undone(partial(folder.arriving, part), ArrivingFile.close)
        try:
            if arriving.size_bytes != part.size_bytes:
                raise JobsUnavailable(
                    f"the bytes of {part_id_of(part.id)} are not on this router's disk; routers that share a store give the same"
                    " --jobs-folder"
                )
            at = 0
            while data := await in_thread(partial(arriving.read, at, PIECE_BYTES)):
                at += len(data)
                hear(data)
                await upload.write(data)
        finally:
            await in_thread(arriving.close)

    async def _discard(self, files: Sequence[StoredFile]) -> None:
        for each in files:
            with suppress(FileNotFound):  # its time came, or another request did so
                await self._uploads.discard(each)


def _check_pending(target: StoredFile) -> None:
    if target.is_ready:
        raise FileConflict(
            f"the upload {upload_id_of(target.id)} is complete: its file is {target.id}"
        )


def _chosen(known: Mapping[FileId, StoredFile], part_id: str) -> StoredFile:
    file_id = _file_id_of(part_id, _PART)
    found = None if file_id is None else known.get(file_id)
    if found is None:
        raise InvalidParameter("part_ids", f"the upload has no part {part_id[:80]!r}")
    return found
