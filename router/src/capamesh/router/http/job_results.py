"""The routes by which clients read what has come of a batch job: results by row, parts, and rows that have none. IO: aiohttp; parts.

All of it goes through manifests: a file that none names is never served.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Final

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.schema import Meta
from capamesh.router.http.job_bodies import job_of, limit_of, number_of, tenant_asking
from capamesh.router.http.jobs import LIMIT, VERBS, has_jobs
from capamesh.router.http.route import Content, Pages, Parameter, Route, json_of
from capamesh.router.http.schemas import jobs as schemas
from capamesh.router.jobs.outputs.part_lines import CHUNK_BYTES
from capamesh.router.jobs.reading import end_of
from capamesh.router.jobs.spec import OutputFormat

if TYPE_CHECKING:
    from capamesh.router.jobs.service import JobService
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.values import Job, Manifest, Part, RowRange

JSON_LINES: Final = "application/x-ndjson"
OCTETS: Final = "application/octet-stream"
NEXT_ROW: Final = "Capamesh-Next-Row"
"""Says from which row on to ask next: those before it will not change."""
WRITE_S: Final = 30.0
"""Seconds that a client may take to read a piece of results (guess); one that takes longer is hung up on."""
Number = Annotated[int, Meta(ge=0)]
_NAME: Final = re.compile(r"(?:part|bad)-([0-9]{6,9})-[0-9]{1,9}\.[a-z]{1,16}", re.ASCII)
_SAFE: Final = {
    # what is in them is a client's: no browser is to take it for a page of the router's
    "X-Content-Type-Options": "nosniff",
    "Content-Disposition": "attachment",
    "Cache-Control": "no-store",
}


class JobResultsApi(Pages):
    """`/v1/jobs/{job}/results`, `/parts`, one of them, and `/errors`."""

    def __init__(self, service: JobService | None) -> None:
        """`service` has the jobs; None: this router keeps none."""
        self._service = service

    @override
    def routes(self) -> list[Route]:
        job = "/v1/jobs/{job}"
        return [
            Route(
                "GET",
                f"{job}/results",
                self.job_results,
                VERBS,
                (Content(str, JSON_LINES),),
                query=(
                    Parameter("from_row", "The number of the first row; left out: 0.", Number),
                    Parameter("rows", "The most rows; left out: all.", Number),
                    Parameter("format", "`jsonl`."),
                ),
                errors=(400, 404, 429, 501, 503),
            ),
            Route(
                "GET",
                f"{job}/parts",
                self.job_parts,
                VERBS,
                json_of(schemas.JobParts),
                query=(LIMIT, Parameter("after", "The shard after which to begin.", Number)),
                errors=(400, 404, 501, 503),
            ),
            Route(
                "GET",
                f"{job}/parts/{{name}}",
                self.job_part,
                VERBS,
                (Content(bytes, OCTETS), Content(bytes, JSON_LINES)),
                headers=(Parameter("Range", "The bytes that are wanted, as `bytes=0-99`."),),
                errors=(404, 416, 429, 501, 503),
                others={206: (Content(bytes, OCTETS), Content(bytes, JSON_LINES))},
            ),
            Route(
                "GET",
                f"{job}/errors",
                self.job_errors,
                VERBS,
                json_of(schemas.JobErrors),
                query=(LIMIT, Parameter("after", "The row after which to begin.", Number)),
                errors=(400, 404, 501, 503),
            ),
        ]

    async def job_results(self, request: web.Request) -> web.StreamResponse:
        """Return the results of rows as JSON lines, in the order of their numbers: `row`, `id`, and `outputs` by name.

        While the job is under way they end before the first row that has no result yet; of a job that has ended, rows without one are
        left out. The header `Capamesh-Next-Row` is the row from which to ask next: whoever goes on so reads each row once.
        """
        service = has_jobs(self._service)
        form = request.query.get("format", "jsonl")
        if form != "jsonl":
            raise InvalidRequest(
                f"format is {form[:80]!r}; results are sent as jsonl, and as files by /parts"
            )
        first = number_of(request, "from_row", 0)
        rows = number_of(request, "rows", 0) if "rows" in request.query else None
        store, job = await self._job(request)
        if job.spec.output.format is OutputFormat.BATCH:
            raise InvalidRequest(
                "the results of a batch are its output file, as /v1/batches names it"
            )
        seq, gap = await store.place_of(job.id, first)
        end = end_of(job, first, rows, gap)
        sink = service.places.sink(job.spec.output.url, job.id)
        with service.reading.place(tenant_asking(request) or ""):
            lines = service.reading.lines(store, sink, job, seq, first, end)
            async with aclosing(lines):
                # what is wrong with the first is told as an error: the head is not sent yet
                piece = await anext(lines, b"")
                headers = {"Content-Type": JSON_LINES, NEXT_ROW: str(end), **_SAFE}
                response = web.StreamResponse(headers=headers)
                try:
                    await response.prepare(request)
                    while piece:
                        await _write(response, piece)
                        piece = await anext(lines, b"")
                except (ConnectionError, TimeoutError, CapameshError):
                    # it left, reads nothing, or a part cannot be read: that the body ends too soon tells it so
                    if request.transport is not None:
                        request.transport.abort()
        return response

    async def job_parts(self, request: web.Request) -> web.Response:
        """Return the files that a job's results lie in, by their rows, as far as they are committed."""
        limit, after = limit_of(request), number_of(request, "after", -1)
        store, job = await self._job(request)
        found = await store.manifests(job.id, after + 1, limit + 1)
        shown = [_part_body(*each) for each in found[:limit]]
        return web.json_response({"object": "list", "data": shown, "has_more": len(found) > limit})

    async def job_part(self, request: web.Request) -> web.StreamResponse:
        """Return one of these files, or some bytes of it."""
        service = has_jobs(self._service)
        store, job = await self._job(request)
        part = await _part_named(store, job, request.match_info["name"])
        if part is None:
            raise web.HTTPNotFound
        first, end = _range_of(request, part)
        is_lines = part.name.endswith((".jsonl", ".batch"))
        headers = {
            **_SAFE,
            "Content-Type": JSON_LINES if is_lines else OCTETS,
            "Content-Length": str(end - first),
            "ETag": f'"{part.sha256}"',
            "Accept-Ranges": "bytes",
        }
        is_whole = end - first == part.size_bytes
        if not is_whole:
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{part.size_bytes}"
        sink = service.places.sink(job.spec.output.url, job.id)
        with service.reading.place(tenant_asking(request) or ""):
            file = await service.reading.opened(sink, part)
            response = web.StreamResponse(status=200 if is_whole else 206, headers=headers)
            try:
                await response.prepare(request)
                at = first
                while request.method != "HEAD" and at < end:
                    piece = await service.reading.piece(file, at, end - at)
                    await _write(response, piece)
                    at += len(piece)
            except (ConnectionError, TimeoutError, CapameshError):
                if request.transport is not None:
                    request.transport.abort()
            finally:
                file.close()
        return response

    async def job_errors(self, request: web.Request) -> web.Response:
        """Return the rows of a job that have no result and never will, by their number, the first 10,000 of them.

        All of them are in the files that `/parts` names as `bad_name`.
        """
        limit, after = limit_of(request), number_of(request, "after", -1)
        store, job = await self._job(request)
        found = await store.bad_rows(job.id, after, limit + 1)
        shown: list[schemas.JobError] = [
            {
                "row": each.row,
                "id": each.row_id,
                "code": each.code,
                "message": each.text,
                "node": each.node,
            }
            for each in found[:limit]
        ]
        return web.json_response({"object": "list", "data": shown, "has_more": len(found) > limit})

    async def _job(self, request: web.Request) -> tuple[JobStore, Job]:
        store = await has_jobs(self._service).store()
        return store, await store.get(job_of(request), tenant_asking(request))


async def _write(response: web.StreamResponse, piece: bytes) -> None:
    """Write to a client, and let others have their turn; raise `TimeoutError` if it does not read."""
    for at in range(0, len(piece), CHUNK_BYTES):
        async with asyncio.timeout(WRITE_S):
            await response.write(piece[at : at + CHUNK_BYTES])
        await asyncio.sleep(0)


def _part_body(seq: int, shard: RowRange, manifest: Manifest) -> schemas.JobPart:
    part, bad = manifest.part, manifest.bad_part
    return {
        "seq": seq,
        "first_row": shard.first_row,
        "rows": manifest.rows,
        "bad_rows": manifest.bad_rows,
        "name": None if part is None else part.name,
        "size_bytes": 0 if part is None else part.size_bytes,
        "sha256": "" if part is None else part.sha256,
        "bad_name": None if bad is None else bad.name,
    }


async def _part_named(store: JobStore, job: Job, name: str) -> Part | None:
    """Return a part by its name, if a manifest has it."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    seq = int(found[1])
    for number, _, manifest in await store.manifests(job.id, seq, 1):
        for part in (manifest.part, manifest.bad_part):
            if number == seq and part is not None and part.name == name:
                return part
    return None


def _range_of(request: web.Request, part: Part) -> tuple[int, int]:
    """Return the bytes that are wanted, from one to before another; all where nothing, or no range of bytes, is asked for.

    Raises `HTTPRequestRangeNotSatisfiable`.
    """
    try:
        asked = request.http_range
    except ValueError:  # another unit, or several ranges: RFC 9110 has a server send all
        return 0, part.size_bytes
    first, end, _ = asked.indices(part.size_bytes)
    is_asked = asked.start is not None or asked.stop is not None
    if is_asked and first >= end:
        raise web.HTTPRequestRangeNotSatisfiable(
            headers={"Content-Range": f"bytes */{part.size_bytes}"},
            text=f"the file has {part.size_bytes} bytes",
        )
    return first, end
