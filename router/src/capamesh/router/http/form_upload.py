"""One upload by a form: its file, and the fields beside it in any order. IO: aiohttp; the store; the disk, in threads."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import CapameshError
from capamesh.router.http.arriving_data import Patience, field_text, form_parts, part_pieces
from capamesh.router.http.file_fields import ANCHOR, EXPIRES, keep_s_of, purpose_of
from capamesh.router.jobs.stored_files import UPLOADED, Owner, Purpose, StoredFile, plain_name
from capamesh.router.jobs.uploads.uploads import ROOM_STEP_BYTES, most_bytes
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    from aiohttp import BodyPartReader, web

    from capamesh.router.jobs.uploads.request_lines import RequestLines
    from capamesh.router.jobs.uploads.uploads import Upload, Uploads


class FormUpload:
    """One form."""

    def __init__(self, uploads: Uploads, owner: Owner, patience: Patience) -> None:
        """The file will be the `owner`'s."""
        self._uploads = uploads
        self._owner = owner
        self._patience = patience
        self._purpose: Purpose | None = None
        self._keep_s = keep_s_of(None)
        self._file: StoredFile | None = None
        self._upload: Upload | None = None
        self._lines: RequestLines | None = None
        self._held: Final = ExitStack()
        """The place among those that check requests."""

    async def read(self, request: web.Request) -> StoredFile:
        """Read the form and return the file, which is whole.

        Raises:
            InvalidRequest: the form, or what is in the file, is wrong.
            TooLarge: the file may not have so many bytes.
            TooManyRequests: its owner has the most files.
            StorageFull: its owner has as many bytes as it may, or the disk is full.
        """
        async for part in form_parts(request, self._patience):
            await self._take(part, request.content_length)
        upload, purpose = self._upload, self._purpose
        if upload is None:
            raise InvalidParameter("file", "the form has no file")
        if purpose is None:
            raise InvalidParameter(
                "purpose", f"the form does not say its purpose; it may be {', '.join(UPLOADED)}"
            )
        requests = None if self._lines is None else await self._uploads.checked(self._lines)
        return await upload.finish(purpose, self._keep_s, requests)

    async def close(self, *, is_whole: bool) -> None:
        """Give back what is held; a file that is not whole is forgotten."""
        self._held.close()
        if self._upload is not None:
            await self._upload.close()
        if self._file is not None and not is_whole:
            with suppress(CapameshError):  # its time ends it then
                await self._uploads.discard(self._file)

    async def _take(self, part: BodyPartReader, body_bytes: int | None) -> None:
        match part.name:
            case "file":
                await self._take_file(part, body_bytes)
            case "purpose":
                self._purpose = purpose_of(await field_text(part, self._patience))
            case name if name == EXPIRES:
                self._keep_s = keep_s_of(await field_text(part, self._patience))
            case name if name == ANCHOR:
                anchor = await field_text(part, self._patience)
                if anchor != "created_at":
                    raise InvalidParameter(
                        "expires_after",
                        f"the anchor of expires_after is {anchor[:80]!r}; it may be created_at",
                    )
            case _:  # as OpenAI's server does
                await field_text(part, self._patience)

    async def _take_file(self, part: BodyPartReader, body_bytes: int | None) -> None:
        if self._file is not None:
            raise InvalidParameter("file", "the form has several files; send each by itself")
        uploads = self._uploads
        purpose = self._purpose or Purpose.USER_DATA
        if purpose is Purpose.BATCH:
            self._lines = self._held.enter_context(uploads.checking())
        room_bytes = min(body_bytes or ROOM_STEP_BYTES, most_bytes(purpose))
        name = plain_name(part.filename or "")
        self._file = await uploads.begin(self._owner, name, purpose, room_bytes, self._keep_s)
        self._upload = upload = await uploads.open(self._file)
        async for data in part_pieces(part, self._patience):
            await upload.write(data)
            if self._lines is not None:
                await uploads.check(self._lines, data)
