"""The part that each worker has of what a router's settings allow. Pure: the memory of the machine is an argument."""

from __future__ import annotations

from dataclasses import replace

from capamesh.router.http.limits import MEMORY_SHARE, USUAL_CONNECTIONS
from capamesh.router.settings import RouterSettings


def worker_settings(settings: RouterSettings, memory_bytes: int, link_port: int) -> RouterSettings:
    """Return the settings of one of the workers of a router: what they allow all of them together is divided.

    Connections do not come to all workers alike, so that a router may turn some away a little before it has as many as
    it may; a share is rounded up.
    """
    count = settings.workers
    connections = settings.max_connections or USUAL_CONNECTIONS
    of_address = settings.max_connections_per_address or max(1, connections // 2)
    return replace(
        settings,
        link_port=link_port,
        body_budget_bytes=_part(settings.body_budget_bytes or memory_bytes // MEMORY_SHARE, count),
        cache_bytes=_part(settings.cache_bytes, count),
        answer_budget_bytes=_part(
            settings.answer_budget_bytes or memory_bytes // MEMORY_SHARE, count
        ),
        max_connections=_part(connections, count),
        max_connections_per_address=_part(of_address, count),
    )


def _part(whole: int, count: int) -> int:
    return -(-whole // count)
