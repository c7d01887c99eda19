from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fleet_fakes import in_virtual_time

from capamesh.protocol.links.liveness import LinkTimes, Liveness

TIMES = LinkTimes(hello_s=5.0, ping_every_s=2.0, silent_s=6.0)


class Peer:
    """A peer's liveness, and what it has led to."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.loop = asyncio.get_running_loop()
        self.start_s = self.loop.time()
        self.news: list[tuple[float, str]] = []
        self.goes_on = True
        self.liveness = Liveness(
            self.loop, TIMES, on_beat=self._beat, give_up=self.note, clock=clock
        )

    def note(self, what: str = "aborted") -> None:
        self.news.append((round(self.loop.time() - self.start_s, 6), what))

    def _beat(self) -> bool:
        self.note("beat")
        return self.goes_on


@in_virtual_time
async def test_peer_that_does_not_introduce_itself_is_given_up() -> None:
    peer = Peer()
    peer.liveness.await_hello()
    await asyncio.sleep(60)
    assert peer.news == [(5.0, "no HELLO within 5.0 s")]


@in_virtual_time
async def test_verified_peer_is_pinged_and_given_up_when_it_is_silent() -> None:
    peer = Peer()
    peer.liveness.await_hello()
    await asyncio.sleep(1)
    peer.liveness.begin()
    await asyncio.sleep(60)
    assert peer.news == [(3.0, "beat"), (5.0, "beat"), (7.0, "silent for 7.0 s")]


@in_virtual_time
async def test_peer_that_is_heard_lives() -> None:
    peer = Peer()
    peer.liveness.begin()
    for _ in range(20):
        await asyncio.sleep(5)
        peer.liveness.heard_s = peer.loop.time()
    assert {what for _, what in peer.news} == {"beat"}


@in_virtual_time
async def test_beats_end_when_the_owner_says_so_and_when_it_stops() -> None:
    done, stopped = Peer(), Peer()
    done.goes_on = False
    for peer in (done, stopped):
        peer.liveness.begin()
    await asyncio.sleep(3)
    stopped.liveness.stop()
    await asyncio.sleep(60)
    assert done.news == stopped.news == [(2.0, "beat")]


@in_virtual_time
async def test_goodbye_that_the_peer_does_not_take_is_cut_short() -> None:
    peer, polite = Peer(), Peer()
    for each in (peer, polite):
        each.liveness.begin()
        each.liveness.await_end(each.note)
    await asyncio.sleep(1)
    polite.liveness.stop()
    await asyncio.sleep(60)
    assert peer.news == [(5.0, "aborted")]
    assert polite.news == []


@in_virtual_time
async def test_oldest_ping_under_way_is_timed() -> None:
    clock = iter([10.0, 10.25])
    liveness = Peer(lambda: next(clock)).liveness
    assert liveness.ponged() is None
    liveness.pinged()
    liveness.pinged()
    assert liveness.ponged() == 0.25
    assert liveness.ponged() is None
