"""The writer of a link, with a socket that is a list of bytes."""

from __future__ import annotations

import asyncio
from typing import cast

from link_ends import Transport
from link_wire import greeted

from capamesh.protocol.links.connection import Connection
from capamesh.protocol.links.writer import LinkWriter

MOST_BYTES = 1_000_000


class Writing:
    """A writer on a core that has been greeted."""

    def __init__(self) -> None:
        self.core: Connection = greeted().dialer
        self.transport = Transport()
        self.reasons: list[str] = []
        self.writer = LinkWriter(
            asyncio.get_running_loop(), self.core, MOST_BYTES, self.reasons.append
        )
        self.writer.begin(cast("asyncio.Transport", self.transport))

    async def written(self) -> int:
        """Return how many bytes the loop's next turn has written."""
        self.transport.sent.clear()
        await asyncio.sleep(0)
        return len(self.transport.sent)


async def test_writer_that_is_held_or_paused_writes_nothing() -> None:
    writing = Writing()
    await writing.written()
    writing.core.ping(1)
    writing.writer.is_held = True
    writing.writer.flush_soon()
    assert await writing.written() == 0
    writing.writer.is_held = False
    writing.writer.is_paused = True
    writing.writer.flush_soon()
    assert await writing.written() == 0
    writing.writer.is_paused = False
    writing.writer.flush()
    assert len(writing.transport.sent) == 20


async def test_peer_that_reads_nothing_is_given_up_when_too_much_waits() -> None:
    writing = Writing()
    writing.writer.is_paused = True
    writing.core.ask(b"", [bytes(MOST_BYTES)])
    writing.writer.flush()
    assert writing.reasons == []
    writing.core.ask(b"", [b"x"])
    writing.writer.flush()
    (reason,) = writing.reasons
    assert reason.endswith("bytes wait that the peer does not read")
