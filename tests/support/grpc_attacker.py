"""A connection of a scripted client of gRPC to a router, after which nothing may be held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from http2_client import Http2Client
from hyperframe.frame import SettingsFrame
from router_http import Http
from scripted_client import ScriptedClient, all_given_back


class Attacker(Http2Client, ScriptedClient):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        Http2Client.__init__(self)
        ScriptedClient.__init__(self, reader, writer, self.take)

    send = ScriptedClient.raw


async def connected(http: Http, **client_settings: int) -> Attacker:
    attacker = Attacker(*await asyncio.open_connection(http.client.host, http.client.port))
    acknowledged = SettingsFrame(0, flags=["ACK"]).serialize()
    attacker.send(attacker.begin(**client_settings), acknowledged)
    return attacker


@asynccontextmanager
async def attacking(http: Http, **client_settings: int) -> AsyncIterator[Attacker]:
    """Connect, and see at the end that nothing is held for who was connected."""
    attacker = await connected(http, **client_settings)
    yield attacker
    attacker.leave()
    await all_given_back(http)
