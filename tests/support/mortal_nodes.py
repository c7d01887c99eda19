"""Nodes whose workers end of some requests, in virtual time, behind the production routing."""

from __future__ import annotations

import asyncio
from collections import Counter

from fleet_fakes import Ask, Fleet, advert, call, fp32, offer, telling

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.fleet import Joined
from capamesh.protocol.links.calls import InferCall, LoadReport
from capamesh.router.requests.call import NO_OPTIONS

RUN_S = 0.01
DYING_S = 0.2
RESTART_S = 1.5
LOAD = LoadReport(0, 0, 200, 0, 10_000, 0, 10_000)


class Mortal:
    """Nodes whose worker ends `DYING_S` after it was asked a killer, and is back `RESTART_S` later as another process."""

    def __init__(self, count: int) -> None:
        self.fleet = Fleet()
        self.deaths: Counter[float] = Counter()
        self.lives = 0
        self.said: list[str] = []
        for at in range(count):
            peer = "ABCDEFGH"[at]
            self.fleet.view.apply([Joined(advert(peer, f"{peer.lower()}:1", models=(offer(),)))])
            self.up(at)

    def up(self, at: int) -> None:
        self.lives += 1
        link = self.fleet.relink(at, self.reply)
        link.peer_process = b"%d" % self.lives
        link.load_reply = telling(LOAD)
        self.fleet.balancer.linked(self.fleet.endpoints[at], self.fleet.clock())

    def reply(self, ask: Ask) -> None:
        value = float(ask.call.inputs[0].to_numpy()[0, 0])
        loop = asyncio.get_running_loop()
        if value >= 1000:
            loop.call_later(DYING_S, self.die, ask, value)
        else:
            loop.call_later(RUN_S, ask.echo, LOAD)

    def die(self, ask: Ask, value: float) -> None:
        link = ask.link
        if link.is_usable:
            at = self.fleet.endpoints.index(link.endpoint)
            self.deaths[value] += 1
            link.end(is_sudden=True)
            self.fleet.balancer.unlinked(link.endpoint, self.fleet.clock())
            asyncio.get_running_loop().call_later(RESTART_S, self.up, at)

    async def infer(self, value: float) -> str:
        try:
            await self.fleet.infer(target(value), NO_OPTIONS, self.fleet.clock() + 30.0)
        except CapameshError as error:
            self.said.append(error.message)
            return error.code
        return "ok"


def target(value: float) -> InferCall:
    return call().replace(inputs=(fp32("x", [value, 0]),))
