"""Links that a worker dials itself, because nobody can dial it: one to each address of each router. IO: asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from capamesh.protocol.ids import PeerId
from capamesh.protocol.links.keeper import LinkKeeper
from capamesh.protocol.links.link import Link

Dial = Callable[[PeerId, str], Awaitable[Link]]


class RouterDialing:
    """Keeps a link to every address of every router that was heard of."""

    def __init__(self, dial: Dial, tasks: asyncio.TaskGroup) -> None:
        self._dial = dial
        self._tasks = tasks
        self._keepers: dict[tuple[PeerId, str], asyncio.Task[None]] = {}

    def update(self, routers: Mapping[PeerId, Sequence[str]]) -> None:
        """Dial what is new, hang up what is gone."""
        wanted = {(peer, address) for peer, of in routers.items() for address in of}
        for key in self._keepers.keys() - wanted:
            self._keepers.pop(key).cancel()
        for peer, address in wanted - self._keepers.keys():
            keeper = LinkKeeper(partial(self._dial, peer, address))
            self._keepers[peer, address] = self._tasks.create_task(keeper.run())

    def close(self) -> None:
        """Hang up."""
        self.update({})
