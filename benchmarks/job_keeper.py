"""A supervisor of a cluster's members, which also kills and freezes them, and notes when each was out of service. IO: signals, HTTP.

As a supervisor of an operating system does, it starts a member again that has ended, whatever ended it.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
from job_cluster import JobCluster, processes, send, url_of, workers_of
from patience import until

from capamesh.cli.local_cluster import is_routable
from capamesh.cli.member import Member

RESTART_S = 0.3
"""How long after its end a member is started again (guess: what supervisors wait at first)."""
FIT_LIMIT_S = 300.0
ROUTER, NODE = "router", "node"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a member in the middle of a job."""

    rows: int
    """It happens when shards of so many rows of the job have been begun; nothing else tells the middle of a job on a busy machine."""
    after_s: float
    """And so many seconds later."""
    role: str
    is_whole: bool
    """All of the member, or one of the processes that work for its main one, where it has such."""
    frozen_s: float
    """Seconds for which it stands still; 0: it is killed."""
    draw: int
    """Decides which member, and which of its processes."""

    @property
    def kind(self) -> str:
        what = (
            "killed"
            if not self.frozen_s
            else f"frozen {'long' if self.frozen_s > 15 else 'shortly'}"
        )
        return f"{self.role}{'' if self.is_whole else ' worker'} {what}"


@dataclass(slots=True)
class Outage:
    """A time in which a member was not what it should be."""

    role: str
    name: str
    pids: tuple[int, ...]
    frozen_s: float
    began_s: float
    """Seconds since 1970, as the store's times on one machine."""
    woke_s: float = float("inf")
    """When it was let go on; infinity: it was killed."""
    ended_s: float = float("inf")
    """When it served again."""


class Keeper:
    """Keeps the members of a cluster running while its context lasts."""

    def __init__(self, cluster: JobCluster, model: str) -> None:
        """`model` is the one that a member must serve to be fit."""
        self._cluster = cluster
        self._model = model
        self._tasks: set[asyncio.Task[None]] = set()
        self.outages: list[Outage] = []

    async def __aenter__(self) -> Keeper:
        timeout = aiohttp.ClientTimeout(total=2)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=self._cluster.headers)
        self._tasks = {asyncio.create_task(self._keep(each)) for each in self._cluster.members}
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def _keep(self, member: Member) -> None:
        while True:
            await member.wait()
            await asyncio.sleep(RESTART_S)
            member = await self._cluster.start_again(member)

    def urls(self) -> list[str]:
        """Return where the routers are that nothing has befallen, or all where there is no such."""
        out = {each.name for each in self.outages if each.ended_s == float("inf")}
        found = {each.name: url for each in self._cluster.routers if (url := url_of(each))}
        return [url for name, url in found.items() if name not in out] or list(found.values())

    async def befall(self, fault: Fault) -> None:
        """Let a fault happen to a member, and return when that is in service again."""
        members = self._cluster.routers if fault.role == ROUTER else self._cluster.nodes
        out = {each.name for each in self.outages if each.ended_s == float("inf")}
        fit = [each for each in members if each.is_running and each.name not in out]
        running = fit or [each for each in members if each.is_running]
        if not running:
            return
        member = running[fault.draw % len(running)]
        workers = workers_of(member)
        pids = processes(member)
        if workers and not fault.is_whole:
            pids = [workers[fault.draw // 2 % len(workers)]]
        outage = Outage(fault.role, member.name, tuple(pids), fault.frozen_s, time.time())
        self.outages.append(outage)
        if fault.frozen_s:
            send(pids, signal.SIGSTOP)
            try:
                await asyncio.sleep(fault.frozen_s)
            finally:
                outage.woke_s = time.time()
                send(pids, signal.SIGCONT)
        else:
            # of a member its main process: what that has started is to end by itself
            send(pids[:1], signal.SIGKILL)
        await until(lambda: self._is_fit(outage), limit_s=FIT_LIMIT_S)
        outage.ended_s = time.time()

    async def all_fit(self) -> None:
        """Wait until all members serve."""
        for member in self._cluster.members:
            role = ROUTER if member in self._cluster.routers else NODE
            whole = Outage(role, member.name, (), 0.0, 0.0)
            await until(lambda whole=whole: self._is_fit(whole), limit_s=FIT_LIMIT_S)  # type: ignore[misc]

    async def _is_fit(self, outage: Outage) -> bool:
        members = self._cluster.routers if outage.role == ROUTER else self._cluster.nodes
        member = next(each for each in members if each.name == outage.name)
        if not member.is_running:
            return False
        if outage.woke_s == float("inf") and set(outage.pids[:1]) & set(processes(member)):
            return False  # it is not known yet that it has ended
        if outage.role == ROUTER:
            return await self._get(f"{url_of(member)}/v2/models/{self._model}/ready") is not None
        for url in self.urls():
            page = await self._get(f"{url}/v1/nodes")
            if page is not None:
                nodes: list[dict[str, Any]] = page["nodes"]
                return any(
                    each["name"] == member.name and is_routable(each, [self._model])
                    for each in nodes
                )
        return False

    async def _get(self, url: str) -> dict[str, Any] | None:
        with suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError):
            async with self._session.get(url) as reply:
                if reply.status == 200:
                    return await reply.json(content_type=None) or {}
        return None

    def able_s(self, from_s: float, to_s: float) -> float:
        """Return since when, from a time on, there were a router and a node in service until another time: nobody else can take over."""
        times = {from_s, to_s}
        for each in self.outages:
            times |= {at_s for at_s in (each.began_s, each.ended_s) if from_s < at_s < to_s}
        blind = [
            after_s
            for before_s, after_s in itertools.pairwise(sorted(times))
            if self._is_blind((before_s + after_s) / 2)
        ]
        return max(blind, default=from_s)

    def _is_blind(self, at_s: float) -> bool:
        out = {each.name for each in self.outages if each.began_s <= at_s < each.ended_s}
        groups: Sequence[Sequence[Member]] = (self._cluster.routers, self._cluster.nodes)
        return any(all(each.name in out for each in group) for group in groups)
