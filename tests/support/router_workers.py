"""Routers with several workers, of which each hears by itself which nodes there are. IO: sockets."""

from __future__ import annotations

import aiohttp
from polling import until

from capamesh.cli.local_cluster import LocalCluster

CONNECTIONS = 64
"""Each fresh connection comes to one of two workers, three of four to the same one and twenty in a row (seen): so many come to both."""


async def until_all_know(cluster: LocalCluster, model: str) -> None:
    """Wait until both workers serve, and each has heard that a node has the model ready.

    `LocalCluster.wait_routable` asks the router, and one worker answers.
    """

    def are_up() -> bool:
        workers = cluster.router.status()["workers"]
        return [worker["state"] for worker in workers] == ["ready", "ready"]

    async def is_ready() -> bool:
        async with (
            aiohttp.ClientSession(cluster.http_url) as session,
            session.get(f"/v2/models/{model}/ready", ssl=False) as reply,
        ):
            return reply.status == 200

    async def is_ready_at_all() -> bool:
        return all([await is_ready() for _ in range(CONNECTIONS)])

    await until(are_up)
    await until(is_ready_at_all)
