"""The router's own pages: the fleet, metrics, revocation, drains. IO: aiohttp."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.adverts import NodeAdvert, shown_version
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import MAX_LIST_BYTES, MAX_ORDER_BYTES, Member, RevocationList
from capamesh.router.access.keys import Verb
from capamesh.router.fleet.lost_nodes import LostNode, LostNodes
from capamesh.router.fleet.overrides import Overrides
from capamesh.router.http.admin_routing import overrides_body
from capamesh.router.http.bodies import read_body
from capamesh.router.http.cached_page import CachedPage
from capamesh.router.http.elsewhere import METRICS, NOBODY_ELSE, NODES, Elsewhere
from capamesh.router.http.replies import OCTETS
from capamesh.router.http.route import Content, Pages, Route, json_of
from capamesh.router.http.schemas import fleet as schemas
from capamesh.router.telemetry import CONTENT_TYPE, Telemetry

if TYPE_CHECKING:
    from capamesh.router.fleet.drains import FleetDrains
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.links import LinkPool
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.fleet.view import FleetView


class FleetApi(Pages):
    """The `/v1` routes and `/metrics`."""

    def __init__(
        self,
        fleet: FleetView,
        pool: LinkPool,
        telemetry: Telemetry,
        *,
        revoke: Callable[[bytes], tuple[RevocationList, bool]],
        drains: FleetDrains,
        arrival_s: float,
        clock: Callable[[], float],
        work_clock: Callable[[], float] = time.thread_time,
        overrides: Overrides | None = None,
        member_of: Callable[[PeerId], Member | None] = lambda _: None,
        elsewhere: Elsewhere = NOBODY_ELSE,
        lost: LostNodes | None = None,
        routers: Callable[[], list[schemas.Router]] = list,
    ) -> None:
        """A body may take `arrival_s` to arrive. `clock` is that of the nodes' healths, in seconds; `work_clock` tells what pages take. `overrides` are shown with their nodes; None: nobody is ever held.

        `member_of` returns the membership by which a node is in the fleet, None where it is not known. `elsewhere` has what
        other processes of the router add. `lost` are the nodes that vanished, `routers` returns the routers of the network.
        """
        self._elsewhere = elsewhere
        self._lost = LostNodes() if lost is None else lost
        self._routers = routers
        self._member_of = member_of
        self._fleet = fleet
        self._pool = pool
        self._revoke = revoke
        self._drains = drains
        self._arrival_s = arrival_s
        self._clock = clock
        self._overrides = Overrides() if overrides is None else overrides
        self._nodes = CachedPage(self._pieces, work_clock=work_clock)
        self._metrics = CachedPage(telemetry.pieces, work_clock=work_clock)

    @override
    def routes(self) -> list[Route]:
        read, admin = (Verb.READ,), (Verb.ADMIN,)
        octets = (Content(bytes, OCTETS),)
        return [
            Route("GET", "/v1/nodes", self.nodes, read, json_of(schemas.Nodes)),
            Route("GET", "/v1/nodes/{peer}", self.node, read, json_of(schemas.Node)),
            Route("GET", "/v1/routers", self.routers, read, json_of(schemas.Routers)),
            Route(
                "POST",
                "/v1/revocations",
                self.revocations,
                admin,
                json_of(schemas.Taken),
                body=octets,
                errors=(400,),
            ),
            Route("GET", "/v1/drains", self.drains, read, octets),
            Route(
                "POST",
                "/v1/drains",
                self.drain,
                admin,
                json_of(schemas.Taken),
                body=octets,
                errors=(400,),
            ),
            Route("GET", "/metrics", self.metrics, (Verb.METRICS,), (Content(str, "text/plain"),)),
        ]

    async def nodes(self, _: web.Request) -> web.Response:
        """Return every node of the fleet as this router sees it, and those that vanished in the last day."""
        body = await self._elsewhere.whole(NODES, await self._nodes.body())
        return web.Response(body=body, content_type="application/json")

    async def routers(self, _: web.Request) -> web.Response:
        """Return the routers of the network of which this one hears, itself first."""
        return web.json_response({"routers": self._routers()})

    async def node(self, request: web.Request) -> web.Response:
        """Return one node of the fleet, by its whole peer id, as this router sees it."""
        peer = request.match_info["peer"]
        own = self.part_of_node(peer)
        if own is None:
            raise web.HTTPNotFound
        body = await self._elsewhere.whole(f"{NODES}/{peer}", own)
        return web.Response(body=body, content_type="application/json")

    def part_of_node(self, peer: str) -> bytes | None:
        """Return this process's part of the page of a node; None: it is not in the fleet."""
        advert = self._fleet.adverts.get(PeerId(peer))
        return None if advert is None else json.dumps(self._node(advert)).encode()

    async def part(self, page: str) -> bytes:
        """Return this process's part of the page of all nodes, of one, or of the metrics; empty for what it does not know."""
        name, _, peer = page.partition("/")
        if name == METRICS:
            return await self._metrics.body()
        if name == NODES:
            return (self.part_of_node(peer) or b"") if peer else await self._nodes.body()
        return b""

    async def metrics(self, _: web.Request) -> web.Response:
        """Return metrics for Prometheus."""
        body = await self._elsewhere.whole(METRICS, await self._metrics.body())
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def revocations(self, request: web.Request) -> web.Response:
        """Take over a revocation list signed by the network's owner, and spread it."""
        encoded = await read_body(request, arrival_s=self._arrival_s, most_bytes=MAX_LIST_BYTES)
        revocations, is_kept = self._revoke(encoded)
        return web.json_response({"version": revocations.version, "is_kept": is_kept})

    async def drains(self, _: web.Request) -> web.Response:
        """Return the newest drain order as its owner signed it; nothing where there never was one."""
        return web.Response(body=self._drains.encoded, content_type="application/octet-stream")

    async def drain(self, request: web.Request) -> web.Response:
        """Take over a drain order signed by the network's owner, and spread it."""
        encoded = await read_body(request, arrival_s=self._arrival_s, most_bytes=MAX_ORDER_BYTES)
        order, is_kept = self._drains.post(encoded)
        return web.json_response({"version": order.version, "is_kept": is_kept})

    def _pieces(self) -> Iterator[bytes]:
        yield b'{"nodes": ['
        mark = b""
        for advert in list(self._fleet.adverts.values()):
            yield mark + json.dumps(self._node(advert)).encode()
            mark = b", "
        yield b'], "lost": ['
        mark = b""
        for lost in self._lost.nodes():
            yield mark + json.dumps(lost_body(lost)).encode()
            mark = b", "
        yield b"]}"

    def _node(self, advert: NodeAdvert) -> schemas.Node:
        member = self._member_of(advert.peer)
        drained_until = self._drains.until(advert.peer)
        return {
            "peer_id": advert.peer,
            "name": advert.name,
            "invite": "" if member is None else member.invite_serial,
            "member_since": None if member is None else member.starts_at.isoformat(),
            "member_until": None if member is None else member.expires_at.isoformat(),
            "region": advert.region,
            "agent_version": advert.agent_version,
            "price_per_million": advert.price_per_million,
            "is_draining": advert.is_draining,
            "drained_until": None if drained_until is None else drained_until.isoformat(),
            "devices": [
                {
                    "kind": device.kind,
                    "name": device.name,
                    "provider": device.provider,
                    "memory_total_bytes": device.memory_total_bytes,
                    "memory_free_bytes": device.memory_free_bytes,
                    "runtime": device.runtime,
                    "driver": device.driver,
                }
                for device in advert.devices
            ],
            "models": [
                {
                    "name": offer.name,
                    "version": shown_version(offer.version),
                    "state": offer.state.value,
                    "reason": offer.reason,
                    "digest": offer.digest,
                    "is_served": offer.is_ready and self._fleet.is_served(offer),
                    "provider": offer.provider,
                    "precision": offer.precision,
                    "best_rows": offer.best_rows,
                    "row_us": offer.row_us,
                    "max_rows": offer.max_rows,
                    "memory_bytes": offer.memory_bytes,
                }
                for offer in advert.models
            ],
            "overrides": overrides_body(self._overrides, advert.peer),
            "addresses_refused": self._fleet.refused_addresses(advert.peer),
            "links": [self._link(node) for node in self._fleet.endpoints_of(advert.peer)],
        }

    def _link(self, endpoint: Endpoint) -> schemas.Link:
        now_s = self._clock()
        replicas = self._fleet.replicas_at(endpoint)
        return {
            "address": endpoint.address,
            "is_up": endpoint.link is not None,
            "is_usable": endpoint.is_usable,
            "is_suspected": endpoint.is_suspected,
            "last_error": self._pool.last_error(endpoint),
            "state": str(endpoint.health.state(now_s)),
            "reason": endpoint.health.reason,
            "rtt_us": round(endpoint.network.rtt_s * 1e6),
            "requests_in_flight": endpoint.rif,
            "answered": endpoint.answered,
            "failed": endpoint.failed,
            "models": [
                {
                    "name": replica.offer.name,
                    "version": replica.offer.version,
                    "state": str(replica.health.state(now_s)),
                    "reason": replica.health.reason,
                    "share": round(_share(replica, now_s), 3),
                    "requests_in_flight": replica.rif,
                    "node_in_flight": replica.load.in_flight,
                    "node_limit": replica.load.limit,
                    "queue_us": replica.load.queue_us,
                    "run_us": replica.load.run_us,
                    "bulk_in_flight": replica.load.bulk_in_flight,
                    "online_queue_us": replica.load.online_queue_us,
                    "limit_rows": replica.load.limit_rows,
                }
                for replica in replicas
            ],
        }


def lost_body(node: LostNode) -> schemas.LostNode:
    """Return a lost node as JSON."""
    return {
        "peer_id": node.peer,
        "name": node.name,
        "invite": node.invite,
        "lost_at": node.lost_at.isoformat(timespec="seconds"),
        "models": [
            {"name": each.name, "version": each.version, "nodes_before": each.nodes_before}
            for each in node.models
        ],
    }


def _share(replica: Replica, now_s: float) -> float:
    """Return which part of its requests a replica gets, from 0 to 1, by its own health and its node's."""
    healths = (replica.health, replica.endpoint.health)
    if not all(health.may_send(now_s) for health in healths):
        return 0.0
    return min(health.share(now_s) for health in healths)
