"""The links between routers and nodes in virtual time: who is linked, partitions, redialling. Pure."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.channel.backoff import Backoff, RestartPolicy
from capamesh.simulation.link import NodeEnd, RouterEnd, SimLink, Way

if TYPE_CHECKING:
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.simulation.events import Events, Timer
    from capamesh.simulation.scenario import NetworkSpec

REDIAL = RestartPolicy(first_s=0.05, factor=2.0, most_s=2.0, stable_after_s=10.0)
"""The same as `protocol.links.keeper.REDIAL`; a test compares the two."""
HELLO_S = 5.0
"""Seconds as in `protocol.links.liveness.LinkTimes`; a test compares them."""
DIAL_TRIPS = 3
"""Round trips until a link is up: TCP, TLS 1.3, HELLO."""


class Keeper:
    """Keeps one router's link to one node up."""

    def __init__(
        self,
        network: Network,
        router: RouterEnd,
        node: NodeEnd,
        endpoint: Endpoint,
        regions: tuple[str, str],
    ) -> None:
        self.router = router
        self.node = node
        self.endpoint = endpoint
        self.is_wanted = True
        self.link: SimLink | None = None
        self.way = Way(network.spec, regions, network.rng)
        self.has_answered = False
        """True if it has been linked, so that news of the node is worth a dial."""
        self._network = network
        self._events = network.events
        self._backoff = Backoff(REDIAL)
        self._dialling: Timer | None = None
        self._up_since_s = 0.0

    @override
    def __repr__(self) -> str:
        return f"Keeper({self.endpoint!r}, {self.link!r})"

    def connect(self) -> None:
        """Be linked at once, as at the start."""
        self._dialling = None
        if not self.is_wanted or self.link is not None:
            return
        if not self.node.is_up or self.node.is_frozen or self._network.is_cut(self.way.regions):
            self._failed()
            return
        self.link = link = SimLink(
            self.router, self.node, self.endpoint, self.way, self._events, self._lost
        )
        self.has_answered = True
        self._up_since_s = self._events.now_s
        self.node.link_up(link)
        self.router.link_up(link)

    def hurry(self) -> None:
        """Dial now if the link is down: there is news of the node."""
        if self.is_wanted and self.link is None:
            if self._dialling is not None:
                self._dialling.cancel()
            self._dial()

    def stop(self) -> None:
        """Dial no more; a link that is up stays so."""
        self.is_wanted = False
        if self._dialling is not None:
            self._dialling.cancel()

    def _lost(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            self.router.link_down(link)
        self._again(self._events.now_s - self._up_since_s)

    def _dial(self) -> None:
        now_s = self._events.now_s
        trip_s = 2 * self.way.base_s
        if self.node.is_frozen or self._network.is_cut(self.way.regions):
            self._dialling = self._events.timer(now_s + HELLO_S, self._failed)
        elif not self.node.is_up:
            self._dialling = self._events.timer(now_s + trip_s, self._failed)
        else:
            self._dialling = self._events.timer(now_s + DIAL_TRIPS * trip_s, self.connect)

    def _failed(self) -> None:
        self._again(0.0)

    def _again(self, ran_s: float) -> None:
        self._dialling = None
        if self.is_wanted:
            wait_s = self._backoff.failed(ran_s, self.way.rng.random())
            self._dialling = self._events.timer(self._events.now_s + wait_s, self._dial)


class Network:
    """All links."""

    def __init__(self, spec: NetworkSpec, events: Events, rng: random.Random) -> None:
        self.spec = spec
        self.events = events
        self.rng = rng
        self._keepers: list[Keeper] = []
        self._cut: dict[frozenset[str], int] = {}
        self._is_stopped = False

    @override
    def __repr__(self) -> str:
        return f"Network({len(self._keepers)} links)"

    def keep(
        self, router: RouterEnd, node: NodeEnd, endpoint: Endpoint, regions: tuple[str, str]
    ) -> Keeper:
        """Return the keeper of a new link between a router's and a node's region."""
        keeper = Keeper(self, router, node, endpoint, regions)
        self._keepers.append(keeper)
        if self._is_stopped:
            keeper.stop()
        return keeper

    def is_cut(self, regions: frozenset[str]) -> bool:
        """Return whether nothing gets through between two regions now."""
        return bool(self._cut.get(regions))

    def cut(self, a: str, b: str) -> None:
        """Let nothing through between two regions."""
        regions = frozenset((a, b))
        self._cut[regions] = self._cut.get(regions, 0) + 1
        if self._cut[regions] == 1:
            for keeper in self._keepers:
                if keeper.way.regions == regions and keeper.link is not None:
                    keeper.link.cut()

    def heal(self, a: str, b: str) -> None:
        """End a partition."""
        regions = frozenset((a, b))
        self._cut[regions] -= 1
        if self._cut[regions] == 0:
            for keeper in self._keepers:
                if keeper.way.regions == regions and keeper.link is not None:
                    keeper.link.heal()

    def stop(self) -> None:
        """Dial no more: the simulation is ending."""
        self._is_stopped = True
        for keeper in self._keepers:
            keeper.stop()

    def pending(self) -> int:
        """Return how many requests and probes some link still waits for an answer of."""
        return sum(keeper.link.pending for keeper in self._keepers if keeper.link is not None)
