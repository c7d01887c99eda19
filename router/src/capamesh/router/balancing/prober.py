"""Asks nodes for their load, and tells the balancer what they say or that they say nothing. IO: links."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.calls import decode_load, encode_probe
from capamesh.protocol.links.handlers import LoadHandler
from capamesh.router.admission.saturation import STALE_S

if TYPE_CHECKING:
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.fleet.node_link import NodeLink
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.timers import Timer, Timers


class _Probe(LoadHandler):
    """One probe on one link, as that link knows it."""

    __slots__ = ("_prober", "link", "replica", "sent_s", "stream")

    def __init__(self, prober: Prober, replica: Replica, sent_s: float) -> None:
        self._prober = prober
        self.replica = replica
        self.sent_s = sent_s
        self.link: NodeLink | None = None
        """The link that was probed; None once the probe is over."""
        self.stream = 0

    @override
    def reported(self, meta: bytes) -> None:
        if self.link is not None:
            self.link = None
            self._prober.answered(self, meta)

    @override
    def failed(self, error: CapameshError) -> None:
        del error
        if self.link is not None:
            self.link = None
            self._prober.failed(self)


class Prober:
    """All probes of one router that are under way."""

    def __init__(
        self,
        balancer: Balancer,
        *,
        clock: Callable[[], float],
        timers: Timers,
        limit_s: float = STALE_S,
    ) -> None:
        self._balancer = balancer
        self._clock = clock
        self._timers = timers
        self._limit_s = limit_s
        self._under_way: deque[_Probe] = deque()
        """The oldest first; those that are over are met in time."""
        self._timer: Timer | None = None
        self._is_closed = False
        self.sent = 0
        self.lost = 0
        """The number of probes that were not answered in time."""

    @override
    def __repr__(self) -> str:
        return f"Prober({self.sent} sent, {self.lost} lost)"

    def ask(self, replicas: Iterable[Replica]) -> None:
        """Probe all of `replicas`; nobody once this is closed."""
        if self._is_closed:
            return
        now_s = self._clock()
        for replica in replicas:
            link = replica.endpoint.link
            if link is None:
                self._balancer.probe_failed(replica, now_s)
                continue
            probe = _Probe(self, replica, now_s)
            try:
                probe.stream = link.ask_load(
                    encode_probe(replica.offer.name, replica.offer.version), probe
                )
            except CapameshError:
                self._balancer.probe_failed(replica, now_s)
                continue
            probe.link = link
            self.sent += 1
            self._under_way.append(probe)
        if self._timer is None and self._under_way:
            self._sweep_later()

    def answered(self, probe: _Probe, meta: bytes) -> None:
        """A node has told its load."""
        now_s = self._clock()
        try:
            load = decode_load(meta)
        except CapameshError:
            self._balancer.probe_failed(probe.replica, now_s)
            return
        self._balancer.probe_answered(probe.replica, load, now_s - probe.sent_s, now_s)

    def failed(self, probe: _Probe) -> None:
        """The link has ended, or the node answered with an error."""
        self._balancer.probe_failed(probe.replica, self._clock())

    def close(self) -> None:
        """Ask no more and forget what is under way."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for probe in self._under_way:
            link, probe.link = probe.link, None
            if link is not None:
                link.withdraw_load(probe.stream)
        self._under_way.clear()

    def _sweep_later(self) -> None:
        due_s = self._under_way[0].sent_s + self._limit_s
        self._timer = self._timers.call_later(max(0.0, due_s - self._clock()), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now_s = self._clock()
        while self._under_way:
            probe = self._under_way[0]
            if probe.link is not None and probe.sent_s + self._limit_s > now_s:
                break
            self._under_way.popleft()
            link, probe.link = probe.link, None
            if link is not None:
                self.lost += 1
                link.withdraw_load(probe.stream)
                self._balancer.probe_failed(probe.replica, now_s)
        if self._under_way:
            self._sweep_later()
