"""OpenAI's routes for batches: files of requests that are answered in the background. IO: aiohttp; the store.

A key sees the batches of its tenant alone; another tenant's is answered as one that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, cast

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import FileConflict, FileNotFound
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.oip import parse_object
from capamesh.protocol.schema import Meta
from capamesh.router.access.keys import Verb
from capamesh.router.http import options
from capamesh.router.http.bodies import read_body
from capamesh.router.http.file_fields import asked_keep_s
from capamesh.router.http.job_bodies import limit_of, tenant_asking, tenant_submitting
from capamesh.router.http.jobs import has_jobs
from capamesh.router.http.key_check import key_of
from capamesh.router.http.options import idempotency_key_of
from capamesh.router.http.route import Pages, Parameter, Route, json_of
from capamesh.router.http.schemas import openai
from capamesh.router.jobs.batches import (
    Batch,
    BatchAsked,
    BatchState,
    batch_id_of,
    check_metadata,
    job_of,
    window_s,
)
from capamesh.router.jobs.endpoints import ENDPOINTS
from capamesh.router.jobs.inputs.requests import COLUMNS
from capamesh.router.jobs.places import is_file_id
from capamesh.router.jobs.spec import (
    FailurePolicy,
    InputFormat,
    InputSpec,
    JobSpec,
    OutputFormat,
    OutputSpec,
)
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.stored_files import FileId, Purpose, StoredFile
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    from capamesh.router.jobs.service import JobService
    from capamesh.router.jobs.views import JobView

VERBS: Final = (Verb.JOBS,)
MAX_BODY_BYTES: Final = 64 * 1024
MOST_BAD_ROWS: Final = 10**12
"""The bad rows that a batch bears: all, for each request has an error of its own."""
"""The columns of the job: the bodies of the requests."""


class BatchesApi(Pages):
    """`/v1/batches` and one of them."""

    def __init__(self, service: JobService | None, *, arrival_s: float) -> None:
        """A body may take `arrival_s` to arrive. `service` has the jobs; None: this router keeps none."""
        self._service = service
        self._arrival_s = arrival_s

    @override
    def routes(self) -> list[Route]:
        batch = json_of(openai.Batch)
        one = "/v1/batches/{batch}"
        return [
            Route(
                "POST",
                "/v1/batches",
                self.create_batch,
                VERBS,
                batch,
                body=json_of(openai.BatchRequest),
                headers=(
                    Parameter(
                        options.IDEMPOTENCY_KEY,
                        "A name for the batch: created again under it, it is the same batch.",
                    ),
                    Parameter(
                        options.TENANT, "The tenant whose batch it is; a key says it itself."
                    ),
                ),
                errors=(400, 403, 404, 409, 429, 501, 503),
                is_openai=True,
            ),
            Route(
                "GET",
                "/v1/batches",
                self.batches,
                VERBS,
                json_of(openai.Batches),
                query=(
                    Parameter(
                        "limit",
                        "The most batches of the answer; left out: 20.",
                        Annotated[int, Meta(ge=1, le=100)],
                    ),
                    Parameter("after", "The id of the batch after which to begin."),
                ),
                errors=(400, 404, 501, 503),
                is_openai=True,
            ),
            Route("GET", one, self.batch, VERBS, batch, errors=(404, 501, 503), is_openai=True),
            Route(
                "POST",
                f"{one}/cancel",
                self.cancel_batch,
                VERBS,
                batch,
                errors=(404, 409, 501, 503),
                is_openai=True,
            ),
        ]

    async def create_batch(self, request: web.Request) -> web.Response:
        """Have the requests of an uploaded file answered in the background, as OpenAI's route of that name does."""
        service = has_jobs(self._service)
        tenant, key = tenant_submitting(request), key_of(request)
        body = await read_body(request, arrival_s=self._arrival_s, most_bytes=MAX_BODY_BYTES)
        asked, allowed_s = _asked(parse_object(body))
        store = await service.store()
        file = _requests(asked, await store.files.get(asked.input_file, tenant))
        self._check_task(service, asked, file)
        spec = JobSpec(
            file.requests.model,
            InputSpec(f"upload:{file.id}", InputFormat.BATCH, dict(COLUMNS)),
            OutputSpec("", OutputFormat.BATCH),
            deadline_s=service.wall_s() + allowed_s,
            failure=FailurePolicy(most_bad_rows=MOST_BAD_ROWS),
            client_key=idempotency_key_of(request.headers),
        )
        spec, pinned = await service.checked(spec, tenant, key)
        batch, _ = await store.batches.create(tenant, spec, pinned, asked)
        service.runner.wake()
        return await self._shown(batch)

    async def batches(self, request: web.Request) -> web.Response:
        """Return the batches of the key's tenant, the newest first, or all for the operator."""
        service = has_jobs(self._service)
        limit, after = limit_of(request), request.query.get("after")
        last = None if after is None else job_of(after)
        store = await service.store()
        found = await store.batches.page(tenant_asking(request), last, limit + 1)
        shown = found[:limit]
        views = await service.views.of_each([batch.job for batch in shown])
        data = [_body(batch, view) for batch, view in zip(shown, views, strict=True)]
        body: openai.Batches = {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(found) > limit,
        }
        return web.json_response(body)

    async def batch(self, request: web.Request) -> web.Response:
        """Return a batch: its state, how far it is, and its files once it has ended."""
        return await self._shown(await self._found(request))

    async def cancel_batch(self, request: web.Request) -> web.Response:
        """Cancel a batch: what was answered is kept, in its files. Cancelled again, it stays so."""
        service = has_jobs(self._service)
        batch = await self._found(request)
        store = await service.store()
        await store.move(batch.job.id, JobState.CANCELLED, "", tenant_asking(request))
        service.runner.wake()
        service.views.forget(batch.job.id)
        return await self._shown(await self._found(request))

    async def _found(self, request: web.Request) -> Batch:
        store = await has_jobs(self._service).store()
        return await store.batches.get(job_of(request.match_info["batch"]), tenant_asking(request))

    async def _shown(self, batch: Batch) -> web.Response:
        view = await has_jobs(self._service).views.of(batch.job)
        return web.json_response(_body(batch, view))

    def _check_task(self, service: JobService, asked: BatchAsked, file: StoredFile) -> None:
        """Raise `InvalidParameter` where the model of the requests is known to be for something else."""
        endpoint = ENDPOINTS[asked.endpoint]
        offer = service.fleet.offer(ModelName(file.requests.model), ModelVersion(""))
        if offer is not None and offer.task is not endpoint.task:
            is_for = f"is for {offer.task}" if offer.task else "takes tensors alone"
            raise InvalidParameter(
                "input_file_id",
                f"model {file.requests.model!r} {is_for}, and {endpoint.path} is of models for {endpoint.task}",
            )


def _asked(values: dict[str, Any]) -> tuple[BatchAsked, float]:
    """Return what a client asks for, and the seconds that it may take. Raises `InvalidParameter`."""
    file, endpoint = values.get("input_file_id"), values.get("endpoint")
    if not isinstance(file, str) or not file:
        raise InvalidParameter(
            "input_file_id",
            "input_file_id is missing; upload a file of purpose batch: POST /v1/files",
        )
    if endpoint not in tuple(ENDPOINTS):
        raise InvalidParameter(
            "endpoint", f"endpoint is {endpoint!r:.80}; it may be {', '.join(ENDPOINTS)}"
        )
    if not is_file_id(file):
        raise FileNotFound(f"there is no file {file[:80]!r}; GET /v1/files lists them")
    window = values.get("completion_window")
    allowed_s = window_s(window)
    metadata = check_metadata(values.get("metadata"))
    keep_s = asked_keep_s(values.get("output_expires_after"), "output_expires_after")
    asked = BatchAsked(cast("str", endpoint), FileId(file), cast("str", window), keep_s, metadata)
    return asked, allowed_s


def _requests(asked: BatchAsked, file: StoredFile) -> StoredFile:
    """Return the file of requests. Raises `InvalidParameter` or `FileConflict`: it is none, or is not whole."""
    if file.purpose is not Purpose.BATCH:
        raise InvalidParameter(
            "input_file_id",
            f"the file {file.id} has the purpose {file.purpose}; one that was uploaded for batch is expected",
        )
    if not file.is_ready:
        raise FileConflict(
            f"the bytes of the file {file.id} are still to come; HEAD tells how far it is"
        )
    if file.requests.endpoint != asked.endpoint:
        raise InvalidParameter(
            "endpoint",
            f"endpoint is {asked.endpoint!r}, and the requests of the file are for {file.requests.endpoint}",
        )
    return file


def _body(batch: Batch, view: JobView) -> openai.Batch:
    """Return a batch as JSON."""
    job, asked, state = batch.job, batch.asked, batch.state
    ended = None if job.ended_s is None else int(job.ended_s)
    made = None if batch.made_s is None else int(batch.made_s)
    created = int(job.created_s)
    was_cancelled = job.state is JobState.CANCELLED
    words = job.reason if job.state is JobState.FAILED else batch.trouble
    return {
        "id": batch_id_of(job.id),
        "object": "batch",
        "endpoint": asked.endpoint,
        "model": job.spec.model,
        "errors": _errors(job.state.value if job.state is JobState.FAILED else "files", words),
        "input_file_id": asked.input_file,
        "completion_window": asked.window,
        "status": state.value,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": created,
        "in_progress_at": created if job.shards else None,
        "expires_at": None if job.spec.deadline_s is None else int(job.spec.deadline_s),
        "finalizing_at": None if was_cancelled else ended,
        "completed_at": made if state is BatchState.COMPLETED else None,
        "failed_at": made if state is BatchState.FAILED else None,
        "expired_at": made if state is BatchState.EXPIRED else None,
        "cancelling_at": ended if was_cancelled else None,
        "cancelled_at": made if state is BatchState.CANCELLED else None,
        "request_counts": {
            "total": job.rows,
            "completed": view.counts.rows,
            "failed": view.counts.bad_rows,
        },
        "metadata": asked.metadata or None,
    }


def _errors(code: str, words: str) -> openai.BatchErrors | None:
    if not words:
        return None
    error: openai.BatchError = {"code": code, "message": words, "line": None, "param": None}
    return {"object": "list", "data": [error]}
