"""A router's membership built from its parts, with a dialler and a log that tests look at. IO: the pins' folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fleet_fakes import NullLog
from signed_adverts import FakeClocks, Network

from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.drains import Drains
from capamesh.protocol.fleet import Change
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import Role
from capamesh.protocol.reach import Inside
from capamesh.router.fleet.drains import FleetDrains
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.hearing import Hearing
from capamesh.router.fleet.last_fleet import LastFleet
from capamesh.router.fleet.lost_nodes import LostNodes
from capamesh.router.fleet.membership import FleetMembers
from capamesh.router.fleet.node_addresses import addresses_within
from capamesh.router.fleet.overrides import Overrides
from capamesh.router.fleet.ownership_keeper import OwnerKeeper
from capamesh.router.fleet.updates import Dialler, FleetUpdates
from capamesh.router.fleet.view import FleetView
from capamesh.router.rules.model_rules import NO_RULES


class Members(Dialler):
    """What one router makes of what it hears: `members` and the parts that they keep up to date."""

    def __init__(self, folder: Path, network: Network | None = None) -> None:
        self.network = network or Network()
        self.log = NullLog()
        log: Any = self.log
        self.clocks = FakeClocks()
        self.clocks.resume()
        self.membership = self.network.member(role=Role.ROUTER)
        self.trust = self.membership.trust()
        rule = addresses_within(Inside.LOOPBACK)
        self.hearing = Hearing(self.trust, rule, self.clocks.now())
        self.dialled: list[Endpoint] = []
        self.let_go: list[Endpoint] = []
        self.hurried: list[tuple[str, bool]] = []
        self.changes: list[list[Change]] = []
        owners = self.owners = OwnerKeeper(
            folder,
            rules=NO_RULES,
            publishers=(),
            invite_of=self.hearing.quotas.invite_of,
            log=log,
            clock=self.clocks.steady_s,
        )
        self.fleet = FleetView(
            on_new=self.dialled.append,
            on_gone=self.let_go.append,
            address_rule=rule,
            owners=owners.owners,
        )
        owners.fleet = self.fleet
        self.told_of_drains: list[bytes | str] = []
        """What was given to the mesh, and "changed" for each change of who is drained."""
        self.drains = FleetDrains(
            Drains(self.trust, DataDir(folder, log), log),
            self.fleet,
            now=lambda: self.hearing.membership_time(self.clocks.now()),
            pass_on=self.told_of_drains.append,
            on_changed=lambda: self.told_of_drains.append("changed"),
        )
        self.overrides = Overrides()
        self.last_fleet = LastFleet()
        self.lost = LostNodes()
        self.updates = FleetUpdates(
            self.fleet,
            self.overrides,
            self,
            take=owners.take,
            on_changes=self.changes.append,
            drain=self.drains.lay_on,
            is_drained=lambda peer: self.drains.until(peer) is not None,
            invite_of=self.hearing.quotas.invite_of,
            lost=self.lost,
            clocks=self.clocks,
            log=log,
        )
        self.unreached: set[PeerId] = set()
        """The nodes that are dialled in vain."""
        self.members = FleetMembers(
            self.hearing,
            self.fleet,
            self.updates,
            self.last_fleet,
            self.lost,
            last_error=lambda endpoint: "refused" if endpoint.peer in self.unreached else "",
            clocks=self.clocks,
            log=log,
        )

    def hurry(self, endpoint: Endpoint, *, is_changed: bool) -> None:
        """Keep which endpoint is to be dialled now, and whether its node says something else than before."""
        self.hurried.append((endpoint.address, is_changed))

    @property
    def peers(self) -> list[PeerId]:
        return list(self.fleet.adverts)
