"""OpenAI's routes for uploads in parts, which become a file of `/v1/files`. IO: aiohttp; the store; the disk, in threads.

A key sees the uploads of its tenant alone; another tenant's is answered as one that is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.oip import parse_object
from capamesh.router.access.keys import Verb
from capamesh.router.http import file_fields as fields
from capamesh.router.http.arriving_data import (
    Patience,
    check_plain,
    field_text,
    form_parts,
    part_pieces,
)
from capamesh.router.http.bodies import read_body
from capamesh.router.http.files import kept_uploads
from capamesh.router.http.job_bodies import owner_submitting, site_asking, tenant_asking
from capamesh.router.http.route import Content, Pages, Route, json_of
from capamesh.router.http.schemas import openai
from capamesh.router.jobs.stored_files import StoredFile, plain_name
from capamesh.router.jobs.uploads.joined import (
    MAX_PARTS,
    JoinedUploads,
    part_id_of,
    upload_id_of,
)
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    from capamesh.router.jobs.uploads.uploads import Uploads

VERBS: Final = (Verb.JOBS,)
MAX_BODY_BYTES: Final = 128 * 1024
"""The most bytes of what is no part: a thousand ids of parts, and some to spare."""
_MD5_DIGITS: Final = 32


class PartUploadsApi(Pages):
    """`/v1/uploads` and one of them."""

    def __init__(self, uploads: Uploads | None, *, arrival_s: float) -> None:
        """A client may send next to nothing for `arrival_s`; None: this router keeps no files."""
        self._uploads = uploads
        self._arrival_s = arrival_s

    @override
    def routes(self) -> list[Route]:
        upload, one = json_of(openai.Upload), "/v1/uploads/{upload}"
        return [
            Route(
                "POST",
                "/v1/uploads",
                self.create_upload,
                VERBS,
                upload,
                body=json_of(openai.UploadRequest),
                errors=(400, 403, 413, 429, 501, 503, 507),
                is_openai=True,
            ),
            Route(
                "POST",
                f"{one}/parts",
                self.add_part,
                VERBS,
                json_of(openai.UploadPart),
                body=(Content(openai.PartForm, "multipart/form-data"),),
                errors=(400, 404, 408, 409, 413, 429, 501, 503, 507),
                is_openai=True,
                is_streamed=True,
            ),
            Route(
                "POST",
                f"{one}/complete",
                self.complete_upload,
                VERBS,
                upload,
                body=json_of(openai.CompleteRequest),
                errors=(400, 404, 409, 413, 429, 501, 503, 507),
                is_openai=True,
            ),
            Route(
                "POST",
                f"{one}/cancel",
                self.cancel_upload,
                VERBS,
                upload,
                errors=(404, 409, 501, 503),
                is_openai=True,
            ),
        ]

    async def create_upload(self, request: web.Request) -> web.Response:
        """Begin a file that comes in parts, as OpenAI's route of that name does. What no part came for in a day is forgotten."""
        joined, owner = self._joined(), owner_submitting(request)
        asked = await self._body(request)
        size_bytes, name = asked.get("bytes"), asked.get("filename")
        if type(size_bytes) is not int or size_bytes < 0:
            raise InvalidParameter(
                "bytes", f"bytes is {size_bytes!r:.80}; a whole number from 0 is expected"
            )
        if not isinstance(name, str):
            raise InvalidParameter("filename", "filename is missing")
        purpose = fields.purpose_of(str(asked.get("purpose", ""))[:80])
        keep_s = fields.asked_keep_s(asked.get("expires_after"), "expires_after")
        file = await joined.begin(owner, plain_name(name), purpose, size_bytes, keep_s)
        return web.json_response(_body(file, "pending"))

    async def add_part(self, request: web.Request) -> web.Response:
        """Send a part of an upload: 64 MiB at most, in any order, and several at once."""
        joined = self._joined()
        check_plain(request)
        target = await self._found(request)
        part = await self._at_place(
            target, joined.add(target, site_asking(request), self._pieces(request))
        )
        body: openai.UploadPart = {
            "id": part_id_of(part.id),
            "object": "upload.part",
            "created_at": int(part.created_s),
            "upload_id": upload_id_of(target.id),
        }
        return web.json_response(body)

    async def complete_upload(self, request: web.Request) -> web.Response:
        """Make a file of the parts of an upload, in the order of `part_ids`; asked again, the answer is the same."""
        joined, target = self._joined(), await self._found(request)
        asked = await self._body(request)
        given, md5 = asked.get("part_ids"), asked.get("md5")
        part_ids = cast("list[object]", given) if isinstance(given, list) else []
        if not isinstance(given, list) or not all(isinstance(each, str) for each in part_ids):
            raise InvalidParameter("part_ids", "part_ids is missing; a list of ids is expected")
        if len(part_ids) > MAX_PARTS:
            raise InvalidParameter(
                "part_ids",
                f"part_ids has {len(part_ids)} ids; an upload has at most {MAX_PARTS} parts",
            )
        if md5 is not None and not (isinstance(md5, str) and len(md5) == _MD5_DIGITS):
            raise InvalidParameter("md5", f"md5 is {md5!r:.80}; {_MD5_DIGITS} digits are expected")
        joining = joined.complete(target, cast("list[str]", part_ids), md5)
        file = await self._at_place(target, joining)
        return web.json_response(_body(file, "completed"))

    async def cancel_upload(self, request: web.Request) -> web.Response:
        """Forget an upload and its parts, unless it is complete."""
        joined, target = self._joined(), await self._found(request)
        await joined.cancel(target)
        return web.json_response(_body(target, "cancelled"))

    async def _at_place(
        self, target: StoredFile, work: Coroutine[Any, Any, StoredFile]
    ) -> StoredFile:
        """Do work that writes files at one of the places for that; if the client leaves, it is undone first."""
        with closing(work), kept_uploads(self._uploads).place(target.tenant):
            task = asyncio.ensure_future(work)
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait([task])
                raise

    def _joined(self) -> JoinedUploads:
        return JoinedUploads(kept_uploads(self._uploads))

    async def _found(self, request: web.Request) -> StoredFile:
        return await self._joined().find(request.match_info["upload"], tenant_asking(request))

    async def _body(self, request: web.Request) -> dict[str, Any]:
        body = await read_body(request, arrival_s=self._arrival_s, most_bytes=MAX_BODY_BYTES)
        return parse_object(body)

    async def _pieces(self, request: web.Request) -> AsyncIterator[bytes]:
        """Yield the part that a form has; raises `InvalidParameter`: it has none, or several."""
        patience, count = Patience(request, self._arrival_s), 0
        async for part in form_parts(request, patience):
            if part.name != "data":
                await field_text(part, patience)
                continue
            count += 1
            if count > 1:
                raise InvalidParameter("data", "the form has several parts; send each by itself")
            async for piece in part_pieces(part, patience):
                yield piece
        if not count:
            raise InvalidParameter("data", "the form has no data")


def _body(file: StoredFile, status: Literal["pending", "completed", "cancelled"]) -> openai.Upload:
    return {
        "id": upload_id_of(file.id),
        "object": "upload",
        "bytes": file.size_bytes,
        "created_at": int(file.created_s),
        "expires_at": int(file.expires_s),
        "filename": file.name,
        "purpose": file.purpose.value,
        "status": status,
        "file": fields.file_body(file) if status == "completed" else None,
    }
