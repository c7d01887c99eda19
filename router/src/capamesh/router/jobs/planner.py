"""Plans a job: reads its input once, under the lease of the plan, and adds its shards to the store. IO: the input; the store.

A plan is added in pieces, each of which renews the lease, so that one router plans however large the input is; whoever loses the
lease stops. What is wrong with the input ends the job; a store that fails is asked again for a while, and then the plan is left to
whoever leases it next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Final, TypeVar

from capamesh.protocol.errors import ConfigError, InvalidRequest, Overloaded
from capamesh.router.jobs.errors import InputChanged, JobsUnavailable, PlaceUnavailable, ReaderEnded
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.readers.input_reading import InputReading
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.store.plan_operations import MAX_SHARDS
from capamesh.router.jobs.values import Job

TRIES: Final = 5
"""The times that the store is asked for one thing."""
REST_S: Final = 1.0
"""Seconds before the store is asked again."""

_Result = TypeVar("_Result")


class Planner:
    """Plans jobs, one at a time."""

    def __init__(
        self,
        store: JobStore,
        reading: InputReading,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._reading = reading
        self._sleep = sleep

    async def plan(self, job: Job, token: int, limits: ShardLimits) -> Job | None:
        """Plan a job whose plan was leased with `token` and return it, running or failed.

        None: the lease was lost, or the input cannot be read now, and the plan was given back for a while.

        Raises `JobsUnavailable` when the store fails again and again.
        """
        try:
            fingerprint, added = "", 0
            plan = self._reading.plan(job.spec.input, job.tenant, limits)
            async with aclosing(plan):
                async for fingerprint, piece in plan:  # noqa: B007 - it is the same in all
                    if added + len(piece) > MAX_SHARDS:
                        words = f"the input makes more than {MAX_SHARDS} shards, the most that a job may have; make several jobs of it"
                        return await self._failed(job, token, words)
                    add = partial(self._store.add_shards, job.id, token, added, piece)
                    if piece and not await self._patiently(add):
                        return None
                    added += len(piece)
        except ReaderEnded as exc:
            words = exc.message
            return await self._patiently(lambda: self._store.lose_plan(job.id, token, words))
        except (InvalidRequest, InputChanged, ConfigError) as exc:
            return await self._failed(job, token, exc.message)
        except PlaceUnavailable as exc:
            words = exc.message
            await self._patiently(lambda: self._store.rest_plan(job.id, token, words))
            return None
        return await self._patiently(lambda: self._store.finish_plan(job.id, token, fingerprint))

    async def _failed(self, job: Job, token: int, words: str) -> Job | None:
        return await self._patiently(lambda: self._store.fail_plan(job.id, token, words))

    async def _patiently(self, ask: Callable[[], Awaitable[_Result]]) -> _Result:
        for left in reversed(range(TRIES)):
            try:
                return await ask()
            except (JobsUnavailable, Overloaded):
                if not left:
                    raise
                await self._sleep(REST_S)
        raise AssertionError("the last try returns or raises")
