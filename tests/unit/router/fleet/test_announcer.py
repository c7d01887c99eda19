"""A router's own adverts: what they tell, and when they go out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fleet_fakes import in_virtual_time
from fleet_members import Members
from signed_adverts import NOW, NOW_MS, says

from capamesh.protocol.adverts import RouterAdvert, open_envelope, router_from_body
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import LocalError
from capamesh.router.fleet.announcer import ADVERT_EVERY_S, Announcer
from capamesh.router.supervision import Supervisor
from capamesh.router.telemetry import Telemetry


class Router(Members):
    """A router's membership, and what it announces."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        log: Any = self.log
        self.published: list[tuple[str, bytes]] = []
        self.error: Exception | None = None
        self.telemetry = Telemetry()
        self.announcer = Announcer(
            self.membership,
            DataDir(folder),
            self.hearing,
            self.clocks,
            publish=self._publish,
            name="front",
            region="eu",
            supervisor=Supervisor(self.telemetry, log, clock=self.clocks.steady_s),
            log=log,
        )

    def _publish(self, topic: str, envelope: bytes) -> bool:
        self.published.append((topic, envelope))
        if self.error is not None:
            raise self.error
        return True

    def adverts(self) -> list[RouterAdvert]:
        """Return what was published, as others read it."""
        found: list[RouterAdvert] = []
        for topic, raw in self.published:
            assert topic.endswith("/demand")
            envelope = open_envelope(raw, self.trust, NOW_MS)
            peer = envelope.sender.peer_id
            found.append(router_from_body(envelope.body, peer, envelope.sequence))
        return found


def test_router_tells_how_many_nodes_are_in_its_own_view_and_where_it_is_dialled(
    tmp_path: Path,
) -> None:
    router = Router(tmp_path)
    router.announcer.listening("127.0.0.1:7100")
    router.announcer.announce()
    for port in (7001, 7002, 7003):
        router.members.heard(says(router.network.member(), port))
    router.announcer.announce()
    adverts = router.adverts()
    assert [advert.nodes for advert in adverts] == [0, 3]
    assert [advert.link_addresses for advert in adverts] == [("127.0.0.1:7100",)] * 2
    assert {(advert.region, advert.name) for advert in adverts} == {("eu", "front")}
    assert adverts[1].sequence > adverts[0].sequence


def test_router_that_cannot_be_dialled_yet_announces_nothing(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.announcer.announce()
    assert router.published == []


def test_renewed_membership_signs_what_is_announced_from_then_on(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.announcer.listening("127.0.0.1:7100")
    token = router.network.invite(role=router.membership.role)
    renewed = type(router.membership).join(router.membership.identity, token, NOW)
    router.announcer.renew(renewed)
    router.announcer.announce()
    ((_, raw),) = router.published
    sender = open_envelope(raw, router.trust, NOW_MS).sender
    assert sender.invite_serial == router.network.serial_of(token)


@in_virtual_time
async def test_news_are_announced_at_once_and_all_is_again_every_ten_seconds(
    tmp_path: Path,
) -> None:
    router = Router(tmp_path)
    announcing = asyncio.create_task(router.announcer.run())
    await asyncio.sleep(1.0)
    assert router.published == []
    router.announcer.listening("127.0.0.1:7100")
    await asyncio.sleep(0.1)
    assert len(router.published) == 1
    router.announcer.hasten()
    await asyncio.sleep(0.1)
    assert len(router.published) == 2
    await asyncio.sleep(ADVERT_EVERY_S - 0.2)
    assert len(router.published) == 2
    await asyncio.sleep(0.2)
    assert len(router.published) == 3
    announcing.cancel()


@in_virtual_time
async def test_bug_in_announcing_is_logged_and_counted_and_the_next_advert_is_tried(
    tmp_path: Path,
) -> None:
    router = Router(tmp_path)
    router.announcer.listening("127.0.0.1:7100")
    router.error = RuntimeError("a bug")
    announcing = asyncio.create_task(router.announcer.run())
    await asyncio.sleep(2.5 * ADVERT_EVERY_S)
    assert not announcing.done()
    assert len(router.published) == 3
    assert router.log.of("turn_crashed") == [{"loop": "announce"}]
    counted = router.telemetry.exposition().decode()
    assert 'capamesh_turns_crashed_total{loop="announce"} 3.0' in counted
    announcing.cancel()


def test_advert_that_this_router_cannot_make_is_logged(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.announcer.listening("127.0.0.1:7100")
    router.error = LocalError("it is too large")
    router.announcer.announce()
    assert router.log.of("advert_refused") == [{"error": "it is too large"}]
