"""Publishes this router's own adverts, by which nodes that nobody can dial find it. IO: asyncio; writes sequences."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

from capamesh.protocol.adverts import (
    KIND_ROUTER,
    RouterAdvert,
    SequenceSource,
    router_to_body,
    seal,
)
from capamesh.protocol.errors import LocalError
from capamesh.protocol.mesh.gossip import demand_topic

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.data_dir import DataDir
    from capamesh.protocol.network import Membership
    from capamesh.router.fleet.clocks import Clocks
    from capamesh.router.fleet.hearing import Hearing
    from capamesh.router.supervision import Supervisor

ADVERT_EVERY_S = 10.0
"""However large the fleet: routers are few, and nodes must hear of a new one soon. Nodes judge by it who is new."""


class Announcer:
    """Announces one router: on news, and every `ADVERT_EVERY_S`; never before it has a link address."""

    def __init__(
        self,
        membership: Membership,
        home: DataDir,
        hearing: Hearing,
        clocks: Clocks,
        *,
        publish: Callable[[str, bytes], bool],
        name: str,
        region: str,
        supervisor: Supervisor,
        log: FilteringBoundLogger,
    ) -> None:
        """`publish` sends an envelope to a topic of the mesh; `hearing` tells how many nodes there are and how wrong this clock is."""
        self._membership = membership
        self._home = home
        self._hearing = hearing
        self._clocks = clocks
        self._publish = publish
        self._name = name
        self._region = region
        self._supervisor = supervisor
        self._log = log
        self._sequences = SequenceSource(home.next_boot_ns(clocks.wall_ns()))
        self._is_news = asyncio.Event()
        self._link_addresses: tuple[str, ...] = ()

    def renew(self, membership: Membership) -> None:
        """Announce by a renewed membership, at once."""
        self._membership = membership
        self.hasten()

    def listening(self, *link_addresses: str) -> None:
        """Announce where nodes can dial this router, at once: an address for each of its processes that takes links."""
        self._link_addresses = link_addresses
        self.hasten()

    def hasten(self) -> None:
        """Announce at once: there is somebody new to hear it, or something new to say."""
        self._is_news.set()

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            self._is_news.clear()
            self._supervisor.do("announce", self.announce)
            try:
                async with asyncio.timeout(ADVERT_EVERY_S):
                    await self._is_news.wait()
            except TimeoutError:
                continue

    def announce(self) -> None:
        """Publish one advert; one that this router cannot make is logged."""
        if not self._link_addresses:
            return
        try:
            self._publish(demand_topic(self._membership.network_id), self._advert())
        except LocalError as error:
            self._log.error("advert_refused", error=error.message)

    def _advert(self) -> bytes:
        # Others must take it for new, also when this machine's time is wrong.
        correction_ms = self._hearing.correction_ms(self._clocks.now())
        time_ns = self._clocks.wall_ns() + correction_ms * 1_000_000
        self._sequences = self._home.current(self._sequences, time_ns)
        sequence = self._sequences.next()
        advert = RouterAdvert(
            peer=self._membership.identity.peer_id,
            sequence=sequence,
            link_addresses=self._link_addresses,
            region=self._region,
            agent_version=package_version("capamesh"),
            nodes=len(self._hearing.members),
            name=self._name,
        )
        return seal(
            KIND_ROUTER,
            router_to_body(advert),
            self._membership,
            sequence,
            time_ns // 1_000_000,
        )
