"""A router's HTTP application with a real fleet view and dispatch, and nodes that answer as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp.test_utils import TestClient, TestServer
from fleet_fakes import FakeLink, NullLog, Reply, advert, linked, offer

from capamesh.protocol.adverts import ModelOffer
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.fleet import Joined
from capamesh.protocol.tensors import Limits
from capamesh.router.api.application import OpenRequests, make_application
from capamesh.router.api.fleet import FleetApi
from capamesh.router.api.inference import InferenceApi
from capamesh.router.candidates import Candidate
from capamesh.router.dispatch import Dispatch
from capamesh.router.fleet_view import FleetView
from capamesh.router.policies import Policy, RequestShape
from capamesh.router.telemetry import Telemetry

INFER = "/v2/models/m/infer"


class First:
    """Picks the first candidate."""

    name = "first"

    def pick(self, candidates: list[Candidate], request: RequestShape) -> Candidate:
        del request
        return candidates[0]


class NoPool:
    """A link pool without links; `errors` is why they are down, by address."""

    def __init__(self) -> None:
        self.errors: dict[str, str] = {}

    def last_error(self, candidate: Candidate) -> str:
        return self.errors.get(candidate.address, "")


@dataclass
class Http:
    """The application and what stands behind it."""

    client: TestClient
    view: FleetView
    dispatch: Dispatch
    telemetry: Telemetry
    pool: NoPool
    log: NullLog
    candidates: list[Candidate]
    revoked: list[bytes] = field(default_factory=list)

    def node(
        self, peer: str, *script: Reply, models: tuple[ModelOffer, ...] = (offer(),)
    ) -> FakeLink:
        """Add a node with one address whose link follows `script`."""
        self.view.apply([Joined(advert(peer, f"{peer.lower()}:1", models=models))])
        return linked(self.candidates[-1], *script)

    async def infer(
        self, body: object, *, path: str = INFER, header_length: int | str | None = None
    ) -> aiohttp.ClientResponse:
        """Post a request: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {}
        if header_length is not None:
            headers["Inference-Header-Content-Length"] = str(header_length)
        return await self.client.post(path, data=data, headers=headers)

    async def settled(self) -> None:
        """Let the server finish what it has begun."""
        for _ in range(50):
            await asyncio.sleep(0)


@asynccontextmanager
async def serving(
    *,
    limits: Limits | None = None,
    timeout_s: float = 30.0,
    arrival_s: float = 30.0,
    policy: Policy | None = None,
) -> AsyncIterator[Http]:
    """Serve on a free port of this machine."""
    limits = limits or Limits()
    candidates: list[Candidate] = []
    view = FleetView(on_new=candidates.append, on_gone=lambda _: None)
    telemetry, pool, log = Telemetry(), NoPool(), NullLog()
    clock: Callable[[], float] = asyncio.get_running_loop().time
    dispatch = Dispatch(
        view,
        policy or First(),  # type: ignore[arg-type]  # a policy for candidates alone
        clock=clock,
        limits=limits,
        telemetry=telemetry,
    )
    inference = InferenceApi(
        view,
        dispatch,
        telemetry,
        timeout_s=timeout_s,
        arrival_s=arrival_s,
        limits=limits,
        is_ready=lambda: any(candidate.is_usable for candidate in candidates),
    )
    revoked: list[bytes] = []

    class _Revocations:
        version = 7

    def revoke(encoded: bytes) -> _Revocations:
        if encoded == b"junk":
            raise InvalidRequest("not signed by the owner")
        revoked.append(encoded)
        return _Revocations()

    pages = FleetApi(view, pool, telemetry, revoke=revoke)  # type: ignore[arg-type]
    application = make_application(
        inference, pages, limits=limits, log=log, requests=OpenRequests()
    )  # type: ignore[arg-type]
    async with TestClient(TestServer(application)) as client:
        yield Http(client, view, dispatch, telemetry, pool, log, candidates, revoked)
