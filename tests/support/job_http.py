"""Batch jobs asked for over HTTP, at whichever of several routers answers. IO: HTTP.

A router that dies or freezes in the middle of a request is one more reason to ask another: submitting is repeated under one client
key, and the rest changes nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
ANSWER_LIMIT_S = 60.0
"""How long one router is waited for before another is asked."""
REST_S = 0.2
POLL_S = 0.1


class JobError(Exception):
    """A router refused what was asked, for a reason that asking again does not change."""


class JobHttp:
    """A client of jobs. `urls` returns the routers that may be asked now."""

    def __init__(self, urls: Callable[[], Sequence[str]], headers: Mapping[str, str]) -> None:
        self._urls = urls
        self._headers = headers

    async def __aenter__(self) -> JobHttp:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, connect=5, sock_read=ANSWER_LIMIT_S),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def submit(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Submit a job, which should have a client key; return it as the router shows it."""
        return json.loads(await self._ask("POST", "/v1/jobs", job))

    async def job(self, job_id: str) -> dict[str, Any]:
        return json.loads(await self._ask("GET", f"/v1/jobs/{job_id}"))

    async def move(self, job_id: str, word: str) -> dict[str, Any]:
        return json.loads(await self._ask("POST", f"/v1/jobs/{job_id}/{word}"))

    async def until(
        self, job_id: str, is_so: Callable[[dict[str, Any]], bool], limit_s: float
    ) -> dict[str, Any]:
        """Return a job once it is so; raise `TimeoutError` after `limit_s`."""
        async with asyncio.timeout(limit_s):
            while not is_so(job := await self.job(job_id)):
                await asyncio.sleep(POLL_S)
        return job

    async def ended(self, job_id: str, limit_s: float) -> dict[str, Any]:
        return await self.until(job_id, lambda job: job["state"] in ENDED, limit_s)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        while True:
            for url in self._urls():
                try:
                    async with self._session.request(method, url + path, json=body) as reply:
                        text = await reply.read()
                except (aiohttp.ClientError, TimeoutError, OSError):
                    continue
                if reply.status < 300:
                    return text
                # 404 of a submission: its router has not heard of a node with the model yet, or not again
                is_early = reply.status == 404 and body is not None
                if reply.status < 500 and reply.status != 429 and not is_early:
                    raise JobError(f"{method} {path}: {reply.status} {text.decode()}")
            await asyncio.sleep(REST_S)
