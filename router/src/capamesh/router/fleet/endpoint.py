"""One way to reach one node: what the balancer chooses among. Holds state, does no IO."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.bulk_deaths import BulkDeaths
from capamesh.protocol.errors import PeerError, is_refusal
from capamesh.router.fleet.network_estimate import NetworkEstimate
from capamesh.router.resilience.health import Health

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.ids import PeerId
    from capamesh.router.fleet.node_link import NodeLink


class Endpoint:
    """A node's worker, at one address. `rif` (requests in flight) counts this router's own."""

    __slots__ = (
        "_bulk_deaths",
        "_lost_linked_s",
        "_on_idle",
        "address",
        "alive_s",
        "answered",
        "bulk_rif",
        "errors",
        "failed",
        "health",
        "is_draining",
        "is_excused",
        "is_missed",
        "is_retired",
        "is_suspected",
        "left_s",
        "link",
        "linked_s",
        "lost_rif",
        "network",
        "peer",
        "process",
        "process_s",
        "rif",
        "unlinked_s",
    )

    def __init__(self, peer: PeerId, address: str) -> None:
        self.peer = peer
        self.address = address
        self.link: NodeLink | None = None
        self.linked_s = -math.inf
        """The time at which the newest link came up; minus infinity if none ever did."""
        self.unlinked_s = -math.inf
        """The time at which the newest link was lost; minus infinity if none ever was."""
        self.process = b""
        """The process of the node that the newest link leads to; empty if it did not say."""
        self.process_s = -math.inf
        """The time at which that process was first linked."""
        self.network = NetworkEstimate()
        self.health = Health()
        """The health of the endpoint as a whole; each of its models has one of its own (`Replica.health`)."""
        self.alive_s = -math.inf
        """The last time at which it was certainly alive, since a probe that was sent then was answered; minus infinity if never."""
        self.left_s = -math.inf
        """The time at which a request under way there was last given up; minus infinity if never."""
        self.rif = 0
        """Counted up by whoever is about to send a request there; `ended` counts it down, exactly once."""
        self.bulk_rif = 0
        """The number of those that are calls of jobs; `bulk_outcomes` counts them."""
        self.lost_rif = 0
        """The requests that were in flight there when the newest of its links that ended without a word did so."""
        self.is_excused = False
        """True if that end is put down to calls of jobs: it says nothing of the node, nor of the others that were in flight."""
        self._lost_linked_s = math.nan
        """The time at which that link had come up."""
        self._bulk_deaths = BulkDeaths()
        self.answered = 0
        self.failed = 0
        self.errors: dict[str, int] = {}
        """The requests that it refused or failed, by error code."""
        self.is_draining = False
        """True while its advert says that it takes no new work."""
        self.is_missed = False
        """A request has failed for want of a link to it, and there has been none since."""
        self.is_suspected = False
        self.is_retired = False
        """True once it has left the fleet; requests under way are still answered."""
        self._on_idle: Callable[[], None] | None = None

    @override
    def __repr__(self) -> str:
        return f"Endpoint({self.peer[-6:]} at {self.address}, {self.rif} in flight)"

    @property
    def is_usable(self) -> bool:
        """Return whether a new request may be sent to it."""
        link = self.link
        return link is not None and link.is_usable and not self.is_draining and not self.is_retired

    def retire(self, on_idle: Callable[[], None]) -> None:
        """Take no new request; call `on_idle` once none is under way."""
        self.is_retired = True
        if self.rif == 0:
            on_idle()
        else:
            self._on_idle = on_idle

    def link_lost(self, now_s: float) -> bool:
        """Take in that a request failed because its link ended without a word; return whether that is put down to calls of jobs.

        All that were in flight over the link tell of the same end, and the first of them has all counted.
        """
        if self._lost_linked_s != self.linked_s:
            self._lost_linked_s = self.linked_s
            self.lost_rif = self.rif
            self.is_excused = self.bulk_rif > 0 and self._bulk_deaths.excuse(now_s)
        return self.is_excused

    def count(self, error: CapameshError) -> None:
        """Count a request that it refused or failed."""
        self.errors[error.code] = self.errors.get(error.code, 0) + 1
        if isinstance(error, PeerError) and not is_refusal(error):
            self.failed += 1

    def ended(self) -> None:
        """Count a request down that is under way no more: it was answered, failed or was withdrawn."""
        self.rif -= 1
        if self.rif == 0 and self._on_idle is not None:
            on_idle, self._on_idle = self._on_idle, None
            on_idle()
