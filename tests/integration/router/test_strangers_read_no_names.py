"""Every route and method of every wire, by whoever has no key for it: refused, and told no name of a model or a node.

The cases are made from the tables of routes and methods, so that a new one is among them.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
import pytest
from fleet_fakes import echo, offer
from raw_http import GUARD_S
from route_paths import filled
from router_http import Http, serving
from ws_client import connected

from capamesh.router.access.keys import ALPHABET, Key, Scope, Verb, digest_of, id_of, new_text
from capamesh.router.grpc.lookups import Method
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.server import GrpcServer
from capamesh.router.http.route import Route

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NODE, MODEL, TENANT = "node-of-others", "model-of-others", "tenant-of-others"
NONESUCH = "model-of-nobody"
INPUT = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
BODY = {"inputs": [{**INPUT, "data": [1, 2]}]}
OPEN_ROUTES = {("GET", "/v2/health/live"), ("GET", "/v2/health/ready")}
OPEN_METHODS = {"ServerLive", "ServerReady", "Check", "Watch"}
"""The methods that need no key; those of health refuse to speak of a model."""


class Told(NamedTuple):
    """What a client was told."""

    status: str
    is_refused: bool
    text: str
    """All that it can read but the date: headers and body, or messages and trailers."""

    def names(self) -> list[str]:
        return [name for name in (NODE, MODEL, TENANT) if name in self.text]


class Clients:
    """Clients with keys of all sorts for one router, which has models, nodes and tenants of others."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self._made: list[Key] = []
        self._draws = iter(ALPHABET * 200)

    def key(self, *verbs: Verb, tenant: str = "lab", **scope: Any) -> str:
        text = new_text(lambda _: next(self._draws))
        made = Scope(verbs=verbs, **scope)
        self._made.append(Key(id_of(text), digest_of(text), tenant, made))
        self.http.front.keys.ring.take(self._made, 0.0, 0.0)
        return text

    @property
    def methods(self) -> dict[str, Method]:
        guests = self.http.front.guests
        assert isinstance(guests, GrpcServer)
        found = guests._context.methods._by_path
        return {path.decode(): method for path, method in found.items()}

    async def ask(self, route: Route, text: str, model: str = MODEL) -> Told:
        """Ask a route as one that has such a key, or none."""
        path = filled(route.path, model=model, peer=NODE)
        body = json.dumps(BODY | {"model": model, "input": "x"}).encode()
        headers = {"Authorization": f"Bearer {text}"} if text else {}
        response = await self.http.client.request(
            route.method, path, data=None if route.method == "GET" else body, headers=headers
        )
        if "event-stream" in response.headers.get("Content-Type", ""):
            response.close()
            return Told("200", False, "")
        undated = {name: line for name, line in response.headers.items() if name != "Date"}
        shown = f"{undated} {await response.text()}"
        return Told(str(response.status), response.status in {401, 403}, shown)

    async def call(self, path: str, text: str, model: str = MODEL) -> Told:
        """Call a method as one that has such a key, or none."""
        name = path.rpartition("/")[2]
        kind = {
            "ModelStreamInfer": "ModelInferRequest",
            "Check": "HealthCheckRequest",
            "Watch": "HealthCheckRequest",
            "ServerReflectionInfo": "ServerReflectionRequest",
        }.get(name, f"{name}Request")
        message = b""
        if kind in CLASSES:
            made = CLASSES[kind]()
            for field in ("name", "model_name", "service"):
                if field in made.DESCRIPTOR.fields_by_name:
                    setattr(made, field, model)
            message = made.SerializeToString()
        metadata = [("authorization", f"Bearer {text}")] if text else []
        client = self.http.client
        async with grpc.aio.insecure_channel(f"{client.host}:{client.port}") as channel:
            call = channel.unary_stream(path)(message, metadata=metadata, timeout=GUARD_S)
            shown: list[str] = []
            try:
                async for each in call:
                    shown.append(repr(each))
                    if name == "Watch":  # it lasts
                        call.cancel()
                        return Told("OK", False, " ".join(shown))
            except grpc.aio.AioRpcError:
                pass
            code = await call.code()
            shown += [str(await call.details()), str(await call.trailing_metadata())]
        refused = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
        # Triton's streams have errors in messages
        is_refused = code in refused or "the key" in " ".join(shown)
        return Told(code.name, is_refused, " ".join(shown))


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with serving() as http:
        http.node(NODE, echo, models=(offer(MODEL),))
        clients = Clients(http)
        other = clients.key(Verb.INFER, tenant=TENANT)
        headers = {"Authorization": f"Bearer {other}"}
        # it is in what is counted, kept and shown
        reply = await http.infer(BODY, path=f"/v2/models/{MODEL}/infer", headers=headers)
        assert reply.status == 200
        yield clients


async def test_route_is_refused_to_every_key_that_is_not_for_it(clients: Clients) -> None:
    of_each = {verb: clients.key(verb, models=("mine",)) for verb in Verb}
    asked = 0
    for route in clients.http.routes:
        if not route.verbs:
            assert (route.method, route.path) in OPEN_ROUTES
            assert (await clients.ask(route, "")).names() == []
            continue
        without = [text for verb, text in of_each.items() if verb not in route.verbs]
        for text in ("", "cm_unknown0_" + 32 * "0", *without):
            told = await clients.ask(route, text)
            assert told.is_refused, (route.method, route.path, told)
            assert told.names() == [], (route.method, route.path, told)
            asked += 1
    assert asked > 2 * len(clients.http.routes)


async def test_method_of_grpc_is_refused_to_every_key_that_is_not_for_it(clients: Clients) -> None:
    of_each = {verb: clients.key(verb, models=("mine",)) for verb in Verb}
    assert {each.name for each in clients.methods.values() if not each.verbs} == OPEN_METHODS
    asked = 0
    for path, method in clients.methods.items():
        if not method.verbs:
            assert (await clients.call(path, "")).names() == []
            continue
        without = [text for verb, text in of_each.items() if verb not in method.verbs]
        for text in ("", "cm_unknown0_" + 32 * "0", *without):
            told = await clients.call(path, text)
            assert told.is_refused, (path, told)
            assert told.names() == [], (path, told)
            asked += 1
    assert asked > 2 * len(clients.methods)


async def test_key_for_a_model_reads_no_other_name_on_any_wire(clients: Clients) -> None:
    own = clients.key(Verb.INFER, models=("mine",))
    for route in clients.http.routes:
        told = await clients.ask(route, own, "mine")
        assert told.names() == [], (route.method, route.path, told)
    for path in clients.methods:
        told = await clients.call(path, own, "mine")
        assert told.names() == [], (path, told)


async def test_key_for_a_model_cannot_tell_others_models_from_none(clients: Clients) -> None:
    own = clients.key(Verb.INFER, models=("mine",))
    for route in clients.http.routes:
        told, of_none = [await clients.ask(route, own, model) for model in (MODEL, NONESUCH)]
        assert told.status == of_none.status, (route.method, route.path)
        assert told.text.replace(MODEL, "") == of_none.text.replace(NONESUCH, ""), route.path
    for path in clients.methods:
        told, of_none = [await clients.call(path, own, model) for model in (MODEL, NONESUCH)]
        assert told.status == of_none.status, path
        assert told.text.replace(MODEL, "") == of_none.text.replace(NONESUCH, ""), path


async def test_stream_is_refused_before_it_is_one(clients: Clients) -> None:
    texts = ["", "cm_unknown0_" + 32 * "0"]
    texts += [clients.key(verb, models=("mine",)) for verb in Verb]
    streams = [route.path for route in clients.http.routes if route.path.endswith("/stream")]
    assert len(streams) == 2
    for path in streams:
        for text in texts:
            answers: list[bytes] = []
            for model in (MODEL, NONESUCH):
                place = path.replace("{model}", model).replace("{version}", "1")
                lines = [f"Authorization: Bearer {text}"] if text else []
                client = await connected(clients.http, place, *lines)
                assert client.status in {401, 403}, client.answer
                assert NODE.encode() not in client.answer
                undated = re.sub(rb"Date: [^\r]+\r\n", b"", client.answer)
                answers.append(undated.replace(model.encode(), b""))
                client.leave()
            assert answers[0] == answers[1]
