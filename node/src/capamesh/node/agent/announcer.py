"""Publishes what a node says of itself when it is due, signed and small enough. IO: the sidecar, the clocks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from capamesh.node.agent.advert_schedule import AdvertSchedule
from capamesh.protocol.adverts import KIND_ADVERT, SequenceSource, advert_to_body, seal
from capamesh.protocol.errors import ConfigError, LocalError
from capamesh.protocol.mesh.gossip import adverts_topic

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.node.agent.announcement import Announcement
    from capamesh.node.agent.hearing import Hearing
    from capamesh.protocol.adverts import RouterAdvert
    from capamesh.protocol.data_dir import DataDir
    from capamesh.protocol.network import Membership
    from capamesh.protocol.system import System


class Publisher(Protocol):
    """The mesh, or one in memory."""

    def publish(self, topic: str, envelope: bytes) -> bool:
        """Gossip a sealed envelope; return False where nothing was sent."""
        ...


class Announcer:
    """The adverts of one node."""

    def __init__(
        self,
        announcement: Announcement,
        membership: Membership,
        home: DataDir,
        mesh: Publisher,
        hearing: Hearing,
        log: FilteringBoundLogger,
        system: System,
    ) -> None:
        self._announcement = announcement
        self._membership = membership
        self._home = home
        self._mesh = mesh
        self._hearing = hearing
        self._log = log
        self._wall_ns = system.wall_ns
        self._sequences = SequenceSource(home.next_boot_ns(system.wall_ns()))
        self._schedule = AdvertSchedule(system.rng)
        self._is_rescheduled = asyncio.Event()
        self.topic = adverts_topic(membership.network_id)

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            wait_s = self._schedule.due_s - _now_s()
            if wait_s <= 0:
                self.publish(KIND_ADVERT)
                continue
            self._is_rescheduled.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._is_rescheduled.wait()

    def changed(self) -> None:
        """Let the network know soon: there is news of this node."""
        self._schedule.changed(_now_s())
        self._is_rescheduled.set()

    def reached(self) -> None:
        """Let the network know soon: somebody listens who did not before."""
        self._schedule.reached(_now_s())
        self._is_rescheduled.set()

    def router_heard(self, router: RouterAdvert) -> None:
        """Take into account how large a fleet a router tells of."""
        self._schedule.router_heard(router, _now_s())
        self._is_rescheduled.set()

    def renewed(self, membership: Membership) -> None:
        """Sign by a renewed membership from now on, and let the network know soon."""
        self._membership = membership
        self.changed()

    def publish(self, kind: str) -> None:
        """Publish an advert or a goodbye now."""
        # by the routers' time, if this machine's is wrong: they take nothing of an unknown node that is not new
        time_ns = self._wall_ns() + self._hearing.correction_ms() * 1_000_000
        self._sequences = self._home.current(self._sequences, time_ns)
        try:
            raw = self._sealed(kind, time_ns // 1_000_000)
        except LocalError as error:
            self._log.error("advert_refused", error=error.message)
            return
        if not self._mesh.publish(self.topic, raw):
            self._log.debug("advert_not_published")

    def _sealed(self, kind: str, now_ms: int) -> bytes:
        """Return the envelope to publish; give models up until it is small enough."""
        interval_s = self._schedule.publishing(_now_s()) if kind == KIND_ADVERT else 0
        while True:
            sequence = self._sequences.next()
            body = (
                advert_to_body(self._announcement.advert(sequence, interval_s))
                if kind == KIND_ADVERT
                else {}
            )
            try:
                return seal(kind, body, self._membership, sequence, now_ms)
            except ConfigError:  # too large
                if self._announcement.leave_out_failed():
                    self._log.warning("failed_models_not_advertised")
                    continue
                withdrawn = self._announcement.give_up_largest()
                if withdrawn is None:
                    raise
                self._log.error("model_withdrawn", model=withdrawn.name, version=withdrawn.version)


def _now_s() -> float:
    """Return the time on the running loop's clock, by which adverts are scheduled."""
    return asyncio.get_running_loop().time()
