"""The Open Inference Protocol v2 over HTTP. IO: aiohttp."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.oip import (
    HEADER_LENGTH_NAME,
    error_body,
    parse_header_length,
    parse_object,
)
from capamesh.router.access.keys import Verb
from capamesh.router.http.bodies import read_body, read_large_body
from capamesh.router.http.cached_page import CachedPage
from capamesh.router.http.connections import site_of
from capamesh.router.http.errors import code_of, response_of
from capamesh.router.http.exchange import JSON_WEIGHT, Exchange, Inference, InferTarget
from capamesh.router.http.key_check import key_of
from capamesh.router.http.options import idempotency_key_of, options_of
from capamesh.router.http.packing import taken_coding
from capamesh.router.http.replies import OCTETS
from capamesh.router.http.route import ANY_KEY, EVERYBODY, Content, Pages, Route, json_of
from capamesh.router.http.schemas import headers, oip
from capamesh.router.requests.key_scope import within_scope
from capamesh.router.requests.model_descriptions import ModelDescriptions
from capamesh.router.telemetry.tracing import parsed_traceparent

if TYPE_CHECKING:
    from capamesh.router.http.replies import Reply

MOST_INDEX_BYTES = 2**18
"""The largest body of a request for the index, which has one key (measured: 5 ms to parse the worst)."""


class InferenceApi(Pages):
    """The `/v2` routes."""

    def __init__(
        self,
        inference: Inference,
        *,
        arrival_s: float,
        is_ready: Callable[[], bool],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._inference = inference
        self._descriptions = ModelDescriptions(inference, is_ready=is_ready, wall_clock=wall_clock)
        self._arrival_s = arrival_s
        self._index = CachedPage(lambda: self._index_pieces(is_ready_only=False))
        self._statistics = CachedPage(self._statistics_pieces)
        self._index_ready = CachedPage(lambda: self._index_pieces(is_ready_only=True))

    @override
    def routes(self) -> list[Route]:
        """Return the routes, the busiest first."""
        seen = (Verb.INFER, Verb.READ)
        routes = [
            self._infer_route("/v2/models/{model}/infer"),
            self._infer_route("/v2/models/{model}/versions/{version}/infer"),
            Route("GET", "/v2", self.server_metadata, ANY_KEY, json_of(oip.Server)),
            Route("GET", "/v2/health/live", self.live, EVERYBODY, json_of(oip.Live)),
            Route(
                "GET",
                "/v2/health/ready",
                self.ready,
                EVERYBODY,
                json_of(oip.Ready),
                others={503: json_of(oip.Ready)},
            ),
            Route(
                "POST",
                "/v2/repository/index",
                self.index,
                (Verb.READ,),
                json_of(list[oip.IndexEntry]),
                body=json_of(oip.IndexRequest),
            ),
            Route(
                "GET",
                "/v2/models/stats",
                self.all_statistics,
                (Verb.READ,),
                json_of(oip.Statistics),
            ),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route("GET", model, self.model_metadata, seen, json_of(oip.ModelMetadata)),
                Route(
                    "GET",
                    f"{model}/ready",
                    self.model_ready,
                    seen,
                    json_of(oip.ModelReady),
                    others={503: json_of(oip.ModelReady)},
                ),
                Route("GET", f"{model}/config", self.model_config, seen, json_of(oip.ModelConfig)),
                Route(
                    "GET",
                    f"{model}/stats",
                    self.model_statistics,
                    (Verb.READ,),
                    json_of(oip.Statistics),
                ),
                Route(
                    "GET",
                    f"{model}/stream",
                    self.open_stream,
                    (Verb.INFER,),
                    query=headers.STREAM,
                    headers=headers.ROUTING,
                    errors=(400, 426, 503),
                    others={101: ()},
                ),
            ]
        return routes

    def _infer_route(self, path: str) -> Route:
        octets = Content(bytes, OCTETS)
        return Route(
            "POST",
            path,
            self.infer,
            (Verb.INFER,),
            (Content(oip.InferAnswer), octets),
            body=(Content(oip.InferRequest), octets),
            headers=headers.INFERENCE,
            errors=(400, 409, 410, 429, 500, 502, 503, 504),
        )

    async def infer(self, request: web.Request) -> web.Response:
        """Run one inference."""
        body = await read_large_body(
            request,
            arrival_s=self._arrival_s,
            most_bytes=self._inference.limits.max_message_bytes,
            weight=1 if HEADER_LENGTH_NAME in request.headers else JSON_WEIGHT,
        )
        model = ModelName(request.match_info["model"])
        version = ModelVersion(request.match_info.get("version", ""))
        try:
            options, is_explained = options_of(request.headers)
            key = key_of(request)
            options = within_scope(options, key)
            idempotency_key = idempotency_key_of(request.headers)
            header_length = parse_header_length(request.headers.get(HEADER_LENGTH_NAME))
        except CapameshError as error:
            self._inference.refused(model, error)
            raise
        coding = taken_coding(request.headers.get("Accept-Encoding", ""))
        is_packed = request.headers.get("Content-Encoding", "identity") != "identity"
        parent = parsed_traceparent(request.headers.get("traceparent", ""))
        target = InferTarget(
            model,
            version,
            options,
            is_explained,
            parent,
            header_length,
            coding,
            is_packed,
            key=key,
            idempotency_key=idempotency_key,
        )
        replied: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def reply(reply: Reply) -> None:
            if not replied.done():  # its client may have left a turn of the loop before
                replied.set_result(reply)

        exchange = Exchange(self._inference, target, reply, site_of(request.remote or ""))
        try:
            exchange.begin(body)
            return response_of(await replied)
        finally:
            exchange.cancel()

    async def server_metadata(self, _: web.Request) -> web.Response:
        """Return what this server is."""
        return _json(self._descriptions.server())

    async def live(self, _: web.Request) -> web.Response:
        """Return that this process answers."""
        return _json({"live": True})

    async def ready(self, _: web.Request) -> web.Response:
        """Return whether some model can be run; 503 when not."""
        is_ready = self._descriptions.is_ready()
        return _json({"ready": is_ready}, status=200 if is_ready else 503)

    async def model_metadata(self, request: web.Request) -> web.Response:
        """Return a model's inputs and outputs."""
        named = _named(request)
        return _json({**self._descriptions.metadata(*named), **self._descriptions.windows(*named)})

    async def model_config(self, request: web.Request) -> web.Response:
        """Return a model's configuration as Triton words it."""
        return _json(self._descriptions.config(*_named(request)))

    async def model_ready(self, request: web.Request) -> web.Response:
        """Return whether some node can run the model now; 503 when not, 404 when nobody knows it."""
        model, version = _named(request)
        is_ready = self._descriptions.is_model_ready(model, version)
        return _json({"name": model, "ready": is_ready}, status=200 if is_ready else 503)

    async def model_statistics(self, request: web.Request) -> web.Response:
        """Return, as Triton words it, what this router's requests of a model or a version came to since it is hosted."""
        return _json({"model_stats": self._descriptions.statistics(*_named(request))})

    async def open_stream(self, _: web.Request) -> web.Response:
        """Open a WebSocket, on which a model is asked again and again; 426 without `Upgrade: websocket`."""
        text = "this is a WebSocket: ask for it as RFC 6455 says, on a connection without another request before its answer"
        return web.Response(
            status=426,
            body=error_body(text, code_of(426)),
            content_type="application/json",
            headers={"Upgrade": "websocket"},
        )

    async def all_statistics(self, _: web.Request) -> web.Response:
        """Return the statistics of all models that a node has ready; a model that is called `stats` has none of its own."""
        return web.Response(body=await self._statistics.body(), content_type="application/json")

    def _statistics_pieces(self) -> Iterator[bytes]:
        yield b'{"model_stats": ['
        mark = b""
        for entry in self._descriptions.all_statistics():
            yield mark + json.dumps(entry).encode()
            mark = b", "
        yield b"]}"

    async def index(self, request: web.Request) -> web.Response:
        """Return all model versions of the fleet; with `{"ready": true}` just those that can be run."""
        limits = self._inference.limits
        body = await read_body(
            request,
            arrival_s=self._arrival_s,
            most_bytes=min(MOST_INDEX_BYTES, limits.max_json_bytes, limits.max_message_bytes),
        )
        asked = parse_object(body) if body.strip() else {}
        is_ready_only = asked.get("ready", False)
        if not isinstance(is_ready_only, bool):
            raise InvalidRequest(f'"ready" is {is_ready_only!r}; it must be true or false')
        page = self._index_ready if is_ready_only else self._index
        return web.Response(body=await page.body(), content_type="application/json")

    def _index_pieces(self, *, is_ready_only: bool) -> Iterator[bytes]:
        yield b"["
        mark = b""
        for entry in self._descriptions.index(is_ready_only=is_ready_only):
            if entry is None:
                yield b""
            else:
                yield mark + json.dumps(entry).encode()
                mark = b", "
        yield b"]"


def _named(request: web.Request) -> tuple[ModelName, ModelVersion]:
    """Return the model and the version in a request's path; an empty version is any."""
    return ModelName(request.match_info["model"]), ModelVersion(
        request.match_info.get("version", "")
    )


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=json.dumps(value).encode(), content_type="application/json"
    )
