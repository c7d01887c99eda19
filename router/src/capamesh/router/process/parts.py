"""The parts of one router, and how they hold together. IO: that of the parts, which take over the data folder."""

from __future__ import annotations

import datetime as dt
import random
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

from capamesh.protocol.advertised_address import (
    advertised_host,
    listen_multiaddr,
    member_name,
    outward_address,
    require_free,
)
from capamesh.protocol.drains import Drains
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.receive_budget import ReceiveBudget
from capamesh.protocol.links.transport import LinkTransport
from capamesh.protocol.membership_upkeep import MembershipUpkeep
from capamesh.protocol.mesh.gossip import adverts_topic, demand_topic
from capamesh.protocol.network import Membership, Role
from capamesh.protocol.reach import innermost_to_dial, inside_named
from capamesh.protocol.system import System
from capamesh.protocol.token_file import token_file_of
from capamesh.router.access.keys import KeyRing
from capamesh.router.access.quotas import Quotas
from capamesh.router.fleet.announcer import Announcer
from capamesh.router.fleet.clocks import Clocks
from capamesh.router.fleet.drains import FleetDrains
from capamesh.router.fleet.hearing import Hearing
from capamesh.router.fleet.last_fleet import LastFleet
from capamesh.router.fleet.last_fleet_file import LastFleetFile
from capamesh.router.fleet.links import LinkPool
from capamesh.router.fleet.lost_nodes import LostNodes
from capamesh.router.fleet.membership import FleetMembers
from capamesh.router.fleet.naming import name_of
from capamesh.router.fleet.node_addresses import addresses_within
from capamesh.router.fleet.notices import Notices
from capamesh.router.fleet.overrides import Overrides
from capamesh.router.fleet.ownership_keeper import OwnerKeeper
from capamesh.router.fleet.revocations import Revocations
from capamesh.router.fleet.updates import FleetUpdates
from capamesh.router.fleet.view import FleetView
from capamesh.router.http.exchange import Inference
from capamesh.router.http.limits import answers_bytes_of
from capamesh.router.http.open_requests import OpenRequests
from capamesh.router.http.schemas.fleet import Router
from capamesh.router.policies import make_policy
from capamesh.router.process.key_watch import KeyWatch
from capamesh.router.process.request_parts import RequestParts
from capamesh.router.process.rules_keys import load_rules
from capamesh.router.process.seat import Seat, WholeRouter
from capamesh.router.process.standing import Standing
from capamesh.router.process.tls_watch import server_tls
from capamesh.router.process.traces import Traces
from capamesh.router.requests.metered import Meter
from capamesh.router.rules.model_rules import ModelRules, RoutingRules
from capamesh.router.supervision import Supervisor
from capamesh.router.telemetry import Telemetry

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.unhealthy import Verdict
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.policies.policy import MakePolicy
    from capamesh.router.settings import RouterSettings
    from capamesh.router.timers import Timers


class RouterParts:
    """The parts of one router, joined: what each part knows of the others is what it is given here."""

    def __init__(
        self,
        settings: RouterSettings,
        log: FilteringBoundLogger,
        timers: Timers,
        seat: Seat | None = None,
        system: System | None = None,
        make_policy: MakePolicy = make_policy,
    ) -> None:
        """Take over the data folder and make the parts in it; raise `ConfigError` when that cannot be.

        `seat` is that of this process in the router; None: it is the whole router. `system` is what it runs on.
        """
        self.settings = settings
        self.seat = seat = seat or WholeRouter()
        self.system = system = system or System()
        self.log = log
        self.name = member_name(settings.name)
        make_policy(settings.policy, random.Random())  # noqa: S311 - an unknown one is refused now
        self._defaults = ModelRules(policy=settings.policy)
        """The rules of what the file says nothing about."""
        rules = load_rules(settings.rules_file, self._defaults)
        self.tls = server_tls(settings, system.wall_s)
        """The TLS that clients speak; None: they speak none."""
        self.home = seat.take_home(settings.data_folder, log)
        membership = self.home.membership(settings.token, Role.ROUTER, system.now())
        if seat.is_main:
            require_free(settings.mesh_host, settings.mesh_port, "--mesh")
        self.operator_key = seat.operator_key(settings.data_folder)
        if not self.operator_key.is_kept:
            log.warning("operator_key_not_kept", folder=str(settings.data_folder))
        self.telemetry = Telemetry(is_of_process=system.has_figures)
        self.supervisor = Supervisor(self.telemetry, log, clock=system.steady_s)
        self.link_host = advertised_host(settings.link_host, settings.advertised_host)
        self._join_network(membership)
        self._make_fleet(membership, rules)
        self._make_requests(rules, timers, make_policy)
        self._make_control(membership)

    def _join_network(self, membership: Membership) -> None:
        """Make the parts by which this router is a member of its network."""
        settings, log = self.settings, self.log
        self.peer_id = membership.identity.peer_id
        self._publishers = membership.publishers()
        self.trust = membership.trust()
        self.trust.update(self.home.revocations(membership))
        self.upkeep = MembershipUpkeep(
            self.home,
            membership,
            self.trust,
            token_file=token_file_of(settings.token_file, settings.token),
            on_renewed=self._renewed,
            log=log,
        )
        self._drains = Drains(self.trust, self.home, log)
        network_id, revoked = membership.network_id, self.trust.revocations
        self.mesh = self.seat.make_mesh(
            membership,
            listen=[listen_multiaddr(settings.mesh_host, settings.mesh_port)],
            bootstrap=[*self.home.bootstrap(), *settings.bootstrap],
            subscribe=[adverts_topic(network_id), demand_topic(network_id)],
            use_mdns=settings.use_mdns,
            revocations=revoked.encode() if revoked.version else b"",
            drains=self._drains.encoded,
            on_message=self._heard,
            on_ready=self._mesh_ready,
            on_subscribed=self._subscribed,
            on_revocations=self._revoked,
            on_drains=self._drained,
            on_down=self._mesh_down,
            log=log,
        )

    def _make_fleet(self, membership: Membership, rules: RoutingRules) -> None:
        """Make the parts that know the nodes and hold links to them."""
        settings, log = self.settings, self.log
        self.clocks = Clocks(wall_ns=self.system.wall_ns, steady_s=self.system.steady_s)
        mesh_host = advertised_host(settings.mesh_host, settings.advertised_host)
        innermost = (
            inside_named(settings.dial_inside)
            if settings.dial_inside
            else innermost_to_dial((mesh_host, self.link_host), outward_address())
        )
        address_rule = addresses_within(innermost)
        self.hearing = Hearing(self.trust, address_rule, self.clocks.now())
        self.notices = Notices()
        self.answers = ReceiveBudget(
            answers_bytes_of(settings.limits.max_message_bytes, settings.answer_budget_bytes)
        )
        self.pool = LinkPool(
            LinkTransport(
                membership,
                settings.data_folder,
                agent_version=package_version("capamesh"),
                limits=LinkLimits(message_bytes=settings.limits.max_message_bytes),
                budget=self.answers,
                log=log,
                system=self.system,
            ),
            self.trust,
            on_visit=self._visited,
            on_leave=self._visitor_left,
            on_linked=self._linked,
            on_unlinked=self._unlinked,
            on_load=self._load_told,
            least_message_bytes=settings.limits.max_message_bytes,
            invite_of=self.hearing.quotas.invite_of,
            innermost=innermost,
            name_of=self._name_of,
            now=self._membership_time,
            dial_share=1.0 / settings.workers,
            log=log,
        )
        self.owners = OwnerKeeper(
            settings.data_folder,
            rules=rules,
            publishers=self._publishers,
            invite_of=self.hearing.quotas.invite_of,
            log=log,
            clock=self.clocks.steady_s,
            is_writer=self.seat.is_main,
        )
        self.fleet = FleetView(
            on_new=self.pool.keep,
            on_gone=self.pool.let_go,
            address_rule=address_rule,
            owners=self.owners.owners,
        )
        self.owners.fleet = self.fleet
        self.owners.expel(self.trust.revocations)
        self.drains = FleetDrains(
            self._drains,
            self.fleet,
            now=self._membership_time,
            pass_on=self.mesh.update_drains,
            on_changed=self._drains_changed,
        )
        self.standing = Standing(
            self.home,
            membership,
            self.upkeep,
            self.fleet,
            self.hearing,
            self.clocks,
            self.mesh,
            name=self.name,
            mesh_host=mesh_host,
            today=self.system.now,
            log=log,
        )

    def _make_requests(self, rules: RoutingRules, timers: Timers, make_policy: MakePolicy) -> None:
        """Make the parts that a request goes through."""
        settings, system = self.settings, self.system
        self.request_parts = parts = RequestParts(
            self.fleet,
            rules,
            clock=system.steady_s,
            timers=timers,
            rng=system.rng,
            make_policy=make_policy,
            counts=self.telemetry,
            do=self.supervisor.do,
            on_verdict=self._judged,
            limits=settings.limits,
            invite_of=self.hearing.quotas.invite_of,
            cache_bytes=settings.cache_bytes,
            workers=settings.workers,
        )
        self.balancer, self.prober, self.routing = parts.balancer, parts.prober, parts.routing
        self.watch, self.quotas = parts.watch, Quotas(settings.workers)
        self.traces = Traces(
            settings, self.name, system=system, telemetry=self.telemetry, log=self.log
        )
        self.key_watch = KeyWatch(
            settings.key_location,
            settings.data_folder,
            ring := KeyRing(),
            self.quotas,
            clock=system.steady_s,
            wall_clock=system.wall_s,
            log=self.log,
        )
        self.key_watch.load()
        self.inference = Inference(
            self.fleet,
            self.routing,
            self.telemetry,
            settings.timeout_s,
            settings.limits,
            self.log,
            redial_s=self.pool.redial_s,
            standing=self.standing,
            ended=self.traces.ended,
            ring=ring,
            meter=Meter(self.quotas, self.routing.pipeline, self.fleet, clock=system.steady_s),
            operator=self.operator_key,
            repeated=parts.repeated,
        )
        self.requests = OpenRequests()

    def _make_control(self, membership: Membership) -> None:
        """Make the parts that keep the others up to date."""
        log = self.log
        self.overrides = Overrides()
        self._last_fleet = last_fleet = LastFleet()
        self.lost = LostNodes()
        self.last_fleet = LastFleetFile(
            self.settings.data_folder, last_fleet, self.lost, self.clocks, log
        )
        self.updates = FleetUpdates(
            self.fleet,
            self.overrides,
            self.pool,
            take=self.owners.take,
            on_changes=self.routing.heard,
            drain=self.drains.lay_on,
            is_drained=lambda peer: self.drains.until(peer) is not None,
            invite_of=self.hearing.quotas.invite_of,
            lost=self.lost,
            clocks=self.clocks,
            log=log,
        )
        self.members = FleetMembers(
            self.hearing,
            self.fleet,
            self.updates,
            last_fleet,
            self.lost,
            last_error=self.pool.last_error,
            clocks=self.clocks,
            log=log,
        )
        self.revocations = Revocations(
            self.trust,
            membership,
            self.home,
            self.members,
            disown=self.owners.expel,
            recheck_links=self.pool.recheck_members,
            pass_on=self.mesh.update_revocations,
            on_taken=self.standing.revoked,
            log=log,
        )
        self.announcer = Announcer(
            membership,
            self.home,
            self.hearing,
            self.clocks,
            publish=self.mesh.publish,
            name=self.name,
            region=self.settings.region,
            supervisor=self.supervisor,
            log=log,
        )

    def last_envelopes(self) -> list[bytes]:
        """Return the newest envelope of each node, within the bounds of what is kept for the next start."""
        return self._last_fleet.envelopes()

    def routers(self) -> list[Router]:
        """Return the routers of the network as pages tell of them: this one, and those that it hears of."""
        address = self.standing.link_address
        return [
            {
                "peer_id": self.peer_id,
                "name": self.name,
                "region": self.settings.region,
                "agent_version": package_version("capamesh"),
                "nodes": len(self.fleet.adverts),
                "link_addresses": [address] if address else [],
                "is_this": True,
            },
            *(
                Router(
                    peer_id=advert.peer,
                    name=advert.name,
                    region=advert.region,
                    agent_version=advert.agent_version,
                    nodes=advert.nodes,
                    link_addresses=list(advert.link_addresses),
                    is_this=False,
                )
                for advert in self.hearing.routers.at(self.clocks.now().mesh_s)
                if advert.peer != self.peer_id
            ),
        ]

    def reload(self, file: Path) -> None:
        """Read the rules anew and route by them; if anything is wrong with them, by those of before."""
        try:
            rules = load_rules(file, self._defaults)
        except ConfigError as error:
            self.log.error("rules_refused", error=error.message)  # noqa: TRY400 - it is the file that is wrong
            return
        self.owners.take_rules(rules)
        self.request_parts.take_rules(rules)
        self.log.info("rules_reloaded", file=str(file), models=len(rules.models))

    def _renewed(self, membership: Membership) -> None:
        """Show a renewed membership on links, in gossip and to the mesh; raise `ConfigError` when that cannot be."""
        self.pool.renew(membership)
        if membership.publishers() != self._publishers:
            self._publishers = membership.publishers()
            self.owners.take_publishers(self._publishers)
        self.revocations.renew(membership)
        self.mesh.renew(membership, self.home.bootstrap())
        self.announcer.renew(membership)
        self.seat.renewed()

    def _judged(self, verdict: Verdict) -> None:
        change = type(verdict).__name__.lower()
        self.telemetry.circuit_changed(change)
        event = f"node_{change}"
        self.log.info(
            event,
            node=name_of(self.fleet.adverts, verdict.peer),
            peer=verdict.peer,
            address=verdict.address,
            model=verdict.model,
            version=verdict.version,
            reason=verdict.reason,
        )

    def _name_of(self, peer: PeerId) -> str:
        return name_of(self.fleet.adverts, peer)

    def _heard(self, topic: str, raw: bytes, sender: PeerId) -> None:
        del topic, sender
        self.members.heard(raw)

    def _subscribed(self, topic: str, peers: tuple[PeerId, ...]) -> None:
        del topic, peers
        self.announcer.hasten()

    def _revoked(self, encoded: bytes) -> None:
        self.revocations.heard(encoded)

    def _drained(self, encoded: bytes) -> None:
        self.drains.heard(encoded)

    def _drains_changed(self) -> None:
        self.routing.wake()

    def _membership_time(self) -> dt.datetime:
        return self.hearing.membership_time(self.clocks.now())

    def _mesh_ready(self, peer: PeerId, addrs: tuple[str, ...]) -> None:
        self.log.info("mesh_ready", peer=peer, addrs=addrs)
        self.clocks.resume()
        self.standing.write()
        self.announcer.hasten()

    def _mesh_down(self, reason: str) -> None:
        self.log.warning("mesh_down", reason=reason)
        self.clocks.pause()
        self.standing.write()

    def _visited(self, endpoint: Endpoint) -> None:
        self.updates.visited(endpoint)

    def _visitor_left(self, endpoint: Endpoint) -> None:
        self.updates.visitor_left(endpoint)

    def _linked(self, endpoint: Endpoint) -> None:
        self.watch.linked(endpoint)

    def _unlinked(self, endpoint: Endpoint) -> None:
        self.watch.unlinked(endpoint)

    def _load_told(
        self, endpoint: Endpoint, model: ModelName, version: ModelVersion, load: LoadReport
    ) -> None:
        self.balancer.load_told(endpoint, model, version, load, self.clocks.steady_s())
