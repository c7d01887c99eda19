"""Batch jobs as JSON, and what their routes read of a request. Pure but for aiohttp's requests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from aiohttp import web

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.schema import plain_values
from capamesh.router.access.keys import OPERATOR
from capamesh.router.http.connections import site_of
from capamesh.router.http.key_check import key_of
from capamesh.router.http.options import options_of
from capamesh.router.jobs.states import ENDED
from capamesh.router.jobs.stored_files import Owner
from capamesh.router.jobs.values import JobId, job_id_of
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions
from capamesh.router.requests.key_scope import within_scope

if TYPE_CHECKING:
    from capamesh.router.http.schemas import jobs as schemas
    from capamesh.router.jobs.service import Promise
    from capamesh.router.jobs.spec import JobSpec
    from capamesh.router.jobs.views import JobView

MAX_LIMIT: Final = 100
"""The most entries of one page."""
DEFAULT_LIMIT: Final = 20
_MAX_DIGITS: Final = 15


def job_of(request: web.Request) -> JobId:
    """Return the job that a path names; raises `JobNotFound` for what no job is called."""
    return job_id_of(request.match_info["job"])


def tenant_asking(request: web.Request) -> str | None:
    """Return whose jobs a request may see; None: all, where no key is asked for, or for the operator."""
    key = key_of(request)
    return None if key is None or key is OPERATOR else key.tenant


def tenant_submitting(request: web.Request) -> str:
    """Return whose a submitted job is: the key's tenant, or where that may name any, the one of the header.

    Raises:
        Forbidden: the header names another tenant than the key's.
        InvalidRequest: there are headers on a request's way, which a job has in its fields.
    """
    options, _ = options_of(request.headers)
    if options != NO_OPTIONS and options != RoutingOptions(tenant=options.tenant):
        raise InvalidRequest(
            "of the X-Capamesh headers a job takes X-Capamesh-Tenant alone: what else they would say is in its fields max_price"
            " and regions"
        )
    return within_scope(options, key_of(request)).tenant


def owner_submitting(request: web.Request) -> Owner:
    """Return the one to whom an upload is counted; raises what `tenant_submitting` raises."""
    return Owner(tenant_submitting(request), site_asking(request))


def site_asking(request: web.Request) -> str:
    """Return the site that an upload is counted to, as `Owner` has it."""
    return "" if key_of(request) is not None else site_of(request.remote or "")


def number_of(request: web.Request, name: str, default: int, most: int | None = None) -> int:
    """Return a whole number of the query, at most `most`. Raises `InvalidRequest`."""
    text = request.query.get(name)
    return default if text is None else number_in(name, text, most)


def number_in(name: str, text: str, most: int | None = None) -> int:
    """Return the whole number that a text says, at most `most`; `name` is what it is called. Raises `InvalidRequest`."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise InvalidRequest(f"{name} is {text[:80]!r}; a whole number from 0 is expected")
    if most is not None and int(text) > most:
        raise InvalidRequest(f"{name} is {int(text)}; at most {most} is expected")
    return int(text)


def limit_of(request: web.Request) -> int:
    """Return how many entries a page may have. Raises `InvalidRequest`."""
    return max(1, number_of(request, "limit", DEFAULT_LIMIT, MAX_LIMIT))


def job_body(view: JobView, now_s: float) -> schemas.Job:
    """Return a job as JSON; `now_s` is the time in seconds since 1970."""
    job, counts, progress = view.job, view.counts, view.progress
    left_s = None if progress is None else progress.left_s
    return {
        "id": job.id,
        "object": "job",
        "model": job.spec.model,
        "version": job.pinned.version,
        "digest": job.pinned.digest,
        "tenant": job.tenant,
        "state": job.state.value,
        "reason": job.reason,
        "created_at": job.created_s,
        "ended_at": job.ended_s,
        "rows": job.rows,
        "shards": counts.shards if job.shards else 0,
        "done": {
            "shards": counts.done_shards,
            "rows": counts.rows,
            "bad_rows": counts.bad_rows,
            "leased_shards": counts.leased_shards,
        },
        "rows_per_s": None if progress is None else progress.rows_per_s,
        "nodes": None if progress is None else progress.nodes,
        "ends_at": None if left_s is None or job.state in ENDED else now_s + left_s,
        "price": job.price.total if job.price.rows else None,
        "price_per_million": job.price.per_million,
        "paid_rows": job.price.rows,
        "spec": plain_values(job.spec),
    }


def promise_body(promise: Promise, spec: JobSpec, now_s: float) -> schemas.JobPromise:
    """Return what would come of a job as JSON; `now_s` is the time in seconds since 1970."""
    left_s = promise.left_s
    if left_s is not None and math.isinf(left_s):
        left_s = None
    return {
        "object": "job.promise",
        "rows": promise.rows,
        "left_s": left_s,
        "ends_at": None if left_s is None else now_s + left_s,
        "measured_rows": promise.measured_rows,
        "spec": plain_values(spec),
    }
