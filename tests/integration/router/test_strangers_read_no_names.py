"""Every route and method of every wire, by whoever has no key for it: refused, and told no name of a model or a node.

The cases are made from the tables of routes and methods, so that a new one is among them.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import grpc
import pytest
from fleet_fakes import echo, offer
from raw_http import GUARD_S
from route_paths import filled
from router_http import Http, bearer
from ws_client import connected

from capamesh.router.access.keys import Verb
from capamesh.router.grpc.lookups import Method
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.server import GrpcServer
from capamesh.router.http.route import Route

BY_GRPC = pytest.mark.real_loop("grpcio has sockets of its own")
UNKNOWN = "cm_unknown0_" + 32 * "0"

NODE, MODEL, TENANT = "node-of-others", "model-of-others", "tenant-of-others"
NONESUCH = "model-of-nobody"
INPUT = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
BODY = {"inputs": [{**INPUT, "data": [1, 2]}]}
OPEN_ROUTES = {
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("POST", "/login"),
    ("POST", "/logout"),
}
OPEN_METHODS = {"ServerLive", "ServerReady", "Check", "Watch"}
"""The methods that need no key; those of health refuse to speak of a model."""


class Told(NamedTuple):
    """What a client was told."""

    status: str
    is_refused: bool
    text: str
    """All that it can read but the date: headers and body, or messages and trailers."""

    @property
    def names(self) -> list[str]:
        return [name for name in (NODE, MODEL, TENANT) if name in self.text]


@pytest.fixture
async def http(http: Http) -> Http:
    """A router that has models, nodes and tenants of others, in all that is counted, kept and shown."""
    http.node(NODE, echo, models=(offer(MODEL),))
    other = http.bearer(tenant=TENANT)
    reply = await http.infer(BODY, path=f"/v2/models/{MODEL}/infer", headers=other)
    assert reply.status == 200
    return http


def methods(http: Http) -> dict[str, Method]:
    guests = http.front.guests
    assert isinstance(guests, GrpcServer)
    return {path.decode(): method for path, method in guests._context.methods._by_path.items()}


async def ask(http: Http, route: Route, text: str, model: str = MODEL) -> Told:
    """Ask a route as one that has such a key, or none."""
    path = filled(route.path, model=model, peer=NODE)
    body = json.dumps(BODY | {"model": model, "input": "x"}).encode()
    data = None if route.method == "GET" else body
    headers = bearer(text) if text else {}
    response = await http.client.request(
        route.method, path, data=data, headers=headers, allow_redirects=False
    )
    if "event-stream" in response.headers.get("Content-Type", ""):
        response.close()
        return Told("200", False, "")
    if response.status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
    undated = {name: line for name, line in response.headers.items() if name != "Date"}
    shown = f"{undated} {await response.text()}"
    code = response.headers.get("X-Capamesh-Error", "")
    is_refused = (response.status, code) in {(401, "unauthenticated"), (403, "forbidden")}
    assert is_refused is (response.status in {401, 403})
    return Told(str(response.status), is_refused, shown)


async def call(http: Http, path: str, text: str, model: str = MODEL) -> Told:
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
        made: Any = CLASSES[kind]()
        for field in ("name", "model_name", "service"):
            if field in made.DESCRIPTOR.fields_by_name:
                setattr(made, field, model)
        message = made.SerializeToString()
    metadata = [("authorization", f"Bearer {text}")] if text else []
    async with grpc.aio.insecure_channel(f"{http.client.host}:{http.client.port}") as channel:
        found = channel.unary_stream(path)(message, metadata=metadata, timeout=GUARD_S)
        shown: list[str] = []
        try:
            async for each in found:
                shown.append(repr(each))
                if name == "Watch":  # it lasts
                    found.cancel()
                    return Told("OK", False, " ".join(shown))
        except grpc.aio.AioRpcError:
            pass
        code = await found.code()
        shown += [str(await found.details()), str(await found.trailing_metadata())]
    refused = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
    # Triton's streams have errors in messages
    return Told(code.name, code in refused or "the key" in " ".join(shown), " ".join(shown))


async def test_route_takes_the_keys_that_are_for_it_and_tells_others_no_name(http: Http) -> None:
    of_each = {verb: http.key(verb, models=("mine",)) for verb in Verb}
    of_all = {verb: http.key(verb) for verb in Verb}
    told_of = 0
    for route in http.routes:
        if not route.verbs:
            assert (route.method, route.path) in OPEN_ROUTES
            assert (await ask(http, route, "")).names == []
            continue
        without = [text for verb, text in of_each.items() if verb not in route.verbs]
        for text in ("", UNKNOWN, *without):
            told = await ask(http, route, text)
            assert (told.is_refused, told.names) == (True, []), (route.method, route.path, told)
        for text in ("secret", *(text for verb, text in of_all.items() if verb in route.verbs)):
            told = await ask(http, route, text)
            assert not told.is_refused, (route.method, route.path, told)
            told_of += bool(told.names)
    assert told_of >= 5  # those who may see them do
    http.log.events.clear()  # what operators have changed


@BY_GRPC
async def test_method_of_grpc_is_refused_to_every_key_that_is_not_for_it(http: Http) -> None:
    of_each = {verb: http.key(verb, models=("mine",)) for verb in Verb}
    found = methods(http)
    assert {each.name for each in found.values() if not each.verbs} == OPEN_METHODS
    for path, method in found.items():
        if not method.verbs:
            assert (await call(http, path, "")).names == []
            continue
        without = [text for verb, text in of_each.items() if verb not in method.verbs]
        for text in ("", UNKNOWN, *without):
            told = await call(http, path, text)
            assert (told.is_refused, told.names) == (True, []), (path, told)


async def test_key_for_a_model_cannot_tell_others_models_from_none(http: Http) -> None:
    own = http.key(models=("mine",))
    for route in http.routes:
        mine, told, none = [await ask(http, route, own, of) for of in ("mine", MODEL, NONESUCH)]
        assert (mine.names, told.status) == ([], none.status), (route.method, route.path)
        assert told.text.replace(MODEL, "") == none.text.replace(NONESUCH, ""), route.path


@BY_GRPC
async def test_key_for_a_model_cannot_tell_others_models_from_none_by_grpc(http: Http) -> None:
    own = http.key(models=("mine",))
    for path in methods(http):
        mine, told, none = [await call(http, path, own, of) for of in ("mine", MODEL, NONESUCH)]
        assert (mine.names, told.status) == ([], none.status), path
        assert told.text.replace(MODEL, "") == none.text.replace(NONESUCH, ""), path


async def test_stream_is_refused_before_it_is_one(http: Http) -> None:
    texts = ["", UNKNOWN, *(http.key(verb, models=("mine",)) for verb in Verb)]
    streams = [route.path for route in http.routes if route.path.endswith("/stream")]
    assert len(streams) == 2
    for path in streams:
        for text in texts:
            answers: list[bytes] = []
            for model in (MODEL, NONESUCH):
                place = path.replace("{model}", model).replace("{version}", "1")
                lines = [f"Authorization: Bearer {text}"] if text else []
                client = await connected(http, place, *lines)
                assert client.status in {401, 403}, client.answer
                assert NODE.encode() not in client.answer
                undated = re.sub(rb"Date: [^\r]+\r\n", b"", client.answer)
                answers.append(undated.replace(model.encode(), b""))
                client.leave()
            assert answers[0] == answers[1]
