"""Connections that send anything, by a seed: none breaks the router, holds anything once it is gone, or costs another its answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fleet_fakes import Ask, after, echo, failing, hang, offer, parting
from fuzz_cases import seeds
from router_http import Http
from scripted_client import all_given_back
from tidy_router import tidy
from ws_client import STREAM, connected, infer
from ws_mischief import Mischief
from wsproto.utilities import ProtocolError

from capamesh.protocol.errors import Overloaded, RunFailed
from capamesh.router.http.limits import FrontLimits

AT_ONCE = 10
MOST_BYTES = 2**26
"""All that bodies may hold; one message of a gigabyte is more."""


async def mischief(http: Http, seed: int) -> None:
    """Be one client: send, read or not, and leave at some time without a word."""
    drawn = Mischief(seed)
    path = drawn.rng.choice((STREAM, f"{STREAM}?parts=1"))
    client = await connected(http, path)
    assert client.status == 101
    if drawn.rng.random() < 0.2:
        client.transport.pause_reading()  # type: ignore[attr-defined]
    for step in drawn.steps():
        for piece in drawn.cut(step):
            client.raw(piece)
            if drawn.rng.random() < 0.3:
                await asyncio.sleep(0)
    if client.transport.is_reading() and drawn.rng.random() < 0.5:  # type: ignore[attr-defined]
        try:
            async with asyncio.timeout(0.05):
                await client.end()
        except (
            TimeoutError,
            ProtocolError,
        ):  # it waits for more; or it was not what a client sends
            pass
    client.leave()


async def test_anything_is_borne_and_nothing_is_left_behind() -> None:
    cases = seeds(100)
    replies = (echo, parting(3), parting(50, rows=1000), failing(RunFailed("it fell over")), hang)
    limits = FrontLimits(body_bytes=MOST_BYTES, arriving_bytes=MOST_BYTES // 2)
    async with tidy(arrival_s=0.5, front_limits=limits) as http:
        calls = 0

        def any_reply(ask: Ask) -> None:
            nonlocal calls
            calls += 1
            if ask.call.priority == 1:
                echo(ask)
                return
            reply = replies[calls % len(replies)]
            if reply is not echo and not ask.call.takes_parts:
                reply = failing(Overloaded("full", 0.01)) if calls % 2 else after(0.01, echo)
            reply(ask)

        http.node("A", any_reply, models=(replace(offer(), max_parts=1000),))
        good = await connected(http)
        at = 0
        for first in cases[::AT_ONCE]:
            some = range(first, min(first + AT_ONCE, cases.stop))
            others = asyncio.gather(*(mischief(http, each) for each in some))
            while not others.done():
                good.send(infer(str(at), parameters={"priority": 1}))
                assert (await good.next())["id"] == str(at)
                at += 1
            await others
            assert http.front.budget.used_bytes <= MOST_BYTES
        good.leave()
        await all_given_back(http)
        assert at > len(cases) // AT_ONCE
