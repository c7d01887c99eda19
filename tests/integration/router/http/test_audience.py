"""Addresses that are for clients, or for operators, alone: each route and method of the others' is refused, on every wire."""

from __future__ import annotations

import re

import aiohttp
import grpc
import pytest
from fleet_fakes import echo
from router_http import INFER, serving
from tidy_router import json_body
from tritonclient.grpc import service_pb2, service_pb2_grpc

from capamesh.router.access.audience import Audience

BODY = json_body("one")
BOTH = pytest.mark.parametrize("audience", [Audience.CLIENTS, Audience.OPERATORS])


@BOTH
async def test_each_route_is_served_or_refused_by_whom_it_is_for(audience: Audience) -> None:
    async with serving(audience=audience) as http:
        http.node("A", echo)
        seen = set()
        for route in http.routes:
            if not audience.is_served(route.verbs):
                path = re.sub("{[a-z]+}", "m", route.path)
                response = await http.client.request(route.method, path)
                error = (await response.json())["error"]
                said = error["message"] if isinstance(error, dict) else error
                assert (response.status, said) == (403, audience.refusal().message), route
                seen.add(route.path)
        assert seen >= (
            {"/metrics", "/v1/nodes", "/v2/repository/index", "/"}
            if audience is Audience.CLIENTS
            else {INFER.replace("/m/", "/{model}/"), "/v1/embeddings"}
        )
        for path in ("/v2/health/live", "/v2", "/v2/models/m", "/openapi.json"):
            response = await http.client.get(path)
            assert response.status == 200, path


async def test_operators_run_no_model_on_any_way() -> None:
    async with serving(audience=Audience.OPERATORS) as http:
        link = http.node("A", echo)
        response = await http.infer(BODY)
        assert (response.status, response.headers["X-Capamesh-Error"]) == (403, "forbidden")
        refused = await http.client.post(INFER, data=BODY, chunked=True)
        assert refused.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await http.client.session.ws_connect("/v2/models/m/stream")
        assert error.value.status == 403
        assert (await http.client.get("/metrics")).status == 200
        assert (await http.client.get("/v1/nodes")).status == 200
        assert link.asks == []


@BOTH
@pytest.mark.real_loop("grpcio has sockets of its own")
async def test_methods_go_by_the_same_rule(audience: Audience) -> None:
    async with (
        serving(audience=audience) as http,
        grpc.aio.insecure_channel(f"{http.client.host}:{http.client.port}") as channel,
    ):
        link = http.node("A", echo)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="m"))
        of_others = (
            stub.RepositoryIndex(service_pb2.RepositoryIndexRequest())
            if audience is Audience.CLIENTS
            else stub.ModelInfer(service_pb2.ModelInferRequest(model_name="m"))
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await of_others
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert error.value.details() == audience.refusal().message
        assert link.asks == []
        if audience is Audience.OPERATORS:
            found = await stub.RepositoryIndex(service_pb2.RepositoryIndexRequest())
            assert [one.name for one in found.models] == ["m"]
