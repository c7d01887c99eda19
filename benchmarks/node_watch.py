"""Asks a node's worker over a link how many requests of a model it has, as a router does. IO: sockets.

An answer takes a fraction of a millisecond on an idle machine, so that it tells when work has ended, which no log does.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from pathlib import Path

from link_load import RouterEnd
from typing_extensions import override

from capamesh.cli.local_cluster import OWNER_FOLDER, TOKEN_LIFE, LocalCluster
from capamesh.client import AsyncClient
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import decode_load, encode_probe
from capamesh.protocol.links.handlers import LoadHandler
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.transport import LinkTransport
from capamesh.protocol.network import NetworkOwner, Role


class NodeWatch:
    """A link to the only worker of a cluster's only node."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @classmethod
    async def of(cls, cluster: LocalCluster, folder: Path) -> NodeWatch:
        """Join the cluster's network as a router, from a `folder` that is empty, and dial the worker."""
        now = dt.datetime.now(dt.UTC)
        owner = NetworkOwner.load(cluster.folder / OWNER_FOLDER)
        token = owner.invite(Role.ROUTER, expires_at=now + TOKEN_LIFE, bootstrap=(), now=now)
        membership = DataDir(folder).membership(token.encode(), Role.ROUTER, now)
        async with AsyncClient(cluster.http_url) as client:
            (node,) = await client.nodes()
        transport = LinkTransport(membership, folder, agent_version="0.0")
        return cls(await transport.dial(node["links"][0]["address"], RouterEnd(membership)))

    async def in_flight(self, model: str) -> int:
        """Return how many requests of a model the worker has."""
        asked = _Asked()
        self._link.ask_load(encode_probe(ModelName(model), ModelVersion("")), asked)
        return decode_load(await asked.answer).in_flight

    async def until(self, model: str, in_flight: int, limit_s: float) -> float:
        """Return the time, on the clock of `time.monotonic`, when the worker has so many requests of a model.

        SystemExit: it has others after `limit_s`.
        """
        end_s = time.monotonic() + limit_s
        while (count := await self.in_flight(model)) != in_flight:
            if time.monotonic() > end_s:
                raise SystemExit(f"the worker has {count} requests of {model} after {limit_s:g} s")
        return time.monotonic()

    def close(self) -> None:
        """End the link."""
        self._link.close("the measurement is over")


class _Asked(LoadHandler):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @override
    def reported(self, meta: bytes) -> None:
        self.answer.set_result(meta)

    @override
    def failed(self, error: CapameshError) -> None:
        self.answer.set_exception(error)
