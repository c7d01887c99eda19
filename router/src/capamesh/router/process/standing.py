"""The standing of a router: its state, its membership, and the status file that shows both. IO: the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from capamesh.protocol.advertised_address import reachable_multiaddr
from capamesh.protocol.network_clock import clock_fields
from capamesh.protocol.serving_notice import ServingNotice

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.data_dir import DataDir
    from capamesh.protocol.membership_upkeep import MembershipUpkeep
    from capamesh.protocol.network import Membership
    from capamesh.router.fleet.clocks import Clocks
    from capamesh.router.fleet.hearing import Hearing
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.process.seat import Mesh


class WorkersReport(Protocol):
    """The report of a router's workers on how they are."""

    def now(self) -> tuple[str, str]:
        """Return the state of the router by its workers, and the reason for people."""
        ...

    def rows(self) -> list[dict[str, Any]]:
        """Return what a status says of each."""
        ...


class Standing:
    """The standing of one router. `state` is of its own life; while it is serving, `now` says more."""

    def __init__(
        self,
        home: DataDir,
        membership: Membership,
        upkeep: MembershipUpkeep,
        fleet: FleetView,
        hearing: Hearing,
        clocks: Clocks,
        mesh: Mesh,
        *,
        name: str,
        mesh_host: str,
        today: Callable[[], datetime],
        log: FilteringBoundLogger,
    ) -> None:
        """`mesh_host` is the host by which others reach the mesh; `today` returns the time of day."""
        self._home = home
        self._name = name
        self._peer_id = membership.identity.peer_id
        self.network_id = membership.network_id
        """The network of which it is a member."""
        self._upkeep = upkeep
        self._fleet = fleet
        self._hearing = hearing
        self._clocks = clocks
        self._mesh = mesh
        self._mesh_host = mesh_host
        self._today = today
        self.state = "starting"
        self.http_address = ""
        self.metrics_address = ""
        """The URL at which operators come in; empty: at that of clients."""
        self.link_address = ""
        self.workers: WorkersReport | None = None
        """The workers that serve the requests of this router; None: this process does."""
        self.shut_out = ""
        """The reason for which this router refuses all requests, since no node would take them; empty if it does not."""
        self._notice = ServingNotice(log, self._served)
        self._written_state = ""
        self._was_meshed = False
        """True once the mesh has been up: from then on others can be told this router's addresses."""

    def enter(self, state: str) -> None:
        """Go on to the next state of the router's life, and show it."""
        self.state = state
        self.write()

    def beat(self) -> None:
        """Look after this router's own membership, and let its status show that it lives."""
        self._upkeep.beat(self._today())
        self._close_or_open()
        self.write()

    def revoked(self) -> None:
        """Look whether a newer revocation list names this router itself."""
        if self._upkeep.look(self._today()):
            self._close_or_open()
        self.write()

    def tick(self) -> None:
        """Show what has changed since the status was written."""
        self._close_or_open()
        if self.now()[0] != self._written_state:
            self.write()

    @property
    def client_addresses(self) -> dict[str, object]:
        """Return the URLs at which the router is asked, as its log has them."""
        metrics = {"metrics": self.metrics_address} if self.metrics_address else {}
        return {"http": self.http_address, **metrics}

    def has_usable(self) -> bool:
        """Return whether any node can be sent requests."""
        return any(endpoint.is_usable for endpoint in self._fleet.endpoints())

    def now(self) -> tuple[str, str]:
        """Return the state that a status shows, and the reason for people; see `member_status`."""
        ended = self._upkeep.ended
        if self.state != "serving":
            return self.state, ""
        if ended is not None:
            return ended.state, ended.reason
        if not self._was_meshed:
            return "starting", "its mesh is not up yet"
        if self.workers is not None:
            return self.workers.now()
        if self.has_usable():
            return "ready", ""
        return "waiting", self._missing()

    def _served(self) -> dict[str, object]:
        """Return what the log says of a router that begins to serve."""
        fleet = self._fleet
        usable = {endpoint.peer for endpoint in fleet.endpoints() if endpoint.is_usable}
        # links are the workers' where there are some
        nodes = len(usable) if self.workers is None else len(fleet.adverts)
        return {**self.client_addresses, "nodes": nodes, "models": len(fleet.models())}

    def _missing(self) -> str:
        """Return why no node can be sent requests."""
        known = len(self._fleet.adverts)
        if known:
            if any(endpoint.is_draining for endpoint in self._fleet.endpoints()):
                return f"each of the nodes that are known ({known}) drains, or cannot be reached"
            return f"none of the nodes that are known ({known}) can be reached"
        if not self._mesh.addrs:
            return "its mesh is down, so that it hears of no node; it is started anew"
        if self._fleet.has_had_nodes:
            return "all nodes that were heard of have left"
        return "no node has been heard of"

    def write(self) -> None:
        """Write the status file."""
        self._was_meshed |= bool(self._mesh.addrs)
        state, reason = self.now()
        self._written_state = state
        self._notice.look(state, reason)
        self._home.write_status(
            {
                "role": "router",
                "name": self._name,
                "state": state,
                "reason": reason,
                **self._upkeep.fields(self._today()),
                "nodes": len(self._fleet.adverts),
                "pid": os.getpid(),
                "peer_id": self._peer_id,
                "network_id": self.network_id,
                "sidecar_pid": self._mesh.pid,
                "mesh_addresses": [
                    reachable_multiaddr(addr, self._mesh_host) for addr in self._mesh.addrs
                ],
                "link_address": self.link_address,
                "http_address": self.http_address,
                **({"metrics_address": self.metrics_address} if self.metrics_address else {}),
                **({} if self.workers is None else {"workers": self.workers.rows()}),
                "clock": clock_fields(self._hearing.skew(self._clocks.now())),
                "invites_over_quota": [asdict(one) for one in self._hearing.quotas.over()],
            }
        )

    def _close_or_open(self) -> None:
        """Refuse requests while no node would take them, because this router is no member any more."""
        ended = self._upkeep.ended
        # An expired one may owe that to its own clock: nodes that take its requests know better.
        if ended is None or (ended.state == "expired" and self.has_usable()):
            self.shut_out = ""
        else:
            self.shut_out = (
                f"this router's membership has ended ({ended.reason}); ask another router, or its operator to give "
                "this one a new token"
            )
