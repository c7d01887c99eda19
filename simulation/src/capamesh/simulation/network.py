"""Links between routers and nodes in virtual time: delays, loss, silence, partitions, redialling. Pure.

A link delivers in order, as TCP does. What is sent while nothing gets through is delivered when something does
again, unless the link was given up meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from capamesh.protocol.channel.backoff import Backoff, RestartPolicy
from capamesh.protocol.errors import LinkLost

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.simulation.events import Events, Timer
    from capamesh.simulation.exchange import Exchange, Probe
    from capamesh.simulation.scenario import NetworkSpec

REDIAL = RestartPolicy(first_s=0.05, factor=2.0, most_s=2.0, stable_after_s=10.0)
"""As `protocol.links.keeper.REDIAL`; a test compares the two."""
PING_EVERY_S = 2.0
SILENT_S = 6.0
HELLO_S = 5.0
"""As `protocol.links.liveness.LinkTimes`; a test compares them."""
DIAL_TRIPS = 3
"""Round trips until a link is up: TCP, TLS 1.3, HELLO."""


class NodeEnd(Protocol):
    """What a link asks of the node that it leads to."""

    index: int
    is_up: bool
    is_frozen: bool

    @property
    def process(self) -> bytes:
        """Which process it is: another each time that it starts."""
        ...

    def link_up(self, link: SimLink) -> None:
        """A router is connected."""
        ...

    def link_down(self, link: SimLink) -> None:
        """A router is not connected any more: what it asked for is not wanted."""
        ...

    def requested(self, exchange: Exchange) -> None:
        """A request has come."""
        ...

    def withdrawn(self, exchange: Exchange) -> None:
        """A request is not wanted any more."""
        ...

    def probed(self, probe: Probe) -> None:
        """A router asks for the load of a model."""
        ...


class RouterEnd(Protocol):
    """What a link and a node tell a router."""

    def link_up(self, link: SimLink) -> None:
        """An endpoint can be reached."""
        ...

    def link_down(self, link: SimLink, error: LinkLost) -> None:
        """An endpoint cannot be reached any more; `link.pending` will not be answered."""
        ...

    def answered(self, exchange: Exchange, load: LoadReport, at_node_s: float) -> None:
        """A request was answered."""
        ...

    def failed_at_node(self, exchange: Exchange, error: CapameshError) -> None:
        """A request was refused or failed."""
        ...

    def load_reported(self, probe: Probe, load: LoadReport) -> None:
        """A probe was answered."""
        ...


class SimLink:
    """One connection. To the balancer it is what a `Link` is: `is_usable`, `peer_process`."""

    __slots__ = (
        "_back_s",
        "_events",
        "_held",
        "_keeper",
        "_silence",
        "_there_s",
        "has_gone_away",
        "is_cut",
        "is_open",
        "is_up",
        "peer_process",
        "pending",
    )

    def __init__(self, keeper: Keeper, events: Events) -> None:
        self._keeper = keeper
        self._events = events
        self.is_up = True
        """The router's end."""
        self.is_open = True
        """The node's end."""
        self.is_cut = False
        """Nothing gets through now."""
        self.has_gone_away = False
        """The node said that it takes nothing new."""
        self.peer_process = keeper.node.process
        self.pending: dict[Exchange, None] = {}
        """What the router awaits an answer of."""
        self._there_s = 0.0
        self._back_s = 0.0
        self._held: list[tuple[bool, int, Callable[..., None], tuple[object, ...]]] = []
        self._silence: Timer | None = None

    def __repr__(self) -> str:
        return f"SimLink({'up' if self.is_up else 'down'}, {len(self.pending)} pending)"

    @property
    def is_usable(self) -> bool:
        """Whether the router may send something new."""
        return self.is_up and not self.has_gone_away

    @property
    def endpoint(self) -> Endpoint:
        """The node as the router knows it."""
        return self._keeper.endpoint

    @property
    def round_trip_s(self) -> float:
        """A round trip without jitter, as the handshake shows it."""
        return 2 * self._keeper.base_s

    @property
    def router(self) -> RouterEnd:
        """Who is at the router's end."""
        return self._keeper.router

    @property
    def node(self) -> NodeEnd:
        """Who is at the node's end."""
        return self._keeper.node

    def to_node(self, size_bytes: int, do: Callable[..., None], *args: object) -> None:
        """Call `do(*args)` when a message of `size_bytes` has come to the node."""
        if not self.is_up:
            return
        if self.is_cut:
            self._held.append((True, size_bytes, do, args))
            return
        due_s = self._events.now_s + self._keeper.delay_s(size_bytes)
        self._there_s = due_s = max(due_s, self._there_s)
        self._events.at(due_s, do, *args)
        if self._keeper.loses():
            self.give_up("a message was lost")

    def to_router(self, size_bytes: int, do: Callable[..., None], *args: object) -> None:
        """Call `do(*args)` when a message of `size_bytes` has come to the router."""
        if not self.is_open:
            return
        if self.is_cut:
            self._held.append((False, size_bytes, do, args))
            return
        due_s = self._events.now_s + self._keeper.delay_s(size_bytes)
        self._back_s = due_s = max(due_s, self._back_s)
        self._events.at(due_s, do, *args)
        if self._keeper.loses():
            self.give_up("a message was lost")

    def go_away(self) -> None:
        """The node asks for nothing new."""
        self.to_router(0, self._went_away)

    def close_at_node(self, reason: str) -> None:
        """The node's end closes; the router hears of it after what was sent before."""
        if self.is_open:
            self.to_router(0, self._down_at_router, reason, True)
            self.is_open = False

    def give_up(self, reason: str) -> None:
        """Both ends close now."""
        self._held.clear()
        if self.is_open:
            self.is_open = False
            self._keeper.node.link_down(self)
        self._down_at_router(reason)

    def cut(self) -> None:
        """From now on nothing gets through; in time that will be noticed."""
        self.is_cut = True
        self.fall_silent()

    def heal(self) -> None:
        """Things get through again."""
        self.is_cut = False
        self.speak()
        held, self._held = self._held, []
        for is_to_node, size_bytes, do, args in held:
            (self.to_node if is_to_node else self.to_router)(size_bytes, do, *args)

    def fall_silent(self) -> None:
        """The other side is not heard any more, by either end."""
        if self.is_up and self._silence is None:
            patience_s = SILENT_S + PING_EVERY_S * self._keeper.rng.random()
            self._silence = self._events.timer(
                self._events.now_s + patience_s, self.give_up, "silent for too long"
            )

    def speak(self) -> None:
        """The other side is heard again."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _went_away(self) -> None:
        self.has_gone_away = True

    def _down_at_router(self, reason: str, is_sudden: bool = False) -> None:
        self.speak()
        if self.is_up:
            self.is_up = False
            error = LinkLost(f"the link to {self.endpoint.peer} ended: {reason}")
            error.is_sudden = is_sudden and not self.has_gone_away
            self._keeper.lost(self, error)


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
        spec = network.spec
        self.router = router
        self.node = node
        self.endpoint = endpoint
        self.rng = network.rng
        self.is_wanted = True
        self.link: SimLink | None = None
        self.regions = frozenset(regions)
        self.base_s = spec.one_way(*regions)
        self._network = network
        self._events = network.events
        self._jitter_s = spec.jitter * self.base_s
        self._second_per_byte = 1 / spec.bytes_per_s if spec.bytes_per_s else 0.0
        self._loss = spec.loss
        self._backoff = Backoff(REDIAL)
        self._dialling: Timer | None = None
        self._up_since_s = 0.0

    def __repr__(self) -> str:
        return f"Keeper({self.endpoint!r}, {self.link!r})"

    def delay_s(self, size_bytes: int) -> float:
        """Return how long a message is on its way."""
        delay_s = self.base_s + size_bytes * self._second_per_byte
        return delay_s + self.rng.expovariate(1.0) * self._jitter_s if self._jitter_s else delay_s

    def loses(self) -> bool:
        """Whether a message that was just sent is lost, and the link with it."""
        return self._loss > 0 and self.rng.random() < self._loss

    def connect(self) -> None:
        """Be up at once: as at the start."""
        self._dialling = None
        if not self.is_wanted or self.link is not None:
            return
        if not self.node.is_up or self.node.is_frozen or self._network.is_cut(self.regions):
            self._failed()
            return
        self.link = link = SimLink(self, self._events)
        self._up_since_s = self._events.now_s
        self.node.link_up(link)
        self.router.link_up(link)

    def hurry(self) -> None:
        """There is news of the node: if its link is down, dial now."""
        if self.is_wanted and self.link is None:
            if self._dialling is not None:
                self._dialling.cancel()
            self._dial()

    def stop(self) -> None:
        """Dial no more; a link that is up stays so."""
        self.is_wanted = False
        if self._dialling is not None:
            self._dialling.cancel()

    def lost(self, link: SimLink, error: LinkLost) -> None:
        """The router's end of the link has closed."""
        self.link = None
        self.router.link_down(link, error)
        self._again(self._events.now_s - self._up_since_s)

    def _dial(self) -> None:
        now_s = self._events.now_s
        trip_s = 2 * self.base_s
        if self.node.is_frozen or self._network.is_cut(self.regions):
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
            wait_s = self._backoff.failed(ran_s, self.rng.random())
            self._dialling = self._events.timer(self._events.now_s + wait_s, self._dial)


class Network:
    """All links."""

    def __init__(self, spec: NetworkSpec, events: Events, rng: random.Random) -> None:
        self.spec = spec
        self.events = events
        self.rng = rng
        self._keepers: list[Keeper] = []
        self._cut: dict[frozenset[str], int] = {}

    def __repr__(self) -> str:
        return f"Network({len(self._keepers)} links)"

    def keep(
        self, router: RouterEnd, node: NodeEnd, endpoint: Endpoint, regions: tuple[str, str]
    ) -> Keeper:
        """Return the keeper of a new link between a router's and a node's region."""
        keeper = Keeper(self, router, node, endpoint, regions)
        self._keepers.append(keeper)
        return keeper

    def is_cut(self, regions: frozenset[str]) -> bool:
        """Whether nothing gets through between two regions now."""
        return bool(self._cut.get(regions))

    def cut(self, a: str, b: str) -> None:
        """Let nothing through between two regions."""
        regions = frozenset((a, b))
        self._cut[regions] = self._cut.get(regions, 0) + 1
        if self._cut[regions] == 1:
            for keeper in self._keepers:
                if keeper.regions == regions and keeper.link is not None:
                    keeper.link.cut()

    def heal(self, a: str, b: str) -> None:
        """End a partition."""
        regions = frozenset((a, b))
        self._cut[regions] -= 1
        if self._cut[regions] == 0:
            for keeper in self._keepers:
                if keeper.regions == regions and keeper.link is not None:
                    keeper.link.heal()

    def stop(self) -> None:
        """Dial no more: the simulation is ending."""
        for keeper in self._keepers:
            keeper.stop()

    def pending(self) -> int:
        """Return how many requests some link still waits for an answer of."""
        return sum(len(keeper.link.pending) for keeper in self._keepers if keeper.link is not None)
