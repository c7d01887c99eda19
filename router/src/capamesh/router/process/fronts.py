"""The fronts of one router's process: that of clients and, at an address of their own, that of operators. IO: asyncio, aiohttp.

Without `--metrics-listen` one front serves all. With it each of the two refuses what is for the other's audience.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from capamesh.protocol.advertised_address import listen_reason
from capamesh.protocol.errors import ConfigError
from capamesh.router.access.audience import Audience
from capamesh.router.access.origin_check import OriginCheck
from capamesh.router.grpc.server import GrpcServer
from capamesh.router.http.admin_fleet import FleetApi
from capamesh.router.http.admin_routing import RoutingApi
from capamesh.router.http.aiohttp_handlers import handlers_of, make_runner
from capamesh.router.http.application import make_application
from capamesh.router.http.embeddings import EmbeddingsApi
from capamesh.router.http.generate import GenerateApi
from capamesh.router.http.generation_way import Generations
from capamesh.router.http.generations import GenerationsApi
from capamesh.router.http.limits import FrontLimits, limits_of, networks_of
from capamesh.router.http.login_page import LoginApi
from capamesh.router.http.oip import InferenceApi
from capamesh.router.http.ollama import OllamaApi
from capamesh.router.http.openai_models import ModelsApi
from capamesh.router.http.repository import RepositoryApi
from capamesh.router.http.server import Front
from capamesh.router.http.unsupported import UnsupportedApi
from capamesh.router.process.addresses import Address, speaks_tls_to_operators, tell_addresses
from capamesh.router.process.exposure import is_of_this_machine
from capamesh.router.requests.model_descriptions import ModelDescriptions
from capamesh.router.requests.repository import RepositoryControl
from capamesh.router.ws.server import StreamServer

if TYPE_CHECKING:
    from aiohttp import web

    from capamesh.router.http.route import Pages
    from capamesh.router.process.job_parts import JobParts
    from capamesh.router.process.page_parts import PageParts
    from capamesh.router.process.parts import RouterParts

OPERATORS_BYTES: Final = 4 * 2**20
"""The largest body that operators send: four times the largest revocation list."""
OPERATORS_CONNECTIONS: Final = 256
"""The most connections of operators (guess: some Prometheuses, some viewers of the page)."""


class Fronts:
    """All fronts of one process."""

    def __init__(
        self,
        parts: RouterParts,
        page: PageParts,
        jobs: JobParts,
        limits: FrontLimits | None = None,
    ) -> None:
        """Make them; `page` has the pages that people see, `jobs` those of batch jobs.

        `limits` are those of clients; None: those of the settings.
        """
        self._given_limits = limits
        self._parts = parts
        settings = parts.settings
        self._has_operators = bool(settings.metrics_host)
        self._repository = RepositoryControl(parts.fleet, parts.log)
        self.fleet = FleetApi(
            parts.fleet,
            parts.pool,
            parts.telemetry,
            revoke=parts.revocations.post,
            drains=parts.drains,
            arrival_s=settings.arrival_s,
            clock=parts.clocks.steady_s,
            work_clock=parts.system.work_s,
            overrides=parts.overrides,
            member_of=parts.hearing.quotas.member_of,
            elsewhere=parts.seat.elsewhere,
            lost=parts.lost,
            routers=parts.routers,
        )
        """The routes of the fleet."""
        self.routing = RoutingApi(
            parts.fleet,
            parts.routing,
            parts.overrides,
            parts.operator_key,
            parts.log,
            arrival_s=settings.arrival_s,
            timeout_s=settings.timeout_s,
            clock=parts.clocks.steady_s,
            ended=parts.traces.ended,
            elsewhere=parts.seat.elsewhere,
            lost=parts.lost,
        )
        """The routes of how requests are routed."""
        generations = Generations(
            parts.inference,
            arrival_s=settings.arrival_s,
            longest_s=settings.answer_timeout_s,
            wall_clock=parts.system.wall_s,
            draw_id=lambda: parts.system.token_bytes(12).hex(),
        )
        self.pages: tuple[Pages, ...] = (
            InferenceApi(
                parts.inference,
                arrival_s=settings.arrival_s,
                is_ready=parts.standing.has_usable,
                wall_clock=parts.system.wall_s,
            ),
            GenerateApi(parts.inference, arrival_s=settings.arrival_s, generations=generations),
            RepositoryApi(self._repository, parts.fleet, arrival_s=settings.arrival_s),
            UnsupportedApi(),
            self.fleet,
            self.routing,
            page.api,
            LoginApi(),
            page.documents,
            EmbeddingsApi(parts.inference, arrival_s=settings.arrival_s),
            GenerationsApi(generations),
            OllamaApi(generations, parts.fleet),
            ModelsApi(parts.fleet),
            *jobs.pages(),
        )
        self.clients = self._front(Audience.CLIENTS if self._has_operators else Audience.ALL)
        self.clients.watch(parts.telemetry)
        self.all = [self.clients]
        if self._has_operators:
            self.all.append(self._front(Audience.OPERATORS))
        self._runners: list[web.AppRunner] = []

    async def set_up(self) -> None:
        """Make all ready to listen."""
        parts, settings = self._parts, self._parts.settings
        for front in self.all:
            limits = settings.limits
            if front.audience is Audience.OPERATORS:
                limits = replace(limits, max_message_bytes=_operators_bytes(parts))
            runner = make_runner(
                make_application(
                    *self.pages,
                    limits=limits,
                    log=parts.log,
                    requests=parts.requests,
                    budget=front.budget,
                    keys=front.keys,
                    access=parts.traces.logs.access,
                    audience=front.audience,
                    origin_check=front.origin_check,
                )
            )
            self._runners.append(runner)
            await runner.setup()
            front.make_pages = handlers_of(runner, parts.requests)
            self._open_to_guests(front)

    async def listen(self) -> None:
        """Accept connections, and tell where; raise `ConfigError` where an address cannot be had."""
        settings, seat = self._parts.settings, self._parts.seat
        clients = await _listen(
            self.clients, (settings.http_host, settings.http_port), seat.shared, "--http"
        )
        operators: Address | None = None
        for front in self.all[1:]:
            asked = settings.metrics_host, settings.metrics_port
            operators = await _listen(front, asked, seat.shared_metrics, "--metrics-listen")
        tell_addresses(self._parts, clients, operators)

    def stop_accepting(self) -> None:
        """Accept no connection any more; those that are open go on."""
        for front in self.all:
            front.stop_accepting()

    def ask_to_leave(self) -> None:
        """Ask all clients who can be asked at any time."""
        for front in self.all:
            front.ask_to_leave()

    async def wait_left(self) -> None:
        """Wait until nobody is connected, or all had time to be asked to leave."""
        await asyncio.gather(*(front.wait_left() for front in self.all))

    def close(self) -> None:
        """Hang up on all, once what they were answered is sent."""
        for front in self.all:
            front.close()

    async def clean_up(self) -> None:
        """Close, and wait for what still runs."""
        self.close()
        for runner in self._runners:
            await runner.cleanup()

    def _front(self, audience: Audience) -> Front:
        parts, settings = self._parts, self._parts.settings
        is_for_operators = audience is Audience.OPERATORS
        has_tls = parts.tls is not None and not (
            is_for_operators and not speaks_tls_to_operators(settings)
        )
        tls = parts.tls if has_tls else None
        listens_at = settings.metrics_host if is_for_operators else settings.http_host
        names = {*settings.allowed_hosts, listens_at}
        if not is_of_this_machine(listens_at):  # a network may have given this machine any name
            names.add(socket.gethostname())
        return Front(
            parts.inference,
            parts.requests,
            arrival_s=settings.arrival_s,
            limits=self._limits(is_for_operators=is_for_operators, has_tls=has_tls),
            tls=tls,
            audience=audience,
            origin_check=OriginCheck(
                names,
                settings.allowed_origins,
                certificate_names=lambda: () if tls is None else tls.names,
                asks_for_keys=lambda: parts.inference.ring.is_required,
                has_tls=tls is not None,
            ),
        )

    def _limits(self, *, is_for_operators: bool, has_tls: bool) -> FrontLimits:
        if self._given_limits is not None and not is_for_operators:
            return self._given_limits
        settings = self._parts.settings
        trusted = networks_of(settings.trusted_proxies)
        if is_for_operators:
            largest_bytes = _operators_bytes(self._parts)
            return limits_of(
                largest_bytes,
                body_bytes=2 * largest_bytes,
                connections=OPERATORS_CONNECTIONS,
                trusted=trusted,
                has_tls=has_tls,
            )
        return limits_of(
            settings.limits.max_message_bytes,
            body_bytes=settings.body_budget_bytes,
            connections=settings.max_connections,
            connections_per_site=settings.max_connections_per_address,
            trusted=trusted,
            has_tls=has_tls,
        )

    def _open_to_guests(self, front: Front) -> None:
        """Let clients of the front speak gRPC and, where models are run, WebSocket."""
        parts = self._parts
        descriptions = ModelDescriptions(
            parts.inference, is_ready=parts.standing.has_usable, wall_clock=parts.system.wall_s
        )
        front.guests = server = GrpcServer(
            parts.inference, descriptions, front, self._repository, audience=front.audience
        )
        if front.audience is Audience.OPERATORS:
            return
        front.upgrades = streams = StreamServer(front)
        server.watch(parts.telemetry)
        streams.watch(parts.telemetry)


def _operators_bytes(parts: RouterParts) -> int:
    return min(OPERATORS_BYTES, parts.settings.limits.max_message_bytes)


async def _listen(
    front: Front, address: Address, shared: Sequence[socket.socket], option: str
) -> Address:
    try:
        return await front.listen(*address, shared)
    except OSError as exc:
        host, port = address
        raise ConfigError(
            f"cannot listen for HTTP on {host}:{port}: {listen_reason(exc)}; give another {option}"
        ) from exc
