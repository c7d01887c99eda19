"""The Open Inference Protocol v2 over HTTP. IO: aiohttp."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

from aiohttp import web

from capamesh.protocol.adverts import ModelState
from capamesh.protocol.errors import CapameshError, InvalidRequest, ModelNotFound
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.oip import (
    HEADER_LENGTH_NAME,
    IndexState,
    InferResponse,
    decode_request,
    encode_response,
    index_entry,
    model_config_body,
    model_metadata_body,
    parse_header_length,
    parse_object,
)
from capamesh.router.api.parameters import priority_of, sequence_of, time_allowed_s
from capamesh.router.api.wishes import wishes_of
from capamesh.router.policies import POLICIES

if TYPE_CHECKING:
    from capamesh.protocol.adverts import ModelOffer
    from capamesh.protocol.tensors import Limits
    from capamesh.router.fleet_view import FleetView
    from capamesh.router.routing import Routing
    from capamesh.router.telemetry import Telemetry

_INDEX_STATES = {
    ModelState.READY: IndexState.READY,
    ModelState.LOADING: IndexState.LOADING,
    ModelState.UNLOADING: IndexState.UNLOADING,
    ModelState.FAILED: IndexState.UNAVAILABLE,
    ModelState.UNLOADED: IndexState.UNAVAILABLE,
}
NODE_HEADER = "X-Capamesh-Node"
"""Names the peer that ran the request."""
EXPLANATION_HEADER = "X-Capamesh-Explanation"
"""Says, as JSON, among whom and why it was chosen, when X-Capamesh-Explain asks."""
MAX_HEADER_BYTES = 8_000
"""Of that: aiohttp's client reads 8,190 bytes of a header's line, its name included."""
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository"]


class InferenceApi:
    """The `/v2` routes."""

    def __init__(
        self,
        fleet: FleetView,
        routing: Routing,
        telemetry: Telemetry,
        *,
        timeout_s: float,
        arrival_s: float,
        limits: Limits,
        is_ready: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._routing = routing
        self._telemetry = telemetry
        self._timeout_s = timeout_s
        self._arrival_s = arrival_s
        self._limits = limits
        self._is_ready = is_ready

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, the busiest first."""
        routes = [
            web.post("/v2/models/{model}/infer", self.infer),
            web.post("/v2/models/{model}/versions/{version}/infer", self.infer),
            web.get("/v2", self.server_metadata),
            web.get("/v2/health/live", self.live),
            web.get("/v2/health/ready", self.ready),
            web.post("/v2/repository/index", self.index),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                web.get(model, self.model_metadata),
                web.get(f"{model}/ready", self.model_ready),
                web.get(f"{model}/config", self.model_config),
            ]
        return routes

    async def infer(self, request: web.Request) -> web.Response:
        """Run one inference."""
        model = ModelName(request.match_info["model"])
        version = ModelVersion(request.match_info.get("version", ""))
        body = await self._body(request)
        started_s = time.monotonic()
        try:
            wishes, is_explained = wishes_of(request.headers, POLICIES)
            header_length = parse_header_length(request.headers.get(HEADER_LENGTH_NAME))
            asked = decode_request(model, version, body, header_length, self._limits)
            parameters = asked.parameters
            call = InferCall(
                model,
                version,
                asked.inputs,
                tuple(output.name for output in asked.outputs),
                priority_of(parameters),
                sequence=sequence_of(parameters),
            )
            allowed_s = time_allowed_s(parameters, self._timeout_s)
            outcome, desk = await self._routing.infer(call, wishes, started_s + allowed_s)
            answer = outcome.answer
            buffers, json_bytes = encode_response(
                InferResponse(model, answer.version, asked.id, answer.outputs), asked, self._limits
            )
        except CapameshError as error:
            is_known = bool(self._fleet.versions(model))
            self._telemetry.refused(model, error, is_known=is_known)
            raise
        self._telemetry.answered(model, time.monotonic() - started_s)
        whole = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        headers = {
            NODE_HEADER: outcome.host.candidate.peer,
            "Content-Type": "application/json",
        }
        if is_explained:
            headers[EXPLANATION_HEADER] = _header_of(desk.explain(time.monotonic()).to_json())
        if json_bytes is not None:
            headers[HEADER_LENGTH_NAME] = str(json_bytes)
            headers["Content-Type"] = "application/octet-stream"
        return web.Response(body=whole, headers=headers)

    async def server_metadata(self, _: web.Request) -> web.Response:
        """Return what this server is."""
        return _json(
            {"name": "capamesh", "version": package_version("capamesh"), "extensions": EXTENSIONS}
        )

    async def live(self, _: web.Request) -> web.Response:
        """Return that this process answers."""
        return _json({"live": True})

    async def ready(self, _: web.Request) -> web.Response:
        """Return whether some model can be run; 503 when not."""
        is_ready = self._is_ready()
        return _json({"ready": is_ready}, status=200 if is_ready else 503)

    async def model_metadata(self, request: web.Request) -> web.Response:
        """Return a model's inputs and outputs."""
        offer = self._offer(request)
        versions = [offer.version] if "version" in request.match_info else None
        return _json(
            model_metadata_body(
                offer.name,
                versions or self._fleet.versions(offer.name),
                offer.inputs,
                offer.outputs,
            )
        )

    async def model_config(self, request: web.Request) -> web.Response:
        """Return a model's configuration as Triton words it."""
        offer = self._offer(request)
        return _json(model_config_body(offer.name, offer.inputs, offer.outputs))

    async def model_ready(self, request: web.Request) -> web.Response:
        """Return whether some node can run the model now; 503 when not, 404 when nobody hosts it."""
        offer = self._offer(request)
        version = ModelVersion(request.match_info.get("version", ""))
        is_ready = any(host.candidate.is_usable for host in self._fleet.hosts(offer.name, version))
        return _json({"name": offer.name, "ready": is_ready}, status=200 if is_ready else 503)

    async def index(self, request: web.Request) -> web.Response:
        """Return all model versions of the fleet; with `{"ready": true}` just those that can be run."""
        body = await self._body(request)
        asked = parse_object(body) if body.strip() else {}
        is_ready_only = asked.get("ready", False)
        if not isinstance(is_ready_only, bool):
            raise InvalidRequest(f'"ready" is {is_ready_only!r}; it must be true or false')
        offers = self._fleet.offers()
        if is_ready_only:
            offers = [offer for offer in offers if offer.is_ready]
        return _json(
            [
                index_entry(
                    offer.name, offer.version, _INDEX_STATES[offer.state], reason=offer.reason
                )
                for offer in offers
            ]
        )

    async def _body(self, request: web.Request) -> bytes:
        if request.content.is_eof():  # small bodies come with their head: no timer for them
            return await request.read()
        try:
            async with asyncio.timeout(self._arrival_s):
                return await request.read()
        except TimeoutError as exc:
            announced = "" if request.content_length is None else f" of {request.content_length}"
            raise web.HTTPRequestTimeout(
                text=f"{request.content.total_raw_bytes}{announced} bytes of the request's body came within "
                f"{self._arrival_s:g} s, the limit; send it faster or in smaller requests, or give the router "
                "a longer --arrival"
            ) from exc

    def _offer(self, request: web.Request) -> ModelOffer:
        model = ModelName(request.match_info["model"])
        version = ModelVersion(request.match_info.get("version", ""))
        offer = self._fleet.offer(model, version)
        if offer is None:
            of = f" version {version!r}" if version else ""
            known = ", ".join(self._fleet.versions(model) or self._fleet.models()) or "none"
            raise ModelNotFound(f"no node hosts model {model!r}{of}; hosted: {known}")
        return offer


def _header_of(explanation: str) -> str:
    """Return an explanation's JSON with as many of its candidates, the chosen first, as a header can hold."""
    if len(explanation) <= MAX_HEADER_BYTES:
        return explanation
    body = json.loads(explanation)
    while len(explanation) > MAX_HEADER_BYTES and body["candidates"]:
        body["candidates"].pop()
        explanation = json.dumps(body, separators=(",", ":"))
    return explanation


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=json.dumps(value).encode(), content_type="application/json"
    )
