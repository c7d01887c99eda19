"""A link that lives, and one that is kept."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import in_virtual_time
from signed_adverts import Network

from capamesh.protocol.errors import LinkLost
from capamesh.protocol.links.keeper import UNANSWERED, LinkKeeper
from capamesh.protocol.links.liveness import LinkTimes, Liveness
from capamesh.protocol.links.transport import LinkTransport
from capamesh.protocol.network import Role
from capamesh.protocol.reach import Inside


class FakeLink:
    """Ends when a test says so."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.closed: list[str] = []

    async def wait_ended(self) -> str:
        return await asyncio.shield(self.ended)

    def close(self, reason: str) -> None:
        self.closed.append(reason)


class Kept:
    """A keeper that runs; each dial's answer is a link, or why there is none."""

    def __init__(self, answer: Callable[[], FakeLink | BaseException], **options: Any) -> None:
        self.answer = answer
        self.dialled_s: list[float] = []
        self.links: list[FakeLink] = []
        self.keeper = LinkKeeper(self._dial, **options)  # type: ignore[arg-type]
        self.task = asyncio.create_task(self.keeper.run())

    async def _dial(self) -> FakeLink:
        self.dialled_s.append(round(asyncio.get_running_loop().time(), 4))
        answer = self.answer()
        if isinstance(answer, BaseException):
            raise answer
        self.links.append(answer)
        return answer

    async def stop(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


@pytest.fixture(autouse=True)
def without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capamesh.protocol.links.keeper.random.random", lambda: 0.0)


@in_virtual_time
async def test_peer_that_is_away_is_dialled_ever_more_rarely_and_at_once_on_news_of_it() -> None:
    kept = Kept(lambda: LinkLost("cannot reach it"))
    assert kept.keeper.due_in_s() == 0.0
    await asyncio.sleep(7)
    assert kept.dialled_s == [0.0, 0.05, 0.15, 0.35, 0.75, 1.55, 3.15, 5.15]
    assert kept.keeper.last_error == "cannot reach it"
    assert kept.keeper.due_in_s() == pytest.approx(0.15)
    kept.keeper.hurry()
    kept.keeper.hurry()
    assert kept.keeper.due_in_s() == 0.0
    await asyncio.sleep(0.1)
    assert kept.dialled_s[8:] == [7.0]
    assert kept.keeper.due_in_s() == pytest.approx(1.9)
    kept.answer = FakeLink
    await asyncio.sleep(60)
    assert kept.keeper.due_in_s() == 0.0
    await kept.stop()


@in_virtual_time
async def test_link_is_kept_until_it_ends_and_then_dialled_again() -> None:
    kept = Kept(FakeLink)
    await asyncio.sleep(100)
    kept.keeper.hurry()
    await asyncio.sleep(1)
    assert (kept.dialled_s, kept.keeper.last_error) == ([0.0], "")
    kept.links[0].ended.set_result("the peer closed it")
    await asyncio.sleep(0.01)
    assert kept.keeper.last_error == "the peer closed it"
    await asyncio.sleep(1)
    assert (kept.dialled_s, kept.keeper.last_error) == ([0.0, 101.05], "")
    await kept.stop()
    assert [link.closed for link in kept.links] == [[], ["no longer wanted"]]


@in_virtual_time
async def test_link_that_never_lasts_is_backed_off_from_and_one_that_lasted_is_not() -> None:
    life_s = 1.0

    def short() -> FakeLink:
        link = FakeLink()
        asyncio.get_running_loop().call_later(life_s, link.ended.set_result, "crashed")
        return link

    kept = Kept(short)
    await asyncio.sleep(4.5)
    assert kept.dialled_s == [0.0, 1.05, 2.15, 3.35]
    life_s = 10.0
    await asyncio.sleep(21)
    assert kept.dialled_s[4:] == [4.75, 14.8, 24.85]
    await kept.stop()


@in_virtual_time
async def test_address_that_never_answers_is_dialled_ever_more_rarely_up_to_ten_minutes() -> None:
    kept = Kept(lambda: LinkLost("refused"), unanswered=UNANSWERED)
    await asyncio.sleep(3600)
    waits = [round(b - a, 2) for a, b in itertools.pairwise(kept.dialled_s)]
    assert waits == [0.25 * 2**n for n in range(12)] + [600.0] * 4
    kept.answer = FakeLink
    await asyncio.sleep(600)
    assert kept.keeper.has_answered
    kept.answer = lambda: LinkLost("restarted")
    before = len(kept.dialled_s)
    kept.links[0].ended.set_result("the peer closed it")
    await asyncio.sleep(3)
    assert len(kept.dialled_s) - before == 5  # as soon as any that answered
    await asyncio.sleep(247)
    assert kept.keeper.has_answered
    await asyncio.sleep(60)
    assert not kept.keeper.has_answered
    await asyncio.sleep(7200)
    assert kept.dialled_s[-1] - kept.dialled_s[-2] == 600
    await kept.stop()


@in_virtual_time
async def test_each_dial_waits_for_its_permit_and_tells_once_how_it_went() -> None:
    reported: list[tuple[str, bool]] = []

    async def permit(is_known: bool) -> Callable[[bool], None]:
        reported.append(("asked", is_known))
        await asyncio.sleep(1)
        return lambda has_answered: reported.append(("over", has_answered))

    kept = Kept(lambda: LinkLost("away"), permit=permit)
    await asyncio.sleep(1.04)
    assert kept.dialled_s == [1.0]
    assert reported == [("asked", False), ("over", False)]
    kept.answer = FakeLink
    await asyncio.sleep(1.1)
    assert reported[2:] == [("asked", False), ("over", True)]
    kept.links[0].ended.set_result("gone")
    await asyncio.sleep(0.1)
    assert reported[4:] == [("over", False), ("asked", True)]
    await kept.stop()


async def test_name_is_dialled_only_where_its_addresses_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    membership = Network().member(role=Role.ROUTER)
    membership.save(tmp_path)
    transport = LinkTransport(membership, tmp_path, agent_version="test")

    async def dial(address: str) -> None:
        await transport.dial(address, None, innermost=Inside.PRIVATE)  # type: ignore[arg-type]  # none is dialled

    for address in ("localhost:1", "127.1:1", "2130706433:1", "127.0.0.1:1"):
        with pytest.raises(LinkLost, match="lies further inside than private addresses do"):
            await dial(address)
    for address in ("a..b:80", "a" * 70 + ":80"):
        with pytest.raises(LinkLost, match="cannot reach a"):
            await dial(address)
    dialled: list[str] = []

    async def refuse(_: object, address: tuple[str, int]) -> None:
        dialled.append(address[0])
        raise ConnectionRefusedError

    async def resolve(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(2, 1, 6, "", (host, 1)) for host in ("127.0.0.1", "10.0.0.1", "8.8.8.8")]

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    monkeypatch.setattr(loop, "sock_connect", refuse)
    with pytest.raises(LinkLost, match="cannot reach mixed:1"):
        await dial("mixed:1")
    assert dialled == ["10.0.0.1", "8.8.8.8"]


TIMES = LinkTimes(hello_s=5.0, ping_every_s=2.0, silent_s=6.0)


class Peer:
    """A peer's liveness, and what it has led to."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.start_s = self.loop.time()
        self.news: list[tuple[float, str]] = []
        self.goes_on = True
        self.liveness = Liveness(self.loop, TIMES, on_beat=self._beat, give_up=self.note)

    def note(self, what: str = "aborted") -> None:
        self.news.append((round(self.loop.time() - self.start_s, 6), what))

    def _beat(self) -> bool:
        self.note("beat")
        return self.goes_on


@in_virtual_time
async def test_peer_that_does_not_introduce_itself_or_falls_silent_is_given_up() -> None:
    mute, silent = Peer(), Peer()
    for peer in (mute, silent):
        peer.liveness.await_hello()
    await asyncio.sleep(1)
    silent.liveness.begin()
    await asyncio.sleep(60)
    assert mute.news == [(5.0, "no HELLO within 5.0 s")]
    assert silent.news == [(3.0, "beat"), (5.0, "beat"), (7.0, "silent for 7.0 s")]


@in_virtual_time
async def test_peer_that_is_heard_lives_until_the_owner_says_so_or_it_stops() -> None:
    heard, done, stopped = Peer(), Peer(), Peer()
    done.goes_on = False
    for peer in (heard, done, stopped):
        peer.liveness.begin()
    await asyncio.sleep(3)
    stopped.liveness.stop()
    for _ in range(20):
        heard.liveness.heard_s = heard.loop.time()
        await asyncio.sleep(5)
    assert {what for _, what in heard.news} == {"beat"}
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
    assert (peer.news, polite.news) == ([(5.0, "aborted")], [])
