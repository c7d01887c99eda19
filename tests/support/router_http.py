"""A whole router on one port, whose links are to nodes that answer as a test says: no mesh, no dials, no clock of its own."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import json
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import yarl
from fleet_fakes import (
    FakeLink,
    InOrder,
    Nodes,
    NullLog,
    PolicyMaker,
    Reply,
    offer,
    with_policy,
)
from typing_extensions import override

from capamesh.protocol.adverts import ModelOffer
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import Overloaded
from capamesh.protocol.network import Membership, NetworkOwner, Role
from capamesh.protocol.system import System
from capamesh.protocol.tensors import Limits
from capamesh.router.access.audience import Audience
from capamesh.router.access.keys import ALPHABET, Key, Scope, Verb, digest_of, id_of, new_text
from capamesh.router.access.operator_key import OperatorKey
from capamesh.router.access.origin_check import ANY_HOST
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.http.limits import FrontLimits
from capamesh.router.http.route import Route
from capamesh.router.http.server import Front
from capamesh.router.http.tls_files import ServerTls
from capamesh.router.jobs.service import JobService
from capamesh.router.page.history import BIN_S
from capamesh.router.process.fronts import Fronts
from capamesh.router.process.job_parts import JobParts
from capamesh.router.process.page_parts import PageParts
from capamesh.router.process.parts import RouterParts
from capamesh.router.process.seat import WholeRouter
from capamesh.router.rules.model_rules import RoutingRules
from capamesh.router.settings import RouterSettings
from capamesh.router.telemetry import HTTP
from capamesh.router.timers import Timer, Timers
from capamesh.simulation.sim_loop import SimLoop
from capamesh.simulation.world.memory_wire import Certificates

INFER = "/v2/models/m/infer"
WALL_S = 1_700_000_000.5
"""The time of day in tests."""
DRAWN = "07" * 12
"""The id that is drawn for each answer that is generated."""


@functools.cache
def network() -> tuple[NetworkOwner, Membership]:
    now = dt.datetime.fromtimestamp(WALL_S, dt.UTC)
    owner = NetworkOwner.create("home", now)
    token = owner.invite(
        Role.ROUTER, expires_at=now + dt.timedelta(days=3650), bootstrap=(), now=now
    ).encode()
    with tempfile.TemporaryDirectory() as folder:
        return owner, DataDir(Path(folder), NullLog()).membership(token, Role.ROUTER, now)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


class Home(DataDir):
    """A data folder that waits for no disk."""

    @override
    def membership(self, token: str | None, role: Role, now: dt.datetime) -> Membership:
        return network()[1]

    @override
    def next_boot_ns(self, time_ns: int) -> int:
        return time_ns


class Seat(WholeRouter):
    """The seat of a router that shares its process with others; `key` is its operator's, None: one is made."""

    def __init__(self, key: str | None = None) -> None:
        super().__init__()
        self._key = key

    @override
    def take_home(self, folder: Path, log: Any) -> DataDir:
        return Home(folder, log)

    @override
    def operator_key(self, folder: Path) -> OperatorKey:
        return super().operator_key(folder) if self._key is None else OperatorKey(self._key)


class NoTimers(Timers):
    """Where no loop runs: nothing is to wait there."""

    @override
    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        raise AssertionError(f"{callback!r} would wait for {delay} s, but there is no loop")

    @override
    def call_soon(self, callback: Callable[[], object], /) -> Timer:
        return self.call_later(0.0, callback)

    @override
    def call_exception_handler(self, context: dict[str, Any], /) -> None:
        raise AssertionError(context["message"]) from context.get("exception")


def made_parts(
    folder: Path, log: Any, sources: dict[str, Any] | None = None, **settings: Any
) -> RouterParts:
    """Return the parts of a router with `settings`; `sources` are its clocks and what else it is given of the world."""
    try:
        timers: Timers = asyncio.get_running_loop()
    except RuntimeError:
        timers = NoTimers()
    given = {"http_port": 0, "mesh_port": 0, "link_port": 0, **settings}
    made = RouterSettings(data_folder=folder, **given)
    return RouterParts(made, log, timers, **{"seat": Seat(), **(sources or {})})


@dataclass
class Client:
    """aiohttp's client at the front's address."""

    session: aiohttp.ClientSession
    host: str
    port: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


class Http:
    """The router, a client of its, and what stands behind it."""

    def __init__(
        self,
        parts: RouterParts,
        page: PageParts,
        jobs: JobParts,
        fronts: Fronts,
        front: Front,
        fleet: Nodes,
        client: Client,
    ) -> None:
        self.parts, self.jobs, self.front = parts, jobs, front
        self.fleet, self.client, self.log = fleet, client, parts.log
        self.view, self.telemetry, self.quotas = parts.fleet, parts.telemetry, parts.quotas
        self.ended = parts.traces.ended
        self.history, self.feed = page.history, page.feed
        self._keys: dict[str, Key] = {}
        self._draws = iter(ALPHABET * 1000)
        self._ahead_s = 0.0
        clock = page.history._clock
        page.history._clock = lambda: clock() + self._ahead_s
        self.routes: tuple[Route, ...] = tuple(
            route for pages in fronts.pages for route in pages.routes()
        )

    @property
    def job_service(self) -> JobService:
        assert self.jobs.service is not None
        return self.jobs.service

    @property
    def endpoints(self) -> list[Endpoint]:
        return self.fleet.endpoints

    @property
    def under_way(self) -> dict[str, int]:
        """Whatever is held for a client or a node, unless it is 0."""
        front = self.front
        counts = {
            "handshakes": len(front._handshakes),
            "requests": front.requests.count,
            "bytes": front.budget.used_bytes,
            "arriving bytes": front.budget.arriving_bytes,
        }
        return {name: count for name, count in counts.items() if count} | self.fleet.counts

    def key(self, *verbs: Verb, tenant: str = "lab", **scope: Any) -> str:
        """Return a new key, to run models where nothing else is said, which the router takes with all before it."""
        text = new_text(lambda _: next(self._draws))
        made = Scope(verbs=verbs or (Verb.INFER,), **scope)
        self._keys[text] = Key(id_of(text), digest_of(text), tenant, made)
        self.front.keys.ring.take(self._keys.values(), 0.0, 0.0)
        return text

    def bearer(self, *verbs: Verb, **scope: Any) -> dict[str, str]:
        return bearer(self.key(*verbs, **scope))

    def metadata(self, *verbs: Verb, **scope: Any) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key(*verbs, **scope)}"),)

    def revoke(self, text: str) -> None:
        del self._keys[text]
        self.front.keys.ring.take(self._keys.values(), 0.0, 0.0)

    def node(
        self, peer: str, *script: Reply, models: tuple[ModelOffer, ...] = (offer(),)
    ) -> FakeLink:
        """Add a node with one address whose link follows `script`."""
        return self.fleet.node(peer, *script, models=models)

    def unreachable(self, address: str, reason: str) -> None:
        """Let the last dial of an address have failed for `reason`."""
        endpoint = next(each for each in self.endpoints if each.address == address)
        self.parts.pool._keepers[endpoint] = SimpleNamespace(last_error=reason), None  # type: ignore[assignment]

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
            self.endpoints[0].rif = round(12 * noise())
            self.let_pass(BIN_S)
            self.history.sample()
        self.endpoints[0].rif = 0

    def let_pass(self, seconds: float) -> None:
        """Let so many seconds pass for the history of the page."""
        self._ahead_s += seconds

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


@asynccontextmanager
async def serving(
    *,
    policy: str = InOrder.name,
    rules: RoutingRules | None = None,
    front_limits: FrontLimits | None = None,
    tls: ServerTls | None = None,
    audience: Audience = Audience.ALL,
    **settings: Any,
) -> AsyncIterator[Http]:
    """Serve on a port of this machine; `settings` are those of a router.

    With another `audience` than all the client is at the front for that one.
    """
    loop, log = asyncio.get_running_loop(), NullLog()
    timeout_s = settings.get("timeout_s", 30.0)
    policies = PolicyMaker()
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "limits": Limits(),
            "allowed_hosts": (ANY_HOST,),
            "answer_timeout_s": timeout_s,
            "metrics_host": "" if audience is Audience.ALL else "127.0.0.1",
            "policy": policy,
            **settings,
        }
        parts = made_parts(
            given.pop("data_folder", Path(folder)),
            log,
            {
                "seat": Seat("secret"),
                "system": System(
                    steady_s=loop.time,
                    work_s=loop.time,
                    wall_ns=lambda: int(WALL_S * 1e9),
                    rng=random.Random(0),
                    token_bytes=lambda size: bytes([7]) * size,
                    make_wire=Certificates().make_wire,
                    is_virtual=isinstance(loop, SimLoop),
                ),
                "make_policy": policies,
            },
            **given,
        )
        parts.tls = tls
        if rules is not None:
            ruled = with_policy(rules, policy)
            parts.owners.take_rules(ruled)
            parts.request_parts.take_rules(ruled)
        page = PageParts(parts)
        jobs = JobParts(
            parts.settings,
            parts.fleet,
            log,  # type: ignore[arg-type]
            parts.inference.slices,
            lambda: parts.requests.is_closing,
            parts.system,
        )
        fronts = Fronts(parts, page, jobs, front_limits or FrontLimits())
        fleet = Nodes(
            parts.fleet,
            parts.request_parts,
            parts.telemetry,
            clock=loop.time,
            policies=policies.made,
            owners=parts.owners.owners,
        )
        try:
            await fronts.set_up()
            await fronts.listen()
            log.events.clear()
            standing, is_for_operators = parts.standing, audience is Audience.OPERATORS
            front = fronts.all[-1] if is_for_operators else fronts.clients
            url = yarl.URL(standing.metrics_address if is_for_operators else standing.http_address)
            async with aiohttp.ClientSession(url) as session:
                client = Client(session, str(url.host), url.port or 0)
                yield Http(parts, page, jobs, fronts, front, fleet, client)
        finally:
            await fronts.clean_up()
            await jobs.close()
            parts.owners.close()
