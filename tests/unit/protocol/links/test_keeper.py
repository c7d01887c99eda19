from __future__ import annotations

import asyncio
import datetime as dt
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import virtual_time

from capamesh.protocol.errors import LinkLost
from capamesh.protocol.identity import Identity
from capamesh.protocol.links.keeper import UNANSWERED, LinkKeeper
from capamesh.protocol.links.transport import LinkTransport
from capamesh.protocol.network import Membership, NetworkOwner, Role
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


class Dialling:
    """Notes when it was asked; each answer is a link, or why there is none."""

    def __init__(self, answer: Callable[[], FakeLink | BaseException]) -> None:
        self.answer = answer
        self.at_s: list[float] = []
        self.links: list[FakeLink] = []

    async def __call__(self) -> FakeLink:
        self.at_s.append(round(asyncio.get_running_loop().time(), 4))
        answer = self.answer()
        if isinstance(answer, BaseException):
            raise answer
        self.links.append(answer)
        return answer


@pytest.fixture(autouse=True)
def without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capamesh.protocol.links.keeper.random.random", lambda: 0.0)


def keeping(dial: Dialling) -> tuple[LinkKeeper, asyncio.Task[None]]:
    keeper = LinkKeeper(dial)  # type: ignore[arg-type]
    return keeper, asyncio.create_task(keeper.run())


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_peer_that_is_away_is_dialled_ever_more_rarely_but_never_less_than_every_2_s() -> None:
    async def scenario() -> None:
        dial = Dialling(lambda: LinkLost("cannot reach it"))
        keeper, task = keeping(dial)
        await asyncio.sleep(11)
        assert dial.at_s == [0.0, 0.05, 0.15, 0.35, 0.75, 1.55, 3.15, 5.15, 7.15, 9.15]
        assert keeper.last_error == "cannot reach it"
        await stopped(task)

    virtual_time.run(scenario())


def test_keeper_tells_when_it_dials_next() -> None:
    async def scenario() -> None:
        dial = Dialling(lambda: LinkLost("away"))
        keeper, task = keeping(dial)
        assert keeper.due_in_s() == 0.0
        await asyncio.sleep(7)
        assert keeper.due_in_s() == pytest.approx(0.15)  # see the test above
        keeper.hurry()
        assert keeper.due_in_s() == 0.0
        await asyncio.sleep(0.1)
        assert keeper.due_in_s() == pytest.approx(1.9)
        dial.answer = FakeLink
        await asyncio.sleep(60)
        assert keeper.due_in_s() == 0.0
        await stopped(task)

    virtual_time.run(scenario())


def test_news_of_the_peer_dials_at_once_and_just_once() -> None:
    async def scenario() -> None:
        dial = Dialling(lambda: LinkLost("away"))
        keeper, task = keeping(dial)
        await asyncio.sleep(7)
        before = len(dial.at_s)
        keeper.hurry()
        keeper.hurry()
        await asyncio.sleep(0.1)
        assert dial.at_s[before:] == [7.0]
        await stopped(task)

    virtual_time.run(scenario())


def test_link_is_kept_until_it_ends_and_then_dialled_again() -> None:
    async def scenario() -> None:
        dial = Dialling(FakeLink)
        keeper, task = keeping(dial)
        await asyncio.sleep(100)
        assert dial.at_s == [0.0]
        assert keeper.last_error == ""
        keeper.hurry()
        await asyncio.sleep(1)
        assert dial.at_s == [0.0]
        dial.links[0].ended.set_result("the peer closed it")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert keeper.last_error == "the peer closed it"
        await asyncio.sleep(1)
        assert dial.at_s == [0.0, 101.05]
        assert keeper.last_error == ""
        await stopped(task)
        assert [link.closed for link in dial.links] == [[], ["no longer wanted"]]

    virtual_time.run(scenario())


def test_link_that_never_lasts_is_backed_off_from_and_one_that_lasted_is_not() -> None:
    async def scenario() -> None:
        life_s = 1.0

        def short() -> FakeLink:
            link = FakeLink()
            asyncio.get_running_loop().call_later(life_s, link.ended.set_result, "crashed")
            return link

        dial = Dialling(short)
        _, task = keeping(dial)
        await asyncio.sleep(4.5)
        assert dial.at_s == [0.0, 1.05, 2.15, 3.35]
        life_s = 10.0
        await asyncio.sleep(21)
        assert dial.at_s[4:] == [4.75, 14.8, 24.85]
        await stopped(task)

    virtual_time.run(scenario())


@pytest.mark.parametrize("at_s", [0.0, 0.02, 0.5])
def test_cancelling_ends_the_keeper_whether_it_dials_waits_or_is_linked(at_s: float) -> None:
    async def scenario() -> None:
        never = asyncio.Event()

        class Slow(Dialling):
            async def __call__(self) -> FakeLink:
                link = await super().__call__()
                if len(self.links) > 1:
                    await never.wait()
                link.ended.set_result("gone")
                return link

        dial = Slow(FakeLink)
        _, task = keeping(dial)
        await asyncio.sleep(at_s)
        await stopped(task)

    virtual_time.run(scenario())


def test_error_that_is_no_lost_link_is_not_hidden() -> None:
    async def scenario() -> None:
        _, task = keeping(Dialling(ZeroDivisionError))
        with pytest.raises(ZeroDivisionError):
            await task

    virtual_time.run(scenario())


@pytest.mark.parametrize("address", ["a..b:80", "a" * 70 + ":80"])
async def test_advertised_name_that_cannot_be_one_is_a_lost_link(
    tmp_path: Path, address: str
) -> None:
    now = dt.datetime.now(dt.UTC)
    expires_at = now + dt.timedelta(days=1)
    token = NetworkOwner.create("n", now).invite(
        Role.ROUTER, expires_at=expires_at, bootstrap=(), now=now
    )
    membership = Membership.join(Identity.generate(), token, now)
    membership.save(tmp_path)
    transport = LinkTransport(membership, tmp_path, agent_version="test")
    with pytest.raises(LinkLost, match="cannot reach a"):
        await transport.dial(address, None)  # type: ignore[arg-type]  # nobody will answer


def test_address_that_never_answers_is_dialled_ever_more_rarely_up_to_ten_minutes() -> None:
    async def scenario() -> None:
        dial = Dialling(lambda: LinkLost("refused"))
        keeper = LinkKeeper(dial, unanswered=UNANSWERED)  # type: ignore[arg-type]
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(3600)
        waits = [round(b - a, 2) for a, b in itertools.pairwise(dial.at_s)]
        assert waits == [0.25 * 2**n for n in range(12)] + [600.0] * 4
        dial.answer = FakeLink
        await asyncio.sleep(600)
        assert keeper.has_answered
        dial.answer = lambda: LinkLost("restarted")
        before = len(dial.at_s)
        dial.links[0].ended.set_result("the peer closed it")
        await asyncio.sleep(3)
        assert len(dial.at_s) - before == 5  # as soon as any that answered
        await stopped(task)

    virtual_time.run(scenario())


def test_address_that_answered_once_is_as_good_as_made_up_after_five_minutes() -> None:
    async def scenario() -> None:
        dial = Dialling(FakeLink)
        keeper = LinkKeeper(dial, unanswered=UNANSWERED)  # type: ignore[arg-type]
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(60)
        dial.answer = lambda: LinkLost("away")
        dial.links[0].ended.set_result("gone")
        await asyncio.sleep(250)
        assert keeper.has_answered
        await asyncio.sleep(60)
        assert not keeper.has_answered
        await asyncio.sleep(7200)
        assert dial.at_s[-1] - dial.at_s[-2] == 600
        await stopped(task)

    virtual_time.run(scenario())


def test_each_dial_waits_for_its_permit_and_tells_once_how_it_went() -> None:
    async def scenario() -> None:
        reported: list[tuple[str, bool]] = []

        async def permit(is_known: bool) -> Callable[[bool], None]:
            reported.append(("asked", is_known))
            await asyncio.sleep(1)
            return lambda has_answered: reported.append(("over", has_answered))

        dial = Dialling(lambda: LinkLost("away"))
        keeper = LinkKeeper(dial, permit=permit)  # type: ignore[arg-type]
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(1.04)
        assert dial.at_s == [1.0]
        assert reported == [("asked", False), ("over", False)]
        dial.answer = FakeLink
        await asyncio.sleep(1.1)
        assert reported[2:] == [("asked", False), ("over", True)]
        dial.links[0].ended.set_result("gone")
        await asyncio.sleep(0.1)
        assert reported[4:] == [("over", False), ("asked", True)]
        await stopped(task)

    virtual_time.run(scenario())


async def test_name_is_dialled_only_where_its_addresses_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = dt.datetime.now(dt.UTC)
    token = NetworkOwner.create("n", now).invite(
        Role.ROUTER, expires_at=now + dt.timedelta(days=1), bootstrap=(), now=now
    )
    membership = Membership.join(Identity.generate(), token, now)
    membership.save(tmp_path)
    transport = LinkTransport(membership, tmp_path, agent_version="test")
    for address in ("localhost:1", "127.1:1", "2130706433:1", "127.0.0.1:1"):
        with pytest.raises(LinkLost, match="lies further inside than private addresses do"):
            await transport.dial(address, None, innermost=Inside.PRIVATE)  # type: ignore[arg-type]  # none is dialled
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
        await transport.dial("mixed:1", None, innermost=Inside.PRIVATE)  # type: ignore[arg-type]  # refused
    assert dialled == ["10.0.0.1", "8.8.8.8"]
