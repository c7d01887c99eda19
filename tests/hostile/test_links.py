"""A member that floods the links of a router with frames that nobody awaits: they end, with the reason, and clients notice nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from evil_nodes import EvilNode, offer_of, present
from hostile import Figures, attacked
from patience import until
from typing_extensions import override

from capamesh.protocol.adverts import ModelState
from capamesh.protocol.links.frames import FrameKind, encode_frame
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.unawaited import MOST

FLOOD = encode_frame(FrameKind.CANCEL, 7) * 100
MOST_WAITING_BYTES = 1 << 20
ENDS = 2
"""The links that are flooded: the first, and one that was dialled again."""


class Flooder(EvilNode):
    """A node that sends what nobody awaits on each of its links, as fast as these take it."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.reasons: list[str] = []
        self.frames = 0
        self._flooding: dict[Link, asyncio.Task[None]] = {}

    @override
    def link_up(self, link: Link) -> None:
        super().link_up(link)
        self._flooding[link] = asyncio.create_task(self._flood(link))

    @override
    def link_down(self, link: Link, reason: str) -> None:
        super().link_down(link, reason)
        flooding = self._flooding.pop(link, None)
        if flooding is not None:
            flooding.cancel()
            self.reasons.append(reason)

    async def _flood(self, link: Link) -> None:
        core = link._core
        while True:
            while core.queued_bytes < MOST_WAITING_BYTES:
                core._outgoing.frame(FLOOD)
                self.frames += 100
            link._writer.flush()
            await asyncio.sleep(0)


@pytest.mark.smoke
async def test_member_that_floods_its_link_is_hung_up_on_and_others_notice_nothing(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path / "network", sample_models, nodes=1) as network:
        offer = offer_of("none", state=ModelState.FAILED, reason="evil", inputs=(), outputs=())
        flooder = Flooder(tmp_path / "flooder", network.token(), offer)
        async with network.honest() as seen, present(flooder):
            await until(lambda: len(flooder.reasons) >= ENDS)
        assert seen.failures == []
        ends = flooder.reasons[:ENDS]
        assert all("more frames that nobody awaits" in reason for reason in ends), ends
        # what was on its way, in both kernels' buffers, when the link ended
        figures.at_least("frames that nobody awaits until a link ends", flooder.frames / ENDS, MOST)
