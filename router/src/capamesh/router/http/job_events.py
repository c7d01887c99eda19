"""The route by which clients follow what happens to a batch job, as server-sent events. IO: aiohttp; the store of jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.schema import Meta
from capamesh.router.access.keys import Verb
from capamesh.router.http.job_bodies import job_body, job_of, number_in, number_of, tenant_asking
from capamesh.router.http.jobs import has_jobs
from capamesh.router.http.key_check import is_still_taken
from capamesh.router.http.page import STREAM
from capamesh.router.http.route import Content, Pages, Parameter, Route
from capamesh.router.jobs.following import KEPT_EVENTS, LOOK_EVERY_S, FollowedJob

if TYPE_CHECKING:
    from capamesh.router.jobs.service import JobService
    from capamesh.router.jobs.values import Event

LAST_EVENT: Final = "Last-Event-ID"
STILL_EVERY_S: Final = 15.0
"""Seconds after which a stream says something even if nothing happens: proxies close silent ones after 30 s or more."""
WRITE_S: Final = 30.0
"""Seconds that a follower may take to read what was written (guess); one that takes longer is hung up on."""
_STILL: Final = b": still\n\n"


class JobEventsApi(Pages):
    """`/v1/jobs/{job}/events`."""

    def __init__(
        self,
        service: JobService | None,
        *,
        is_closing: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        """`service` has the jobs; None: this router keeps none. `is_closing` returns whether the router is about to stop; `clock` is in seconds."""
        self._service = service
        self._is_closing = is_closing
        self._clock = clock

    @override
    def routes(self) -> list[Route]:
        number = Annotated[int, Meta(ge=0)]
        return [
            Route(
                "GET",
                "/v1/jobs/{job}/events",
                self.job_events,
                (Verb.JOBS,),
                (Content(str, "text/event-stream"),),
                query=(
                    Parameter("after", "The number of the event after which to begin.", number),
                    Parameter("follow", "`true`: go on until the job has ended.", bool),
                ),
                headers=(Parameter(LAST_EVENT, "The same as `after`, as browsers say it."),),
                errors=(400, 404, 429, 501, 503),
            )
        ]

    async def job_events(self, request: web.Request) -> web.StreamResponse:
        """Return what happened to a job, as server-sent events; with `follow` also what happens until it has ended.

        An event has its number as `id`, its `kind` as `event`, and as `data` a JSON object with `seq`, `at`, `kind` and `text`. An event
        `progress`, which has no number, has the job as it is now: at first, and whenever it is another.
        """
        service = has_jobs(self._service)
        after = _after(request)
        is_following = _flag(request, "follow")
        tenant = tenant_asking(request)
        store = await service.store()
        look = await store.look(job_of(request), tenant, after)
        with service.following.place(tenant or ""), service.following.followed(look) as followed:
            response = web.StreamResponse(headers=STREAM)
            response.force_close()
            try:
                await response.prepare(request)
                stream = _Stream(service, response, followed, after, self._clock)
                await stream.write_news()
                while (
                    is_following
                    and not stream.is_over
                    and not self._is_closing()
                    and is_still_taken(request)
                ):
                    await stream.go_on()
            except (ConnectionError, TimeoutError, CapameshError):
                # it left, reads nothing, or the store fails: it comes back with the number of its last event
                if request.transport is not None:
                    request.transport.abort()
        return response


class _Stream:
    """The events of one follower."""

    def __init__(
        self,
        service: JobService,
        response: web.StreamResponse,
        followed: FollowedJob,
        after: int,
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._response = response
        self._followed = followed
        self._after = after
        """The number of the event that was written last."""
        self._clock = clock
        self._progress = b""
        self._said_s = clock()

    @property
    def is_over(self) -> bool:
        """Return whether all was written that there ever will be."""
        followed = self._followed
        return followed.has_ended and self._after >= followed.seen

    async def go_on(self) -> None:
        """Wait for a look at the job, and write what it has found, or that there is nothing."""
        followed = self._followed
        await followed.wait(self._looks, LOOK_EVERY_S)
        await self.write_news()
        if self._clock() - self._said_s >= STILL_EVERY_S:
            await self._write(_STILL)

    async def write_news(self) -> None:
        """Write the events that were not written yet, then how far the job is if that is another than before."""
        followed = self._followed
        self._looks = followed.looks
        while (events := followed.since(self._after)) is None:
            store = await self._service.store()
            events = await store.events(followed.view.job.id, self._after, KEPT_EVENTS)
            if not events:  # they were forgotten
                self._after = max(self._after, followed.seen)
            await self._write_events(events)
        await self._write_events(events)
        now_s = self._service.wall_s()
        progress = json.dumps(job_body(followed.view, now_s)).encode()
        if progress != self._progress:
            self._progress = progress
            await self._write(b"event: progress\ndata: %s\n\n" % progress)

    async def _write_events(self, events: list[Event]) -> None:
        if events:
            await self._write(b"".join(map(_event_text, events)))
            self._after = events[-1].seq

    async def _write(self, text: bytes) -> None:
        """Write to a follower, and let others have their turn; raise `TimeoutError` if it does not read."""
        async with asyncio.timeout(WRITE_S):
            await self._response.write(text)
        self._said_s = self._clock()
        await asyncio.sleep(0)


def _event_text(event: Event) -> bytes:
    body = {"seq": event.seq, "at": event.at_s, "kind": event.kind, "text": event.text}
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        event.seq,
        event.kind.encode(),
        json.dumps(body).encode(),
    )


def _after(request: web.Request) -> int:
    last = request.headers.get(LAST_EVENT)
    return number_of(request, "after", 0) if last is None else number_in(LAST_EVENT, last)


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false")
    if text not in {"true", "false"}:
        raise InvalidRequest(f"{name} is {text[:80]!r}; true or false is expected")
    return text == "true"
