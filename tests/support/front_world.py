"""A front, a router's core and real links to nodes, on one event loop and without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from fleet_fakes import Fleet, NullLog, answer_of, fp32, offer
from link_ends import Ends, Transport

from capamesh.protocol.adverts import ModelOffer
from capamesh.protocol.links.calls import LoadReport, encode_load
from capamesh.protocol.links.events import ProbeReceived, RequestReceived
from capamesh.protocol.tensors import DEFAULT_LIMITS, Limits
from capamesh.router.access.keys import Key
from capamesh.router.access.origin_check import ANY_HOST, OriginCheck
from capamesh.router.access.quotas import Quotas
from capamesh.router.grpc.http2 import Http2Session
from capamesh.router.grpc.server import GrpcServer
from capamesh.router.http.connection import FrontConnection
from capamesh.router.http.exchange import Inference
from capamesh.router.http.open_requests import OpenRequests
from capamesh.router.http.server import Front
from capamesh.router.requests.metered import Meter
from capamesh.router.requests.model_descriptions import ModelDescriptions
from capamesh.router.requests.repository import RepositoryControl
from capamesh.router.telemetry.ended import EndedRequests

ANSWER = answer_of("1", fp32("y", [1, 2]))


class World:
    def __init__(
        self,
        ended: EndedRequests | None = None,
        keys: Sequence[Key] = (),
        make_session: Callable[[], Http2Session] | None = None,
        *,
        models: Sequence[ModelOffer] = (offer(),),
        limits: Limits = DEFAULT_LIMITS,
        seed: int = 0,
    ) -> None:
        """`ended` is told of requests; with `keys` the router asks for one, and holds it to its limits.

        `make_session` makes what speaks HTTP/2; None: the library that is there.
        """
        self.fleet = fleet = Fleet(policy="prequal", limits=limits, seed=seed)
        self.nodes: list[Ends] = []
        for peer in "ABC":
            fleet.node(peer, models=models)
            ends = Ends()
            fleet.endpoints[-1].link = ends.link
            self.nodes.append(ends)
        self.log = NullLog()
        inference = Inference(
            fleet.view,
            fleet.routing,
            fleet.telemetry,
            30.0,
            limits,
            self.log,  # type: ignore[arg-type]
            ended=ended,
            meter=Meter(Quotas(), fleet.routing.pipeline, fleet.view, clock=fleet.clock),
            repeated=fleet.core.repeated,
        )
        if keys:
            inference.ring.take(keys, 0.0, 0.0)
        self.front = front = Front(
            inference, OpenRequests(), arrival_s=30.0, origin_check=OriginCheck((ANY_HOST,))
        )
        descriptions = ModelDescriptions(inference, is_ready=lambda: True, wall_clock=lambda: 0.0)
        repository = RepositoryControl(fleet.view, inference.log)
        self.grpc = GrpcServer(inference, descriptions, front, repository, make_session)
        front.guests = self.grpc
        self.connect()

    def connect(self) -> None:
        self.client = Transport()
        self.connection = FrontConnection(self.front)
        self.connection.connection_made(cast("asyncio.Transport", self.client))

    async def answer(self) -> None:
        """Let the nodes answer all that they were asked."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the links have written
        for ends in self.nodes:
            if not ends.transport.sent:
                continue
            for event in ends.read():
                if isinstance(event, RequestReceived):
                    ends.peer.respond(event.stream, ANSWER.meta, [ANSWER.body])
                elif isinstance(event, ProbeReceived):
                    ends.peer.send_load(event.stream, encode_load(LoadReport(1, 0, 8, 9, 10, 0)))
            ends.deliver()
