"""The routes by which batch jobs are submitted, listed, shown, paused, resumed and cancelled. IO: aiohttp; the store of jobs.

A key sees the jobs of its tenant alone; another tenant's is answered as one that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import InvalidRequest, Unsupported
from capamesh.protocol.oip import parse_object
from capamesh.protocol.schema import Meta
from capamesh.router.access.keys import Verb
from capamesh.router.http import options
from capamesh.router.http.bodies import read_body
from capamesh.router.http.job_bodies import (
    MAX_LIMIT,
    job_body,
    job_of,
    limit_of,
    promise_body,
    tenant_asking,
    tenant_submitting,
)
from capamesh.router.http.key_check import key_of
from capamesh.router.http.options import idempotency_key_of
from capamesh.router.http.route import Handler, Pages, Parameter, Route, json_of
from capamesh.router.http.schemas import jobs as schemas
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.submitting import spec_of
from capamesh.router.jobs.values import Counts, job_id_of

if TYPE_CHECKING:
    from capamesh.router.jobs.service import JobService
    from capamesh.router.jobs.values import Job

MAX_BODY_BYTES: Final = 256 * 1024
"""The largest job that is submitted (guess: some thousand names of columns)."""
VERBS: Final = (Verb.JOBS,)
Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]
LIMIT: Final = Parameter("limit", "The most entries of the answer; left out: 20.", Limit)


class JobsApi(Pages):
    """`/v1/jobs`, one of them, and what moves it into another state."""

    def __init__(self, service: JobService | None, *, arrival_s: float) -> None:
        """A body may take `arrival_s` to arrive. `service` has the jobs; None: this router keeps none."""
        self._service = service
        self._arrival_s = arrival_s

    @override
    def routes(self) -> list[Route]:
        job = json_of(schemas.Job)
        return [
            Route(
                "POST",
                "/v1/jobs",
                self.submit_job,
                VERBS,
                (*job, *json_of(schemas.JobPromise)),
                body=json_of(schemas.JobRequest),
                headers=(
                    Parameter(options.IDEMPOTENCY_KEY, "The same as `client_key`."),
                    Parameter(options.TENANT, "The tenant whose job it is; a key says it itself."),
                ),
                errors=(400, 403, 404, 409, 429, 501, 503),
                others={201: job},
            ),
            Route(
                "GET",
                "/v1/jobs",
                self.jobs,
                VERBS,
                json_of(schemas.Jobs),
                query=(
                    LIMIT,
                    Parameter("after", "The id of the job after which to begin."),
                    Parameter("state", "The state that jobs must have.", schemas.State),
                ),
                errors=(400, 404, 501, 503),
            ),
            Route("GET", "/v1/jobs/{job}", self.job, VERBS, job, errors=(404, 501, 503)),
            self._move("pause", self.pause_job),
            self._move("resume", self.resume_job),
            self._move("cancel", self.cancel_job),
        ]

    def _move(self, word: str, handler: Handler) -> Route:
        path = f"/v1/jobs/{{job}}/{word}"
        return Route(
            "POST", path, handler, VERBS, json_of(schemas.Job), errors=(404, 409, 501, 503)
        )

    async def submit_job(self, request: web.Request) -> web.Response:
        """Submit a job: a model is run over all rows of a data set, with what of the fleet is idle.

        The answer has status 201, or 200 if the tenant submitted the job before under the same `client_key`. With `dry_run` some of
        its rows are run, and paid for, for ten seconds at most, and it only says how long the job would take.
        """
        service = has_jobs(self._service)
        tenant = tenant_submitting(request)
        body = await read_body(request, arrival_s=self._arrival_s, most_bytes=MAX_BODY_BYTES)
        values = parse_object(body)
        is_dry = values.pop("dry_run", False)
        if not isinstance(is_dry, bool):
            raise InvalidRequest(f"dry_run is {is_dry!r:.80}; true or false is expected")
        _add_client_key(values, idempotency_key_of(request.headers))
        key = key_of(request)
        spec = spec_of(values, service.fleet, key)
        if is_dry:
            promise = await service.dry_run(spec, tenant)
            return web.json_response(promise_body(promise, spec, service.wall_s()))
        job, is_new = await service.submit(spec, tenant, key)
        # to look for shards of a new one would be to wait for the store once more, behind those that begin to plan it
        view = service.views.view(job, Counts()) if is_new else await service.views.of(job)
        shown = job_body(view, service.wall_s())
        return web.json_response(shown, status=201 if is_new else 200)

    async def jobs(self, request: web.Request) -> web.Response:
        """Return the jobs of the key's tenant, the newest first, or all for the operator."""
        service = has_jobs(self._service)
        limit, after = limit_of(request), request.query.get("after")
        last = None if after is None else job_id_of(after)
        store = await service.store()
        found = await store.page(tenant_asking(request), last, limit + 1, _state_of(request))
        now_s = service.wall_s()
        shown = [job_body(view, now_s) for view in await service.views.of_each(found[:limit])]
        return web.json_response({"object": "list", "data": shown, "has_more": len(found) > limit})

    async def job(self, request: web.Request) -> web.Response:
        """Return a job: its state, how far it is, and when it will end."""
        store = await has_jobs(self._service).store()
        return await self._shown(await store.get(job_of(request), tenant_asking(request)))

    async def pause_job(self, request: web.Request) -> web.Response:
        """Pause a job: rows that nodes run now are still taken, and no others are begun. Paused again, it stays so."""
        return await self._moved(request, JobState.PAUSED)

    async def resume_job(self, request: web.Request) -> web.Response:
        """Let a paused job go on."""
        service = has_jobs(self._service)
        store = await service.store()
        return await self._woken(await store.resume(job_of(request), tenant_asking(request)))

    async def cancel_job(self, request: web.Request) -> web.Response:
        """End a job for good; what was done is kept. Cancelled again, it stays so."""
        return await self._moved(request, JobState.CANCELLED)

    async def _moved(self, request: web.Request, to: JobState) -> web.Response:
        store = await has_jobs(self._service).store()
        job = await store.move(job_of(request), to, tenant=tenant_asking(request))
        return await self._woken(job)

    async def _woken(self, job: Job) -> web.Response:
        service = has_jobs(self._service)
        service.runner.wake()
        service.views.forget(job.id)
        service.following.hasten(job.id)
        return await self._shown(job)

    async def _shown(self, job: Job) -> web.Response:
        service = has_jobs(self._service)
        return web.json_response(job_body(await service.views.of(job), service.wall_s()))


def has_jobs(service: JobService | None) -> JobService:
    """Return the service; raises `Unsupported` where a router keeps no jobs."""
    if service is None:
        raise Unsupported("this router keeps no jobs: it was started with --no-jobs")
    return service


def _state_of(request: web.Request) -> JobState | None:
    text = request.query.get("state")
    if text is None:
        return None
    try:
        return JobState(text)
    except ValueError as exc:
        raise InvalidRequest(f"state is {text[:80]!r}; there are {', '.join(JobState)}") from exc


def _add_client_key(values: dict[str, object], header: str) -> None:
    """Take the client's name of the job from the header. Raises `InvalidRequest`: the body has another."""
    if not header:
        return
    if values.setdefault("client_key", header) != header:
        raise InvalidRequest(
            f"client_key and the header {options.IDEMPOTENCY_KEY} differ; send one of them"
        )
