"""A router's HTTP application with a real core behind it, and nodes that answer as a test says."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from fleet_fakes import FakeLink, Fleet, NullLog, Reply, keys_of, offer

from capamesh.protocol.adverts import ModelOffer
from capamesh.protocol.errors import InvalidRequest, Overloaded
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import Member
from capamesh.protocol.tensors import Limits
from capamesh.router.access.audience import Audience
from capamesh.router.access.operator_key import OperatorKey
from capamesh.router.access.origin_check import ANY_HOST, OriginCheck
from capamesh.router.access.quotas import Quotas
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.overrides import Overrides
from capamesh.router.fleet.view import FleetView
from capamesh.router.grpc.http2 import Http2Session
from capamesh.router.grpc.server import GrpcServer
from capamesh.router.http.admin_fleet import FleetApi
from capamesh.router.http.admin_routing import RoutingApi
from capamesh.router.http.aiohttp_handlers import handlers_of, make_runner
from capamesh.router.http.application import make_application
from capamesh.router.http.documents import DocumentsApi
from capamesh.router.http.embeddings import EmbeddingsApi
from capamesh.router.http.exchange import Inference
from capamesh.router.http.generate import GenerateApi
from capamesh.router.http.generation_way import Generations
from capamesh.router.http.generations import GenerationsApi
from capamesh.router.http.limits import FrontLimits
from capamesh.router.http.oip import InferenceApi
from capamesh.router.http.ollama import OllamaApi
from capamesh.router.http.open_requests import OpenRequests
from capamesh.router.http.openai_models import ModelsApi
from capamesh.router.http.page import PageApi
from capamesh.router.http.repository import RepositoryApi
from capamesh.router.http.route import TABLE, Route
from capamesh.router.http.server import Front
from capamesh.router.http.tls_files import ServerTls
from capamesh.router.http.unsupported import UnsupportedApi
from capamesh.router.jobs.service import JobService
from capamesh.router.page.feed import Feed
from capamesh.router.page.history import BIN_S, History, Totals
from capamesh.router.page.history_answers import HistoryAnswers
from capamesh.router.page.overview import OverviewMaker
from capamesh.router.page.static_files import StaticFiles
from capamesh.router.process.job_parts import JobParts
from capamesh.router.requests.metered import Meter
from capamesh.router.requests.model_descriptions import ModelDescriptions
from capamesh.router.requests.repository import RepositoryControl
from capamesh.router.settings import RouterSettings
from capamesh.router.telemetry import HTTP, Telemetry
from capamesh.router.telemetry.ended import EndedRequests
from capamesh.router.telemetry.metrics import LATENCY
from capamesh.router.telemetry.request_lines import AccessLog, SlowLog
from capamesh.router.ws.server import StreamServer

INFER = "/v2/models/m/infer"


class Order:
    """The newest order that `FakeDrains` holds."""

    version = 3


class FakeDrains:
    """A router's drains that take any order but junk."""

    encoded = b"signed order"

    def __init__(self) -> None:
        self.posted: list[bytes] = []
        self.held: dict[PeerId, dt.datetime] = {}

    def until(self, peer: PeerId) -> dt.datetime | None:
        return self.held.get(peer)

    def post(self, encoded: bytes) -> tuple[Order, bool]:
        if encoded == b"junk":
            raise InvalidRequest("not signed by the owner")
        self.posted.append(encoded)
        return Order(), False


class NoPool:
    """A link pool without links; `errors` is why they are down, by address."""

    def __init__(self) -> None:
        self.errors: dict[str, str] = {}

    def last_error(self, endpoint: Endpoint) -> str:
        return self.errors.get(endpoint.address, "")


@dataclass
class Client:
    """aiohttp's client at the front's address."""

    session: aiohttp.ClientSession
    host: str
    port: int

    async def get(self, path: str, **options: Any) -> aiohttp.ClientResponse:
        return await self.session.get(path, **options)

    async def post(self, path: str, **options: Any) -> aiohttp.ClientResponse:
        return await self.session.post(path, **options)

    async def request(self, method: str, path: str, **options: Any) -> aiohttp.ClientResponse:
        return await self.session.request(method, path, **options)


@dataclass
class Times:
    """The clock of the history, and what it is told of requests in flight."""

    now_s: float = 0.0
    in_flight: int = 0


@dataclass
class Http:
    """The front and what stands behind it."""

    client: Client
    fleet: Fleet
    pool: NoPool
    log: NullLog
    front: Front
    revoked: list[bytes]
    members: dict[PeerId, Member]
    history: History
    times: Times
    ended: EndedRequests
    feed: Feed
    drains: FakeDrains
    quotas: Quotas
    routes: tuple[Route, ...]
    jobs: JobParts

    @property
    def job_service(self) -> JobService:
        assert self.jobs.service is not None
        return self.jobs.service

    @property
    def view(self) -> FleetView:
        return self.fleet.view

    @property
    def telemetry(self) -> Telemetry:
        return self.fleet.telemetry

    @property
    def endpoints(self) -> list[Endpoint]:
        return self.fleet.endpoints

    def node(
        self, peer: str, *script: Reply, models: tuple[ModelOffer, ...] = (offer(),)
    ) -> FakeLink:
        """Add a node with one address whose link follows `script`."""
        return self.fleet.node(peer, *script, models=models)

    def fill_history(self, bins: int, noise: Callable[[], float]) -> None:
        """Let time pass in which each model had requests, as many as `noise` about 1 says."""
        models = self.view.models()
        for at in range(bins):
            for number, model in enumerate(models):
                for _ in range(max(0, round(noise() * (20 + 10 * number + (at % 90) / 6)))):
                    seconds = 0.004 * noise() * (1 + number % 4)
                    self.telemetry.totals.answered(model, HTTP, seconds)
                if at % 60 > 55:
                    error = Overloaded("all nodes are full")
                    self.telemetry.refused(model, error, is_known=True)
            self.times.in_flight = round(12 * noise())
            self.times.now_s += BIN_S
            self.history.sample()

    async def infer(
        self,
        body: object,
        *,
        path: str = INFER,
        header_length: int | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """Post a request: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = dict(headers or {})
        if header_length is not None:
            sent["Inference-Header-Content-Length"] = str(header_length)
        return await self.client.post(path, data=data, headers=sent)

    async def settled(self) -> None:
        """Let the server finish what it has begun."""
        for _ in range(50):
            await asyncio.sleep(0)


def page_of(
    fleet: Fleet,
    pool: NoPool,
    log: NullLog,
    requests: OpenRequests,
    history: History,
    boot: str,
) -> tuple[PageApi, Feed]:
    """Return the page of a router with this core, and what it follows."""
    overview = OverviewMaker(
        fleet.view,
        last_error=pool.last_error,
        clock=fleet.clock,
        router=lambda: {"state": "ready", "reason": ""},
        traffic=history.traffic,
        member_of=lambda _: None,
        drained_until=lambda _: None,
    )
    feed = Feed(overview.steps, boot=boot, log=log)  # type: ignore[arg-type]
    page = PageApi(
        StaticFiles(),
        feed,
        HistoryAnswers(history),
        is_closing=lambda: requests.is_closing,
        clock=fleet.clock,
    )
    return page, feed


@asynccontextmanager
async def serving(
    *,
    limits: Limits | None = None,
    timeout_s: float = 30.0,
    answer_timeout_s: float | None = None,
    arrival_s: float = 30.0,
    front_limits: FrontLimits | None = None,
    port: int = 0,
    make_session: Callable[[], Http2Session] | None = None,
    tls: ServerTls | None = None,
    boot: str = "boot",
    access: AccessLog | None = None,
    slow: SlowLog | None = None,
    hosts: tuple[str, ...] = (ANY_HOST,),
    origins: tuple[str, ...] = (),
    audience: Audience = Audience.ALL,
    jobs: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Http]:
    """Serve on a port of this machine, 0 for a free one; `boot` is what differs from one start of a router to the next; `options` are the `Fleet`'s.

    `jobs` are settings of a router that are about jobs, whose file is made in a folder of its own when a test submits one.
    """
    limits = limits or Limits()
    fleet, pool, log = Fleet(limits=limits, **options), NoPool(), NullLog()
    ended = EndedRequests(clock=fleet.clock, wall_clock=time.time, access=access, slow=slow)
    fleet.telemetry.follow_failures(ended.failed)
    inference = Inference(
        fleet.view,
        fleet.routing,
        fleet.telemetry,
        timeout_s,
        limits,
        log,  # type: ignore[arg-type]
        ended=ended,
        operator=OperatorKey("secret"),
        repeated=keys_of(fleet),
        meter=Meter(quotas := Quotas(), fleet.routing.pipeline, fleet.view, clock=fleet.clock),
    )
    api = InferenceApi(
        inference,
        arrival_s=arrival_s,
        is_ready=lambda: any(endpoint.is_usable for endpoint in fleet.endpoints),
    )
    revoked: list[bytes] = []

    class _Revocations:
        version = 7

    def revoke(encoded: bytes) -> tuple[_Revocations, bool]:
        if encoded == b"junk":
            raise InvalidRequest("not signed by the owner")
        revoked.append(encoded)
        return _Revocations(), False

    members: dict[PeerId, Member] = {}
    drains = FakeDrains()
    pages = FleetApi(
        fleet.view,
        pool,  # type: ignore[arg-type]
        fleet.telemetry,
        revoke=revoke,  # type: ignore[arg-type]
        drains=drains,  # type: ignore[arg-type]
        arrival_s=arrival_s,
        clock=fleet.clock,
        member_of=members.get,
    )
    requests = OpenRequests()
    times = Times()
    telemetry = fleet.telemetry
    history = History(
        lambda: Totals(
            telemetry.latency_counts(),
            telemetry.refusals(),
            times.in_flight,
            len(fleet.view.adverts),
            sum(endpoint.is_usable for endpoint in fleet.endpoints),
        ),
        bounds_s=LATENCY.bounds,
        clock=lambda: times.now_s,
    )
    page, feed = page_of(fleet, pool, log, requests, history, boot)
    front = Front(
        inference,
        requests,
        arrival_s=arrival_s,
        limits=front_limits,
        tls=tls,
        audience=audience,
        origin_check=OriginCheck(hosts, origins),
    )
    repository = RepositoryControl(fleet.view, log)  # type: ignore[arg-type]
    folder = tempfile.TemporaryDirectory()
    given = {"data_folder": Path(folder.name), "arrival_s": arrival_s, **(jobs or {})}
    job_parts = JobParts(
        RouterSettings(**given),
        fleet.view,
        log,  # type: ignore[arg-type]
        inference.slices,
        lambda: requests.is_closing,
    )
    generations = Generations(
        inference,
        arrival_s=arrival_s,
        longest_s=timeout_s if answer_timeout_s is None else answer_timeout_s,
        wall_clock=lambda: 1_700_000_000.5,
        draw_id=lambda: "7",
    )
    application = make_application(
        api,
        GenerateApi(inference, arrival_s=arrival_s, generations=generations),
        RepositoryApi(repository, fleet.view, arrival_s=arrival_s),
        UnsupportedApi(),
        pages,
        page,
        EmbeddingsApi(inference, arrival_s=arrival_s),
        GenerationsApi(generations),
        OllamaApi(generations, fleet.view),
        ModelsApi(fleet.view),
        RoutingApi(
            fleet.view,
            fleet.routing,
            Overrides(),
            OperatorKey("secret"),
            log,  # type: ignore[arg-type]
            arrival_s=arrival_s,
            timeout_s=timeout_s,
            clock=fleet.clock,
            ended=ended,
        ),
        DocumentsApi(StaticFiles()),
        *job_parts.pages(),
        limits=limits,
        log=log,  # type: ignore[arg-type]
        requests=requests,
        budget=front.budget,
        keys=front.keys,
        access=access,
        audience=audience,
        origin_check=front.origin_check,
    )
    runner = make_runner(application)
    await runner.setup()
    front.make_pages = handlers_of(runner, requests)
    front.guests = GrpcServer(
        inference,
        ModelDescriptions(
            inference,
            is_ready=lambda: any(endpoint.is_usable for endpoint in fleet.endpoints),
            wall_clock=time.time,
        ),
        front,
        repository,
        make_session,
        audience=audience,
    )
    if audience is not Audience.OPERATORS:
        front.upgrades = StreamServer(front)
    host, port = await front.listen("127.0.0.1", port)
    try:
        scheme = "http" if tls is None else "https"
        async with aiohttp.ClientSession(f"{scheme}://{host}:{port}") as session:
            client = Client(session, host, port)
            yield Http(
                client,
                fleet,
                pool,
                log,
                front,
                revoked,
                members,
                history,
                times,
                ended,
                feed,
                drains,
                quotas,
                application[TABLE].routes,
                job_parts,
            )
    finally:
        front.close()
        await runner.cleanup()
        await job_parts.close()
        folder.cleanup()
