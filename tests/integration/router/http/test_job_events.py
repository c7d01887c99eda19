"""The stream of a batch job's events: all of them once and in order, until the job ends, the follower leaves, or its key is revoked."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import aiohttp
import pytest
from job_pages import JobClients
from patience import until
from raw_http import connected

from capamesh.router.http import job_events
from capamesh.router.jobs import following
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import job_operations
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.values import JobId

GUARD_S = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOK_EVERY_S", 0.01)


async def started(clients: JobClients, key: str = "") -> tuple[str, JobStore]:
    """Return a job that runs."""
    job = await clients.submit(key)
    await clients.planned(job)
    return job, await clients.http.job_service.store()


async def followed_by(clients: JobClients, count: int) -> None:
    await until(lambda: clients.http.job_service.following.followers == count)


async def fill(store: JobStore, job: str, count: int, more: str = "") -> None:
    """Let that many things be noted at once."""

    def operation(turn: Any) -> None:
        for at in range(count):
            job_operations.note(turn, JobId(job), "note", f"note {at}{more}")

    await store._run(operation)


async def events_of(reply: aiohttp.ClientResponse) -> AsyncGenerator[tuple[str, str, Any]]:
    """Yield number, kind and data of each event."""
    fields: dict[str, str] = {}
    async for raw in reply.content:
        line = raw.decode().rstrip("\n")
        if line.startswith(":"):
            yield "", "comment", line
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}


async def follow(
    clients: JobClients, job: str, query: str = "follow=true", key: str = "", **headers: str
) -> aiohttp.ClientResponse:
    if key:
        headers["Authorization"] = f"Bearer {key}"
    path = f"/v1/jobs/{job}/events?{query}"
    reply = await clients.http.client.get(path, headers=headers)
    assert reply.status == 200, await reply.text()
    assert reply.content_type == "text/event-stream"
    return reply


async def all_of(reply: aiohttp.ClientResponse) -> list[tuple[str, str, Any]]:
    return [each async for each in events_of(reply)]


async def test_events_of_the_past_are_told_and_how_far_the_job_is(clients: JobClients) -> None:
    job, _ = await started(clients)
    found = await all_of(await follow(clients, job, ""))
    told = [(number, kind) for number, kind, _ in found]
    assert told == [("1", "submitted"), ("2", "planned"), ("3", "running"), ("", "progress")]
    first, progress = found[0][2], found[-1][2]
    assert first.keys() == {"seq", "at", "kind", "text"}
    assert (first["seq"], first["kind"]) == (1, "submitted")
    assert progress == await clients.told("", "GET", f"/v1/jobs/{job}")


async def test_stream_ends_with_its_job(clients: JobClients) -> None:
    job, _ = await started(clients)
    reply = await follow(clients, job)
    async with aclosing(events_of(reply)) as events:
        seen: list[str] = []
        async for _, kind, data in events:
            seen.append(kind if kind != "progress" else data["state"])
            if seen[-1] == "running" and len(seen) > 3:
                await clients.told("", "POST", f"/v1/jobs/{job}/pause")
            elif seen[-2:] == ["paused", "paused"]:
                await clients.told("", "POST", f"/v1/jobs/{job}/cancel")
    assert seen == [
        *("submitted", "planned", "running", "running"),
        *("paused", "paused", "cancelled", "cancelled"),
    ]
    assert reply.content.at_eof()
    assert clients.http.job_service.following.followers == 0
    assert clients.http.job_service.following._jobs == {}


async def test_one_who_comes_back_goes_on_after_its_last_event(clients: JobClients) -> None:
    job, store = await started(clients)
    for query, headers in (("", {"Last-Event-ID": "2"}), ("after=2", {})):
        found = await all_of(await follow(clients, job, query, **headers))
        assert [number for number, _, _ in found] == ["3", ""]
        found = await all_of(await follow(clients, job, "after=99", **headers))
        assert [number for number, _, _ in found] == (["3", ""] if headers else [""])
    # the text of an event makes no other event
    await store.note(JobId(job), "note", 'a\n\nid: 99\nevent: made up\ndata: {"seq": 99}\n\n')
    found = await all_of(await follow(clients, job, "after=3"))
    assert [(number, kind) for number, kind, _ in found] == [("4", "note"), ("", "progress")]


async def test_query_that_is_wrong_is_refused(clients: JobClients) -> None:
    job, _ = await started(clients)
    path = f"/v1/jobs/{job}/events"
    for query in ("after=-1", "after=x", "follow=1", "after=" + "9" * 99):
        assert (await clients.ask("", "GET", f"{path}?{query}")).status == 400
    reply = await clients.ask("", "GET", path, **{"Last-Event-ID": "\u00b2"})
    assert reply.status == 400


async def test_more_events_than_are_read_at_once_come_in_order(clients: JobClients) -> None:
    job, store = await started(clients)
    reply = await follow(clients, job)
    seen: list[int] = []

    async def read() -> None:
        async for number, _, _ in events_of(reply):
            if number:
                seen.append(int(number))

    reading = asyncio.create_task(read())
    await until(lambda: len(seen) == 3)
    await fill(store, job, 350)
    await store.move(JobId(job), JobState.CANCELLED)
    await reading
    assert seen == list(range(1, 355))
    again = await all_of(await follow(clients, job, "after=100"))
    assert [int(number) for number, _, _ in again if number] == list(range(101, 355))


async def test_forgotten_events_are_passed_by(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_operations, "MAX_EVENTS", 3)
    job, store = await started(clients)
    for at in range(5):
        await store.note(JobId(job), "note", str(at))
    found = await all_of(await follow(clients, job, ""))
    assert [number for number, _, _ in found] == ["6", "7", "8", ""]


async def test_silent_job_is_said_to_be_still(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_events, "STILL_EVERY_S", 0.0)
    job, _ = await started(clients)
    reply = await follow(clients, job)
    async with aclosing(events_of(reply)) as events:
        kinds = [(await anext(events))[1] for _ in range(8)]
    assert kinds == ["submitted", "planned", "running", "progress", *["comment"] * 4]
    reply.close()


async def test_stream_ends_with_its_key(clients: JobClients) -> None:
    key, other = clients.key("lab"), clients.key("lab")
    job, _ = await started(clients, key)
    reply = await follow(clients, job, key=key)
    kept = await follow(clients, job, key=other)
    await followed_by(clients, 2)
    clients.http.revoke(key)
    await all_of(reply)
    assert clients.http.job_service.following.followers == 1
    kept.close()
    await followed_by(clients, 0)


async def test_follower_who_leaves_is_forgotten_and_streams_end_when_the_router_stops(
    clients: JobClients,
) -> None:
    job, _ = await started(clients)
    reply, other = [await follow(clients, job) for _ in range(2)]
    await followed_by(clients, 2)
    reply.close()
    await followed_by(clients, 1)
    clients.http.front.requests.is_closing = True
    await all_of(other)
    assert clients.http.job_service.following._jobs == {}


async def test_store_is_asked_once_however_many_follow(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, store = await started(clients)
    looks: list[int] = []
    whole = JobStore.look

    async def look(self: JobStore, *words: Any) -> Any:
        looks.append(1)
        return await whole(self, *words)

    monkeypatch.setattr(JobStore, "look", look)
    monkeypatch.setattr(following, "LOOK_EVERY_S", GUARD_S)
    replies = [await follow(clients, job) for _ in range(20)]
    await followed_by(clients, 20)
    assert len(looks) == 20  # one for the answer to each
    await store.move(JobId(job), JobState.CANCELLED)
    clients.http.job_service.following.hasten(JobId(job))
    for reply in replies:
        found = await all_of(reply)
        assert found[-2][1] == "cancelled"
    assert len(looks) == 21


async def test_store_that_fails_for_a_while_is_waited_for(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, store = await started(clients)
    reply = await follow(clients, job)
    await followed_by(clients, 1)
    fails = [job_events.CapameshError("the store fails")] * 3
    whole = JobStore.look

    async def look(self: JobStore, *words: Any) -> Any:
        if fails:
            raise fails.pop()
        return await whole(self, *words)

    monkeypatch.setattr(JobStore, "look", look)
    await until(lambda: not fails)
    await store.move(JobId(job), JobState.CANCELLED)
    assert (await all_of(reply))[-1][2]["state"] == "cancelled"


async def test_job_that_is_forgotten_ends_its_streams(clients: JobClients) -> None:
    job, store = await started(clients)
    reply = await follow(clients, job)
    await followed_by(clients, 1)

    def forget(turn: Any) -> None:
        for statement in job_operations._FORGET:
            turn.connection.execute(statement, {"the_job": job})

    await store._run(forget)
    await all_of(reply)


# too many, and those who read nothing


async def test_followers_have_so_many_places_and_a_tenant_a_part_of_them(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "MOST_FOLLOWERS", 3)
    monkeypatch.setattr(following, "MOST_OF_TENANT", 2)
    lab, rich = clients.key("lab"), clients.key("rich")
    own, _ = await started(clients, lab)
    other = await clients.submit(rich)
    streams = [await follow(clients, own, key=lab) for _ in range(2)]
    refused = await clients.ask(lab, "GET", f"/v1/jobs/{own}/events")
    assert (refused.status, refused.headers["X-Capamesh-Error"]) == (429, "too_many_requests")
    streams.append(await follow(clients, other, key=rich))
    refused = await clients.ask(rich, "GET", f"/v1/jobs/{other}/events")
    assert (refused.status, refused.headers["X-Capamesh-Error"]) == (503, "overloaded")
    for stream in streams:
        stream.close()


async def test_two_hundred_who_read_nothing_are_hung_up_on(
    clients: JobClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_events, "WRITE_S", 0.2)
    monkeypatch.setattr(following, "MOST_OF_TENANT", 200)
    job, store = await started(clients)
    await fill(store, job, 900, 400 * "x")
    for server in clients.http.front._servers:
        for listening in server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    request = f"GET /v1/jobs/{job}/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    port, service = clients.http.client.port, clients.http.job_service
    async with AsyncExitStack() as stack:
        for _ in range(200):
            deaf = await stack.enter_async_context(connected(port, receive_bytes=4096))
            deaf.transport.pause_reading()
            deaf.transport.write(request)
        await until(lambda: service.following.followers > 0)
        while service.following.followers:
            await asyncio.sleep(0.01)
        # meanwhile and after, others are served, who have the time of a machine that has other work
        monkeypatch.setattr(job_events, "WRITE_S", GUARD_S)
        assert (await clients.told("", "GET", f"/v1/jobs/{job}"))["id"] == job
        assert len(await all_of(await follow(clients, job, ""))) == 904


async def test_job_of_another_tenant_is_not_followed(clients: JobClients) -> None:
    job, _ = await started(clients, clients.key("lab"))
    await clients.assert_unknown(clients.key("rich"), job, "/events", "/events?follow=true")
    assert clients.http.job_service.following.followers == 0
