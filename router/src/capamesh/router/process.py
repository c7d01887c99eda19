"""One router from start to stop: mesh, fleet, links, HTTP. IO: asyncio."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import signal
import time
from dataclasses import asdict
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Final

from aiohttp import web

from capamesh.protocol.advertised_address import (
    advertised_host,
    listen_multiaddr,
    listen_reason,
    outward_address,
    reachable_multiaddr,
    require_free,
)
from capamesh.protocol.adverts import (
    KIND_ROUTER,
    RejectReason,
    RouterAdvert,
    SequenceSource,
    router_to_body,
    seal,
)
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import (
    AdvertRejected,
    ConfigError,
    InvalidRequest,
    LocalError,
    ProtocolViolation,
)
from capamesh.protocol.fleet import Change, Changed, Joined, Left
from capamesh.protocol.links.frames import LinkLimits
from capamesh.protocol.links.receive_budget import ReceiveBudget
from capamesh.protocol.links.transport import LinkTransport
from capamesh.protocol.loop_watch import LoopWatch
from capamesh.protocol.member_status import HEARTBEAT_S
from capamesh.protocol.membership_upkeep import MembershipUpkeep
from capamesh.protocol.mesh.client import MeshClient
from capamesh.protocol.mesh.gossip import adverts_topic, demand_topic
from capamesh.protocol.network import REVOCATIONS_FILE, RevocationList, Role
from capamesh.protocol.network_clock import clock_fields
from capamesh.protocol.private_files import replace_public
from capamesh.protocol.reach import Inside, innermost_to_dial, inside_named, inside_of
from capamesh.protocol.token_file import token_file_of
from capamesh.router.access.operator_key import OperatorKey
from capamesh.router.balancing.balancer import Balancer
from capamesh.router.balancing.eligibility import ANYWHERE, Constraints
from capamesh.router.balancing.prober import Prober
from capamesh.router.balancing.served_model import Terms
from capamesh.router.fleet.hearing import Hearing, Now
from capamesh.router.fleet.last_fleet import LastFleet, decode
from capamesh.router.fleet.links import LinkPool
from capamesh.router.fleet.mesh_clock import MeshClock
from capamesh.router.fleet.node_addresses import addresses_within
from capamesh.router.fleet.notices import Notices
from capamesh.router.fleet.overrides import Overrides
from capamesh.router.fleet.ownership_keeper import OwnerKeeper
from capamesh.router.fleet.view import FleetView
from capamesh.router.http.admin_fleet import FleetApi
from capamesh.router.http.admin_routing import RoutingApi
from capamesh.router.http.application import OpenRequests, make_application, make_runner
from capamesh.router.http.exchange import Inference
from capamesh.router.http.limits import FrontLimits, answers_bytes_of, limits_of, networks_of
from capamesh.router.http.oip import InferenceApi
from capamesh.router.http.server import Front
from capamesh.router.policies import POLICIES, make_policy
from capamesh.router.requests.dispatch import Dispatch
from capamesh.router.requests.routing import Routing
from capamesh.router.rules import RoutingRules, read_rules
from capamesh.router.supervision import Supervisor
from capamesh.router.telemetry import Telemetry

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.ids import ModelName, PeerId
    from capamesh.protocol.network import Membership
    from capamesh.protocol.network_clock import Skew
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.settings import RouterSettings

ADVERT_EVERY_S = 10.0
"""However large the fleet: routers are few, and nodes must hear of a new one soon. Nodes judge by it who is new."""
REPROBE_EVERY_S = 0.05
"""How often those that failed may be asked for a sign of life (guess: the first is due after as long)."""
JUDGE_EVERY_S = 1.0
"""How often replicas are compared with one another (guess: half the time in which an outlier is found)."""
LAST_FLEET_FILE = "fleet.bin"
KEEP_FLEET_S = 1.0
"""How soon a change of the fleet is written down (guess: nodes come and go seldom, and a second of it is heard anew)."""
FLEET_EVERY_S = 10.0
"""How often it is written at most in the long run (guess: a member that comes and goes must not wear the disk), but for"""
FLEET_BURST = 6.0
"""so many changes that are written as they come (guess: nodes that start one after the other, or load their models)."""
RENEW_FLEET_S = 300.0
"""How often it is written though nothing has changed, so that its age tells how long this router was away (guess)."""
TICK_S = 0.5
"""How exactly a member's silence is noticed (guess: 2 % of the silence that is borne)."""

OPEN_TO_STRANGERS: Final = {
    "what_they_can_do": "run any model as often as the limits allow, in any tenant's name and at any priority, read every"
    " request's way, /v1/nodes with the addresses of all nodes, and /metrics; nothing on the way is encrypted",
    "what_to_do": "listen on 127.0.0.1 and let a proxy with TLS and keys come before it, or let a firewall allow only"
    " those you know",
}
"""What a router that listens beyond its machine tells its operator: it asks for no key, and speaks no TLS."""


class Router:
    """One router of a network."""

    def __init__(self, settings: RouterSettings, log: FilteringBoundLogger) -> None:
        """Take over the data folder; raise `ConfigError` when that cannot be."""
        self._settings = settings
        self._log = log
        make_policy(settings.policy, random.Random())  # noqa: S311 - an unknown one is refused now
        self._rules = _rules_in(settings.rules_file)
        self._home = DataDir(settings.data_folder, log)
        self._home.lock()
        self._membership = self._home.membership(
            settings.token, Role.ROUTER, dt.datetime.now(dt.UTC)
        )
        require_free(settings.mesh_host, settings.mesh_port, "--mesh")
        self._operator_key = OperatorKey.create(settings.data_folder)
        if not self._operator_key.is_kept:
            log.warning("operator_key_not_kept", folder=str(settings.data_folder))
        self._overrides = Overrides()
        self._trust = self._membership.trust()
        self._trust.update(self._home.revocations(self._membership))
        self._upkeep = MembershipUpkeep(
            self._home,
            self._membership,
            self._trust,
            token_file=token_file_of(settings.token_file, settings.token),
            on_renewed=self._renewed,
            log=log,
        )
        self._shut_out = ""
        self._sequences = SequenceSource(self._home.next_boot_ns(time.time_ns()))
        self._demand = demand_topic(self._membership.network_id)
        adverts = adverts_topic(self._membership.network_id)
        self._mesh = MeshClient(
            self._membership,
            listen=[listen_multiaddr(settings.mesh_host, settings.mesh_port)],
            bootstrap=[*self._home.bootstrap(), *settings.bootstrap],
            subscribe=[adverts, self._demand],
            use_mdns=settings.use_mdns,
            revocations=self._trust.revocations.encode()
            if self._trust.revocations.version
            else b"",
            on_message=self._heard,
            on_ready=self._mesh_ready,
            on_subscribed=lambda _topic, _peers: self._is_news.set(),
            on_revocations=self._take_revocations,
            on_down=self._mesh_down,
            log=log,
        )
        self._clock = MeshClock(time.monotonic())
        self._telemetry = Telemetry()
        self._supervisor = Supervisor(self._telemetry, log, clock=time.monotonic)
        self._mesh_host = advertised_host(settings.mesh_host, settings.advertised_host)
        self._link_host = advertised_host(settings.link_host, settings.advertised_host)
        innermost = (
            inside_named(settings.dial_inside)
            if settings.dial_inside
            else innermost_to_dial((self._mesh_host, self._link_host), outward_address())
        )
        address_rule = addresses_within(innermost)
        self._hearing = Hearing(self._trust, address_rule, self._now())
        self._notices = Notices()
        self._answers = ReceiveBudget(
            answers_bytes_of(settings.limits.max_message_bytes, settings.answer_budget_bytes)
        )
        self._pool = LinkPool(
            LinkTransport(
                self._membership,
                settings.data_folder,
                agent_version=package_version("capamesh"),
                limits=LinkLimits(message_bytes=settings.limits.max_message_bytes),
                budget=self._answers,
                log=log,
            ),
            self._trust,
            on_visit=self._visited,
            on_leave=self._visitor_left,
            on_linked=self._linked,
            least_message_bytes=settings.limits.max_message_bytes,
            invite_of=self._hearing.quotas.invite_of,
            innermost=innermost,
            now=self._membership_time,
            on_unlinked=self._unlinked,
            log=log,
        )
        self._owners = OwnerKeeper(
            settings.data_folder,
            rules_of=lambda model: self._rules.of(model),  # noqa: PLW0108 - they are replaced by others
            publishers=self._membership.publishers(),
            invite_of=self._hearing.quotas.invite_of,
            log=log,
        )
        self._fleet = FleetView(
            on_new=self._pool.keep,
            on_gone=self._pool.let_go,
            address_rule=address_rule,
            owners=self._owners.owners,
        )
        self._owners.fleet = self._fleet
        rng = random.Random()  # noqa: S311 - load balancing
        self._balancer = Balancer(
            self._fleet,
            make_policy=lambda name: make_policy(name, rng),
            rng=rng,
            rules=self._terms_of,
            invite_of=self._hearing.quotas.invite_of,
        )
        self._prober = Prober(self._balancer, clock=time.monotonic)
        self._routing = Routing(
            self._fleet,
            self._balancer,
            Dispatch(
                self._prober,
                clock=time.monotonic,
                limits=settings.limits,
                telemetry=self._telemetry,
            ),
            self._rules,
            rng=rng,
            clock=time.monotonic,
        )
        self._inference = Inference(
            self._fleet,
            self._routing,
            self._telemetry,
            settings.timeout_s,
            settings.limits,
            log,
            constraints_of=lambda model: self._terms_of(model).constraints,
            redial_s=self._pool.redial_s,
            shut_out=lambda: self._shut_out,
        )
        self._last_fleet = LastFleet()
        self._is_fleet_unkept = False
        self._link_address = ""
        self._has_links = asyncio.Event()
        self._requests = OpenRequests()
        self._is_news = asyncio.Event()
        self._state = "starting"
        """Of its own life; while it is serving, `_standing` says more."""
        self._reported_state = ""
        self._http_address = ""

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish the requests under way and return.

        SIGHUP reads the rules anew, and looks at the token file.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        self._write_status()
        watch = LoopWatch(self._log, self._telemetry.loop_beat, self._inference.slices.describe)
        watch.start()
        front = Front(
            self._inference,
            self._requests,
            arrival_s=self._settings.arrival_s,
            limits=self._front_limits(),
        )
        runner = make_runner(self._application(front))
        await runner.setup()
        assert runner.server is not None  # noqa: S101 - it was just made
        front.make_pages = runner.server
        self._restore()
        try:
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(
                        self._pool.run(
                            self._settings.link_host, self._settings.link_port, self._listening
                        )
                    ),
                    tasks.create_task(self._mesh.run()),
                    tasks.create_task(self._tick()),
                    tasks.create_task(self._announce()),
                    tasks.create_task(self._watch()),
                    tasks.create_task(self._beat()),
                    tasks.create_task(self._keep_fleet()),
                ]
                await self._has_links.wait()
                await self._serve_http(front)
                self._state = "serving"
                self._write_status()
                self._log.info("router_ready", http=self._http_address)
                await stop.wait()
                self._state = "draining"
                self._write_status()
                self._log.info("router_draining", patience_s=self._settings.drain_s)
                await self._drain(front)
                for task in background:
                    task.cancel()
        finally:
            watch.stop()
            front.close()
            await runner.cleanup()
            self._owners.close()
            self._state = "stopped"
            self._write_status()
            self._log.info("router_stopped")

    async def _drain(self, front: Front) -> None:
        """Accept nothing new, and answer what is under way, requests still being sent included."""
        front.stop_accepting()
        self._requests.is_closing = True
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await front.wait_left()
                while self._requests.count:  # others may have come since the last was answered
                    await self._requests.wait_none()
        except TimeoutError:
            self._log.warning("drain_cut_short", open_requests=self._requests.count)
        front.close()  # before the links end: from now on nobody can ask for anything
        self._routing.close()

    def _front_limits(self) -> FrontLimits:
        settings = self._settings
        return limits_of(
            settings.limits.max_message_bytes,
            body_bytes=settings.body_budget_bytes,
            connections=settings.max_connections,
            connections_per_site=settings.max_connections_per_address,
            trusted=networks_of(settings.trusted_proxies),
        )

    def _application(self, front: Front) -> web.Application:
        settings, fleet = self._settings, self._fleet
        front.watch(self._telemetry)
        self._telemetry.watch(
            "capamesh_nodes", "Nodes in this router's view", lambda: len(fleet.adverts)
        )
        self._telemetry.watch(
            "capamesh_answer_bytes",
            "Of large answers that are coming from nodes",
            lambda: self._answers.granted_bytes,
        )
        self._telemetry.watch(
            "capamesh_answers_waiting",
            "Large answers that wait at their nodes until there is room",
            lambda: self._answers.waiting,
        )
        self._telemetry.watch(
            "capamesh_members_refused",
            "Identities without a place: as many members of their invite as it admits are here already",
            lambda: sum(one.refused for one in self._hearing.quotas.over()),
        )
        self._telemetry.watch(
            "capamesh_clock_behind_seconds",
            "How far the clocks of most other members are ahead of this router's; negative: it is ahead of them",
            lambda: clock_fields(self._skew())["peers_ahead_s"],
        )
        self._telemetry.watch(
            "capamesh_dials_waiting",
            "Addresses of nodes that wait for their turn to be dialled",
            lambda: self._pool.dials_waiting,
        )
        self._telemetry.watch(
            "capamesh_membership_expires_seconds",
            "Until this router's membership ends; negative once it has",
            lambda: self._upkeep.left_s(dt.datetime.now(dt.UTC)),
        )
        self._telemetry.watch(
            "capamesh_requests_in_flight",
            "Requests that nodes have not answered yet",
            lambda: sum(endpoint.rif for endpoint in fleet.endpoints()),
        )
        self._telemetry.watch(
            "capamesh_open_requests",
            "HTTP requests between their head and their answer, the one that asks this included",
            lambda: self._requests.count,
        )
        self._telemetry.watch(
            "capamesh_contested_models",
            "Model versions of which nodes host another file than the one that is served",
            self._owners.owners.contested,
        )
        self._telemetry.watch(
            "capamesh_models_on_trial",
            "Hosted model versions that are not trusted yet",
            self._owners.owners.on_trial,
        )
        inference = InferenceApi(
            self._inference,
            arrival_s=settings.arrival_s,
            is_ready=lambda: any(endpoint.is_usable for endpoint in fleet.endpoints()),
        )
        pages = FleetApi(
            fleet,
            self._pool,
            self._telemetry,
            revoke=self._revoke,
            arrival_s=settings.arrival_s,
            overrides=self._overrides,
        )
        routing = RoutingApi(
            fleet,
            self._routing,
            self._overrides,
            self._operator_key,
            self._log,
            arrival_s=settings.arrival_s,
            timeout_s=settings.timeout_s,
        )
        return make_application(
            inference,
            pages,
            routing,
            limits=settings.limits,
            log=self._log,
            requests=self._requests,
            budget=front.budget,
        )

    async def _serve_http(self, front: Front) -> None:
        settings = self._settings
        try:
            replica, port = await front.listen(settings.http_host, settings.http_port)
        except OSError as exc:
            raise ConfigError(
                f"cannot listen for HTTP on {settings.http_host}:{settings.http_port}: "
                f"{listen_reason(exc)}; give another --http"
            ) from exc
        self._http_address = (
            f"http://[{replica}]:{port}" if ":" in replica else f"http://{replica}:{port}"
        )
        if inside_of(replica) is not Inside.LOOPBACK:
            self._log.warning(
                "http_open_to_strangers", http=self._http_address, **OPEN_TO_STRANGERS
            )

    # routing

    def _hung_up(self) -> None:
        self._supervisor.do("membership", self._look_after_membership)
        if self._settings.rules_file is not None:
            self._reload(self._settings.rules_file)

    def _reload(self, file: Path) -> None:
        """Read the rules anew and route by them; if anything is wrong with them, by those of before."""
        try:
            rules = _rules_in(file)
        except ConfigError as error:
            self._log.error("rules_refused", error=error.message)
            return
        self._rules = rules  # `_terms_of` goes by them
        self._owners.take_rules()
        self._routing.take_rules(rules)
        self._log.info("rules_reloaded", file=str(file), models=len(rules.models))

    def _terms_of(self, model: ModelName) -> Terms:
        rules = self._rules.of(model)
        constraints = Constraints(
            rules.max_price,
            frozenset(rules.regions) or None,
            frozenset(rules.device_kinds) or None,
        )
        return Terms(
            rules.policy or self._settings.policy,
            ANYWHERE if constraints == ANYWHERE else constraints,
            rules.is_hedged,
            rules.is_retried,
        )

    def _linked(self, endpoint: Endpoint) -> None:
        """Learn of a node that can be reached now how busy it is, and how far away."""
        now_s = time.monotonic()
        self._balancer.linked(endpoint, now_s)
        self._routing.reached(endpoint.peer)
        self._prober.ask(self._fleet.replicas_at(endpoint))

    def _unlinked(self, endpoint: Endpoint) -> None:
        self._balancer.unlinked(endpoint, time.monotonic())

    async def _watch(self) -> None:
        """Look after those that are not well, and judge all of them now and then."""
        judged_s = time.monotonic()
        try:
            while True:
                await asyncio.sleep(REPROBE_EVERY_S)
                self._supervisor.do("reprobe", self._reprobe)
                if time.monotonic() - judged_s >= JUDGE_EVERY_S:
                    judged_s = time.monotonic()
                    self._supervisor.do("judge", self._judge)
        finally:
            self._prober.close()

    def _reprobe(self) -> None:
        due = self._balancer.reprobes(time.monotonic())
        if due:
            self._prober.ask(due)

    def _judge(self) -> None:
        self._routing.tick()
        for verdict in self._balancer.tick(time.monotonic()):
            self._log.info(
                f"node_{type(verdict).__name__.lower()}",
                peer=verdict.peer,
                address=verdict.address,
                model=verdict.model,
                version=verdict.version,
                reason=verdict.reason,
            )

    # the mesh

    def _mesh_ready(self, peer: PeerId, addrs: tuple[str, ...]) -> None:
        self._log.info("mesh_ready", peer=peer, addrs=addrs)
        self._clock.resume(time.monotonic())
        self._write_status()
        self._is_news.set()

    def _mesh_down(self, reason: str) -> None:
        self._log.warning("mesh_down", reason=reason)
        self._clock.pause(time.monotonic())
        self._write_status()

    def _now(self) -> Now:
        steady_s = time.monotonic()
        return Now(time.time_ns() // 1_000_000, steady_s, self._clock.now_s(steady_s))

    def _membership_time(self) -> dt.datetime:
        """Return the time of day by which memberships end, as far as it is known."""
        now = self._now()
        now_ms = self._hearing.clock.membership_ms(now.wall_ms, now.steady_s)
        return dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)

    def _heard(self, topic: str, raw: bytes, sender: PeerId) -> None:
        del topic, sender
        try:
            peer, changes = self._hearing.heard(raw, self._now())
        except AdvertRejected as error:
            if error.reason == RejectReason.QUOTA:  # of which `_notices` tell once
                return
            self._log.warning("advert_rejected", reason=error.reason, error=error.message)
            return
        self._apply(changes)
        if peer in self._hearing.members:
            self._last_fleet.heard(peer, raw, is_news=bool(changes))
        for endpoint in self._fleet.endpoints_of(peer):
            self._pool.hurry(endpoint, is_changed=bool(changes))

    # the last fleet

    def _restore(self) -> None:
        """Take over the fleet that was known when this router ended, as far as its file is there and believable."""
        file = self._settings.data_folder / LAST_FLEET_FILE
        try:
            envelopes = decode(file.read_bytes(), time.time_ns() // 1_000_000)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            self._log.warning("last_fleet_not_used", file=str(file), error=str(error))
            return
        for raw in envelopes:
            try:
                peer, changes = self._hearing.restored(raw, self._now())
            except AdvertRejected as error:
                self._log.info("last_fleet_member_refused", reason=error.reason)
                continue
            self._apply(changes)
            if peer in self._hearing.members:
                self._last_fleet.heard(peer, raw, is_news=False)
        self._last_fleet.is_changed = False
        self._log.info("last_fleet_restored", nodes=len(self._last_fleet))

    async def _keep_fleet(self) -> None:
        """Write the fleet down soon after it has changed, now and then, and once more at the end."""
        credit = FLEET_BURST
        clock = asyncio.get_running_loop().time
        counted_s = written_s = clock()
        try:
            while True:
                await asyncio.sleep(KEEP_FLEET_S)
                now_s = clock()
                credit = min(FLEET_BURST, credit + (now_s - counted_s) / FLEET_EVERY_S)
                counted_s = now_s
                is_due = now_s - written_s >= RENEW_FLEET_S
                if is_due or (self._last_fleet.is_changed and credit >= 1.0):
                    credit -= 1.0
                    written_s = now_s
                    data = self._last_fleet.encode(time.time_ns() // 1_000_000)
                    await asyncio.to_thread(self._write_fleet, data)
        finally:
            self._write_fleet(self._last_fleet.encode(time.time_ns() // 1_000_000))

    def _write_fleet(self, data: bytes) -> None:
        try:
            replace_public(self._settings.data_folder / LAST_FLEET_FILE, data)
        except ConfigError as error:  # a full disk: it will only start a little slower
            if not self._is_fleet_unkept:
                self._log.warning("last_fleet_not_kept", error=error.message)
            self._is_fleet_unkept = True
        else:
            self._is_fleet_unkept = False

    def _apply(self, changes: list[Change]) -> None:
        self._owners.take(changes)
        for change in changes:
            match change:
                case Joined(advert):
                    self._overrides.apply(self._fleet, advert.peer, time.monotonic())
                    names = [f"{model.name}/{model.version}" for model in advert.models]
                    self._log.info("node_joined", peer=advert.peer, models=names)
                case Left(peer, reason):
                    self._last_fleet.left(peer)
                    self._log.info("node_left", peer=peer, reason=reason.value)
                case Changed(advert):
                    self._overrides.apply(self._fleet, advert.peer, time.monotonic())
                    self._log.info("node_changed", peer=advert.peer, is_draining=advert.is_draining)
                case _:
                    pass
        self._routing.heard(changes)

    def _visited(self, endpoint: Endpoint) -> None:
        self._fleet.visit(endpoint)
        self._overrides.apply(self._fleet, endpoint.peer, time.monotonic())

    def _visitor_left(self, endpoint: Endpoint) -> None:
        self._fleet.leave(endpoint)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._supervisor.do("members", self._miss)
            self._supervisor.do("status", self._tell_change)

    async def _beat(self) -> None:
        """Look after this router's own membership, and let its status show that it lives."""
        while True:
            self._supervisor.do("membership", self._look_after_membership)
            await asyncio.sleep(HEARTBEAT_S)

    def _look_after_membership(self) -> None:
        self._upkeep.beat(dt.datetime.now(dt.UTC))
        self._close_or_open()
        self._write_status()

    def _close_or_open(self) -> None:
        """Refuse requests while no node would take them, because this router is no member any more."""
        ended = self._upkeep.ended
        # An expired one may owe that to its own clock: nodes that take its requests know better.
        if ended is None or (ended.state == "expired" and self._has_usable()):
            self._shut_out = ""
        else:
            self._shut_out = (
                f"this router's membership has ended ({ended.reason}); ask another router, or its operator to give "
                "this one a new token"
            )

    def _renewed(self, membership: Membership) -> None:
        """Show a renewed membership on links, in gossip and to the mesh; raise `ConfigError` when that cannot be."""
        self._pool.renew(membership)
        if membership.publishers() != self._membership.publishers():
            self._owners.take_publishers(membership.publishers())
        self._membership = membership
        self._mesh.renew(membership, self._home.bootstrap())
        self._is_news.set()

    def _tell_change(self) -> None:
        self._close_or_open()
        if self._standing()[0] != self._reported_state:
            self._write_status()

    def _has_usable(self) -> bool:
        return any(endpoint.is_usable for endpoint in self._fleet.endpoints())

    def _standing(self) -> tuple[str, str]:
        """Return the state that a status shows, and the reason for people; see `member_status`."""
        ended = self._upkeep.ended
        if self._state != "serving":
            return self._state, ""
        if ended is not None:
            return ended.state, ended.reason
        if self._has_usable():
            return "ready", ""
        if not self._fleet.adverts:
            return "waiting", "no node has been heard of"
        return (
            "waiting",
            f"none of the {len(self._fleet.adverts)} nodes that are known can be reached",
        )

    def _miss(self) -> None:
        """Notice who has been silent for too long."""
        self._apply(self._hearing.tick(self._now(), self._fleet.is_linked))
        for notice in self._notices.about(self._hearing.quotas.over(), self._skew()):
            (self._log.info if notice.is_good else self._log.warning)(notice.event, **notice.fields)
            self._write_status()
        if self._owners.tick():
            self._routing.wake()

    def _skew(self) -> Skew | None:
        return self._hearing.clock.skew(time.time_ns() // 1_000_000, time.monotonic())

    def _listening(self, port: int) -> None:
        replica = self._link_host
        self._link_address = f"[{replica}]:{port}" if ":" in replica else f"{replica}:{port}"
        self._has_links.set()
        self._is_news.set()

    async def _announce(self) -> None:
        while True:
            self._is_news.clear()
            self._supervisor.do("announce", self._say)
            try:
                async with asyncio.timeout(ADVERT_EVERY_S):
                    await self._is_news.wait()
            except TimeoutError:
                continue

    def _say(self) -> None:
        try:
            self._publish()
        except LocalError as error:
            self._log.error("advert_refused", error=error.message)

    def _publish(self) -> None:
        if not self._link_address:
            return
        time_ns = time.time_ns() + self._correction_ns()
        self._sequences = self._home.current(self._sequences, time_ns)
        sequence = self._sequences.next()
        advert = RouterAdvert(
            peer=self._membership.identity.peer_id,
            sequence=sequence,
            link_addresses=(self._link_address,),
            region=self._settings.region,
            agent_version=package_version("capamesh"),
            nodes=len(self._hearing.members),
        )
        body = router_to_body(advert)
        self._mesh.publish(
            self._demand,
            seal(KIND_ROUTER, body, self._membership, sequence, time_ns // 1_000_000),
        )

    def _correction_ns(self) -> int:
        """Return what to add to this machine's time so that others take what it says for new."""
        now = self._now()
        return self._hearing.clock.correction_ms(now.wall_ms, now.steady_s) * 1_000_000

    # revocation

    def _revoke(self, encoded: bytes) -> tuple[RevocationList, bool]:
        """Take over a list that an operator posted, and return the newest, and whether it is on the disk.

        Raises `InvalidRequest` when it is not the owner's.
        """
        try:
            revocations = RevocationList.decode(encoded, self._membership.ca_der)
            if self._take(revocations):
                self._mesh.update_revocations(encoded)
        except (ProtocolViolation, ConfigError) as exc:
            raise InvalidRequest(exc.message) from exc
        return self._trust.revocations, self._home.is_kept(REVOCATIONS_FILE)

    def _take_revocations(self, encoded: bytes) -> None:
        self._take(RevocationList.decode(encoded, self._membership.ca_der))

    def _take(self, revocations: RevocationList) -> bool:
        if not self._trust.update(revocations):
            return False
        is_kept = self._home.keep_revocations(revocations)
        self._pool.recheck_members()
        for peer in list(self._fleet.adverts):
            invite = self._hearing.quotas.invite_of(peer)
            if peer in revocations.peers or invite in revocations.invites:
                self._apply(self._hearing.expel(peer, self._now()))
        self._log.info("revocations_updated", version=revocations.version, is_kept=is_kept)
        if self._upkeep.look(dt.datetime.now(dt.UTC)):
            self._close_or_open()
        self._write_status()
        return True

    def _write_status(self) -> None:
        state, reason = self._standing()
        self._reported_state = state
        self._home.write_status(
            {
                "role": "router",
                "state": state,
                "reason": reason,
                **self._upkeep.fields(dt.datetime.now(dt.UTC)),
                "nodes": len(self._fleet.adverts),
                "pid": os.getpid(),
                "peer_id": self._membership.identity.peer_id,
                "network_id": self._membership.network_id,
                "sidecar_pid": self._mesh.pid,
                "mesh_addresses": [
                    reachable_multiaddr(addr, self._mesh_host) for addr in self._mesh.addrs
                ],
                "link_address": self._link_address,
                "http_address": self._http_address,
                "clock": clock_fields(self._skew()),
                "invites_over_quota": [asdict(one) for one in self._hearing.quotas.over()],
            }
        )


def _rules_in(file: Path | None) -> RoutingRules:
    """Return the rules in `file`; raise `ConfigError` naming what is wrong with it."""
    if file is None:
        return RoutingRules()
    try:
        text = file.read_text("utf-8")
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the rules in {file} cannot be read: {exc}") from exc
    return read_rules(text, str(file), POLICIES)
