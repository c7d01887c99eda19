"""OpenAI's routes for files, and beside them uploads that go on where they broke off. IO: aiohttp; the store; the disk, in threads.

A key sees the files of its tenant alone; another tenant's is answered as one that is not there.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, Literal

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import FileConflict, InvalidRequest, Unsupported
from capamesh.protocol.schema import Meta
from capamesh.router.access.keys import Verb
from capamesh.router.http import file_fields as fields
from capamesh.router.http.arriving_data import Patience, body_pieces, check_plain
from capamesh.router.http.file_content import RangeRefused, range_refusal, send_file
from capamesh.router.http.form_upload import FormUpload
from capamesh.router.http.job_bodies import owner_submitting, tenant_asking
from capamesh.router.http.openai_errors import openai_error
from capamesh.router.http.replies import OCTETS
from capamesh.router.http.route import Content, Pages, Parameter, Route, json_of
from capamesh.router.http.schemas import openai
from capamesh.router.jobs.stored_files import Owner, Purpose, StoredFile
from capamesh.router.jobs.uploads.uploads import in_thread, in_thread_or_undone
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    from capamesh.router.jobs.uploads.uploads import Upload, Uploads

VERBS: Final = (Verb.JOBS,)
_FILE: Final = "/v1/files/{file}"
_BYTES: Final = Annotated[int, Meta(ge=0)]
_OFFSET: Final = Parameter(
    fields.UPLOAD_OFFSET,
    "The bytes of the file that are before those of the body: all that are here.",
    _BYTES,
)


class FilesApi(Pages):
    """`/v1/files` and one of them."""

    def __init__(self, uploads: Uploads | None, *, arrival_s: float) -> None:
        """A client may send next to nothing for `arrival_s`; None: this router keeps no files."""
        self._uploads = uploads
        self._arrival_s = arrival_s

    @override
    def routes(self) -> list[Route]:
        file = json_of(openai.File)
        return [
            Route(
                "POST",
                "/v1/files",
                self.create_file,
                VERBS,
                file,
                body=(Content(openai.FileForm, "multipart/form-data"),),
                headers=(
                    Parameter(
                        fields.UPLOAD_LENGTH,
                        "The bytes of a file that is sent by PATCH; the request has no body then.",
                        _BYTES,
                    ),
                    Parameter(
                        fields.UPLOAD_NAME,
                        "The name of such a file, with %XX for what is no ASCII.",
                    ),
                    Parameter(
                        fields.UPLOAD_PURPOSE,
                        "The purpose of such a file; left out: user_data.",
                        Literal["batch", "user_data"],
                    ),
                    Parameter(
                        fields.UPLOAD_EXPIRES_AFTER,
                        "The seconds for which such a file is kept; left out: 30 days.",
                        Annotated[int, Meta(ge=3600, le=2_592_000)],
                    ),
                ),
                errors=(400, 403, 404, 408, 413, 429, 501, 503, 507),
                others={201: file},
                is_openai=True,
                is_streamed=True,
            ),
            Route(
                "GET",
                "/v1/files",
                self.files,
                VERBS,
                json_of(openai.Files),
                query=(
                    Parameter("purpose", "The purpose that files must have.", Purpose),
                    Parameter(
                        "limit",
                        "The most files of the answer.",
                        Annotated[int, Meta(ge=1, le=10_000)],
                    ),
                    Parameter("after", "The id of the file after which to begin."),
                    Parameter(
                        "order",
                        "The order of their times: desc has the newest first.",
                        Literal["asc", "desc"],
                    ),
                ),
                errors=(400, 501, 503),
                is_openai=True,
            ),
            Route("GET", _FILE, self.file, VERBS, file, errors=(404, 501, 503), is_openai=True),
            Route(
                "PATCH",
                _FILE,
                self.append,
                VERBS,
                file,
                body=(Content(bytes, OCTETS),),
                headers=(_OFFSET,),
                errors=(400, 404, 408, 409, 413, 429, 501, 503, 507),
                is_openai=True,
                is_streamed=True,
            ),
            Route(
                "DELETE",
                _FILE,
                self.delete_file,
                VERBS,
                json_of(openai.DeletedFile),
                errors=(404, 409, 501, 503),
                is_openai=True,
            ),
            Route(
                "GET",
                f"{_FILE}/content",
                self.content,
                VERBS,
                (Content(bytes, OCTETS),),
                headers=(
                    Parameter(
                        "Range", "The range of its bytes that is wanted, as `bytes=FIRST-LAST`."
                    ),
                ),
                errors=(404, 409, 416, 501, 503),
                others={206: (Content(bytes, OCTETS),)},
                is_openai=True,
            ),
        ]

    async def create_file(self, request: web.Request) -> web.Response:
        """Upload a file, as OpenAI's route of that name does; one of purpose `batch` is checked line by line while it arrives.

        With `Upload-Length` the request has no body, and the file is sent by PATCH, in as many requests as it takes: one that breaks
        off is continued where it ended, which HEAD tells.
        """
        uploads, owner = self._kept(), owner_submitting(request)
        check_plain(request)
        if fields.UPLOAD_LENGTH in request.headers:
            return await self._begin(uploads, owner, request)
        with uploads.place(owner.tenant):
            form = FormUpload(uploads, owner, Patience(request, self._arrival_s))
            is_whole = False
            try:
                file = await form.read(request)
                is_whole = True
            finally:
                await asyncio.shield(form.close(is_whole=is_whole))
        return web.json_response(fields.file_body(file))

    async def files(self, request: web.Request) -> web.Response:
        """Return the files of the key's tenant that are whole, or all for the operator."""
        uploads, asked = self._kept(), fields.page_of(request)
        store = await uploads.files()
        found = await store.page(tenant_asking(request), **{**asked, "count": asked["count"] + 1})
        shown = found[: asked["count"]]
        body: openai.Files = {
            "object": "list",
            "data": [fields.file_body(file) for file in shown],
            "first_id": shown[0].id if shown else None,
            "last_id": shown[-1].id if shown else None,
            "has_more": len(found) > len(shown),
        }
        return web.json_response(body)

    async def file(self, request: web.Request) -> web.Response:
        """Return a file, without its bytes. `Upload-Offset` says how many of them are here, also to HEAD."""
        file = await self._found(request)
        arrived_bytes = file.size_bytes
        if not file.is_ready:
            arrived_bytes = await in_thread(partial(self._kept().folder.arrived_bytes, file))
        return fields.file_answer(file, arrived_bytes)

    async def append(self, request: web.Request) -> web.Response:
        """Send the next bytes of a file that was begun with `Upload-Length`; the file is whole once all of them are here.

        Where `Upload-Offset` is not the end of what is here, the answer has the status 409 and the right one. What came of a request
        that broke off is kept.
        """
        uploads = self._kept()
        check_plain(request)
        offset = fields.bytes_of(request, fields.UPLOAD_OFFSET)
        file = await self._found(request)
        if file.is_ready:
            return _conflict(file, offset, file.size_bytes)
        with uploads.place(file.tenant):
            upload = await uploads.open(file)
            try:
                file = await self._found(request)  # another request may have ended it just before
                at = file.size_bytes if file.is_ready else upload.size_bytes
                if file.is_ready or offset != at:
                    return _conflict(file, offset, at)
                await self._append(request, upload)
                if upload.size_bytes < file.size_bytes:
                    return fields.file_answer(file, upload.size_bytes)
                return fields.file_answer(await self._finished(upload), file.size_bytes)
            finally:
                await asyncio.shield(upload.close())

    async def delete_file(self, request: web.Request) -> web.Response:
        """Delete a file, unless a job or a batch under way reads it."""
        uploads = self._kept()
        store = await uploads.files()
        file = await store.remove(fields.file_id_of(request), tenant_asking(request))
        await in_thread(partial(uploads.folder.remove, file.tenant, file.id))
        body: openai.DeletedFile = {"id": file.id, "object": "file", "deleted": True}
        return web.json_response(body)

    async def content(self, request: web.Request) -> web.StreamResponse:
        """Return the bytes of a file, or a range of them."""
        file = await self._found(request)
        if not file.is_ready:
            raise FileConflict(
                f"the bytes of the file {file.id} are still to come; HEAD tells how far it is"
            )
        descriptor = await in_thread_or_undone(partial(self._kept().folder.open, file), os.close)
        try:
            return await send_file(request, descriptor, file.size_bytes, file.sha256, file.name)
        except RangeRefused as error:
            return range_refusal(error, file.size_bytes)
        finally:
            os.close(descriptor)

    def _kept(self) -> Uploads:
        return kept_uploads(self._uploads)

    async def _found(self, request: web.Request) -> StoredFile:
        store = await self._kept().files()
        return await store.get(fields.file_id_of(request), tenant_asking(request))

    async def _begin(self, uploads: Uploads, owner: Owner, request: web.Request) -> web.Response:
        """Begin an upload that is sent by PATCH."""
        size_bytes = fields.announced_bytes(request)
        purpose = fields.purpose_of(
            request.headers.get(fields.UPLOAD_PURPOSE, Purpose.USER_DATA.value)
        )
        keep_s = fields.keep_s_of(request.headers.get(fields.UPLOAD_EXPIRES_AFTER))
        file = await uploads.begin(owner, fields.name_of(request), purpose, size_bytes, keep_s)
        if not size_bytes:
            upload = await uploads.open(file)
            try:
                file = await self._finished(upload)
            finally:
                await asyncio.shield(upload.close())
        return fields.file_answer(file, 0, status=201)

    async def _append(self, request: web.Request, upload: Upload) -> None:
        """Write the body of a request; raises `InvalidRequest`: the file was announced to have fewer bytes."""
        file = upload.file
        await upload.keep()
        left = file.size_bytes - upload.size_bytes
        if (request.content_length or 0) > left:
            raise _too_long(file, left)
        patience = Patience(request, self._arrival_s)
        async for data in body_pieces(request, patience):
            left = file.size_bytes - upload.size_bytes
            await upload.write(data[:left])
            if len(data) > left:
                raise _too_long(file, left)

    async def _finished(self, upload: Upload) -> StoredFile:
        """Return a file all of whose bytes are here; raises what is wrong with them, and the file is no more then."""
        file = upload.file
        try:
            return await upload.finish(file.purpose, file.keep_s, None)
        except InvalidParameter:
            await asyncio.shield(self._kept().discard(file))
            raise


def kept_uploads(uploads: Uploads | None) -> Uploads:
    """Return a router's uploads; raises `Unsupported`: it keeps none."""
    if uploads is None:
        raise Unsupported("this router keeps no jobs and no files: it was started with --no-jobs")
    return uploads


def _conflict(file: StoredFile, offset: int, right: int) -> web.Response:
    words = "all of it is here" if file.is_ready else "go on from there"
    error = FileConflict(
        f"{fields.UPLOAD_OFFSET} is {offset}, and {right} bytes of the file {file.id} are here: {words}"
    )
    answer = openai_error(error)
    answer.headers[fields.UPLOAD_OFFSET] = str(right)
    return answer


def _too_long(file: StoredFile, left: int) -> InvalidRequest:
    return InvalidRequest(
        f"the request has more than the {left} bytes that are missing of the {file.size_bytes} that the file was announced"
        " to have"
    )
