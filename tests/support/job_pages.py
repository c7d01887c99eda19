"""Clients of the routes of batch jobs, each with a key of its own, and a runner that says what a test tells it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from job_desk import ranges
from job_files import write_jsonl
from router_http import Http
from typing_extensions import override

from capamesh.router.access.keys import Verb
from capamesh.router.jobs.spec import JobSpec
from capamesh.router.jobs.standing import JobRunner, Measured, Progress
from capamesh.router.jobs.values import Job, JobId, Pinned

ROWS = 10


def make_place(folder: Path) -> Path:
    """Return a folder with an input for the model `m`, `in.jsonl`."""
    folder.mkdir()
    write_jsonl(folder / "in.jsonl", [{"x": [at, at]} for at in range(ROWS)])
    return folder


class ToldRunner(JobRunner):
    """Runs nothing, and says what it is told to."""

    def __init__(self) -> None:
        self.woken = 0
        self.progress: Progress | None = None
        self.promised_s: float | None = None
        self.measured: Measured | None = None
        self.asked: list[int] = []
        """The rows of the jobs that a promise was asked for."""

    @override
    def wake(self) -> None:
        self.woken += 1

    @override
    def standing(self, job: JobId) -> Progress | None:
        return self.progress

    @override
    def calls(self) -> Mapping[str, int]:
        return {}

    @override
    def promise(self, spec: JobSpec, rows: int) -> float | None:
        self.asked.append(rows)
        return self.promised_s

    @override
    async def measure(self, spec: JobSpec, pinned: Pinned, tenant: str) -> Measured | None:
        return self.measured


class JobClients:
    """The clients of one server, whose key is the first argument: "" for none."""

    def __init__(self, http: Http, place: Path) -> None:
        self.http = http
        self.place = place
        self.runner = http.job_service.runner = ToldRunner()

    def key(self, tenant: str, *verbs: Verb, **scope: Any) -> str:
        """Return a new key of a tenant, for jobs where nothing else is said."""
        return self.http.key(*(verbs or (Verb.JOBS,)), tenant=tenant, **scope)

    def body(self, **more: Any) -> dict[str, Any]:
        return {"model": "m", "input": {"url": f"{self.place}/in.jsonl"}, **more}

    async def ask(
        self, key: str, method: str, path: str, body: Any = None, **headers: str
    ) -> aiohttp.ClientResponse:
        sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **headers}
        options = {} if body is None else {"json": body}
        response = await self.http.client.request(method, path, headers=sent, **options)
        await response.read()
        return response

    async def told(self, key: str, method: str, path: str, body: Any = None) -> Any:
        response = await self.ask(key, method, path, body)
        assert response.status in {200, 201}, await response.text()
        return await response.json()

    async def submit(self, key: str = "", **more: Any) -> str:
        job = await self.told(key, "POST", "/v1/jobs", self.body(**more))
        return str(job["id"])

    async def planned(self, job: str, shards: int = 2, rows: int = ROWS // 2) -> Job:
        """Plan a job, the only one that waits for that, as so many shards."""
        store = await self.http.job_service.store()
        taken = await store.claim_plan("test")
        assert taken is not None
        await store.add_shards(JobId(job), taken[1], 0, ranges(shards, rows))
        done = await store.finish_plan(JobId(job), taken[1], "fingerprint")
        assert done is not None
        return done

    async def assert_unknown(self, key: str, job: str, *tails: str, method: str = "GET") -> None:
        """See that a job is to a key as one that is not there."""
        none = job[:-4] + "0000"
        for tail in tails:
            told = [await self.ask(key, method, f"/v1/jobs/{each}{tail}") for each in (job, none)]
            texts = {(await each.text()).replace(job, "").replace(none, "") for each in told}
            codes = [(each.status, each.headers["X-Capamesh-Error"]) for each in told]
            assert (codes, len(texts)) == ([(404, "job_not_found")] * 2, 1), tail
