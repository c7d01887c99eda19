"""A router's own adverts: what they tell, and when they go out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fleet_members import Members

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


async def test_news_are_announced_at_once_and_all_is_again_every_ten_seconds(
    tmp_path: Path,
) -> None:
    router = Router(tmp_path)
    announcing = asyncio.create_task(router.announcer.run())
    await asyncio.sleep(1.0)
    assert router.published == []
    router.announcer.listening("127.0.0.1:7100")
    await asyncio.sleep(0.1)
    counts = [len(router.published)]
    router.announcer.hasten()
    for seconds in (0.1, ADVERT_EVERY_S - 0.2, 0.2):
        await asyncio.sleep(seconds)
        counts.append(len(router.published))
    assert counts == [1, 2, 2, 3]
    announcing.cancel()


def test_advert_that_this_router_cannot_make_is_logged(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.announcer.listening("127.0.0.1:7100")
    router.error = LocalError("it is too large")
    router.announcer.announce()
    assert router.log.of("advert_refused") == [{"error": "it is too large"}]
