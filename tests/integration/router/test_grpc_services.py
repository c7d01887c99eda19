"""Health that is watched, and reflection, over gRPC's own client."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from fleet_fakes import echo, offer
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from raw_http import GUARD_S
from router_http import Http

from capamesh.router.grpc import health
from capamesh.router.grpc.health import HEALTH
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.methods import SERVICE
from capamesh.router.grpc.reflection import REFLECTION_METHOD, REFLECTIONS

SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOK_EVERY_S", 0.001)


def address(http: Http) -> str:
    return f"{http.client.host}:{http.client.port}"


def watch(channel: grpc.aio.Channel, service: str = "") -> Any:
    request = CLASSES["HealthCheckRequest"](service=service).SerializeToString()
    return channel.unary_stream(f"/{HEALTH}/Watch")(request)


async def state(call: Any) -> int:
    async with asyncio.timeout(GUARD_S):
        return int(CLASSES["HealthCheckResponse"].FromString(await call.read()).status)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("service", ["", SERVICE, "m"])
async def test_watch_tells_the_first_state_and_each_other_one(http: Http, service: str) -> None:
    async with grpc.aio.insecure_channel(address(http)) as channel:
        call = watch(channel, service)
        assert await state(call) == NOT_SERVING
        http.node("a", echo)
        assert await state(call) == SERVING
        other = watch(channel, "other")
        assert await state(other) == UNKNOWN
        http.endpoints[0].link = None
        assert await state(call) == NOT_SERVING
        http.node("b", echo, models=(offer("other"),))  # it was waited for
        assert await state(other) == SERVING
        assert http.front.requests.count == 0  # no one waits for its end
        for each in (call, other):
            each.cancel()


@pytest.mark.usefixtures("often")
async def test_watch_ends_where_the_router_stops(http: Http) -> None:
    async with grpc.aio.insecure_channel(address(http)) as channel:
        call = watch(channel)
        assert await state(call) == NOT_SERVING
        http.front.requests.is_closing = True
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await state(call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "this router stops" in (caught.value.details() or "")


async def test_no_more_than_so_many_watch(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_WATCHES", 2)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        calls = [watch(channel) for _ in range(2)]
        assert [await state(call) for call in calls] == [NOT_SERVING, NOT_SERVING]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await state(watch(channel))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        calls[0].cancel()
        async with asyncio.timeout(GUARD_S):
            while True:
                call = watch(channel)
                try:
                    assert await state(call) == NOT_SERVING
                    break
                except grpc.aio.AioRpcError:  # the router has not heard yet
                    await asyncio.sleep(0)
        for each in (call, calls[1]):
            each.cancel()


@pytest.mark.usefixtures("often")
async def test_watch_of_a_model_ends_once_keys_are_asked_for(http: Http) -> None:
    http.node("a", echo)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        of_model, of_all = watch(channel, "m"), watch(channel)
        assert [await state(of_model), await state(of_all)] == [SERVING, SERVING]
        http.metadata()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await state(of_model)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        http.endpoints[0].link = None
        assert await state(of_all) == NOT_SERVING
        of_all.cancel()


async def reflected(channel: grpc.aio.Channel, *asked: dict[str, Any], service: str) -> list[Any]:
    call = channel.stream_stream(f"/{service}/{REFLECTION_METHOD}")()
    found = []
    for each in asked:
        await call.write(CLASSES["ServerReflectionRequest"](**each).SerializeToString())
        async with asyncio.timeout(GUARD_S):
            found.append(CLASSES["ServerReflectionResponse"].FromString(await call.read()))
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK
    return found


@pytest.mark.parametrize("service", REFLECTIONS)
async def test_client_that_knows_nothing_infers_by_reflection(http: Http, service: str) -> None:
    http.node("a", echo)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        listed, described = await reflected(
            channel, {"list_services": ""}, {"file_containing_symbol": SERVICE}, service=service
        )
        assert [each.name for each in listed.list_services_response.service] == [
            HEALTH,
            *REFLECTIONS,
            SERVICE,
        ]
        (encoded,) = described.file_descriptor_response.file_descriptor_proto
        pool = descriptor_pool.DescriptorPool()
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(encoded))
        infer = pool.FindServiceByName(SERVICE).FindMethodByName("ModelInfer")
        asked, answer = map(message_factory.GetMessageClass, (infer.input_type, infer.output_type))
        request = asked(model_name="m", raw_input_contents=[bytes(8)])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        request.parameters["priority"].int64_param = 3
        told = await channel.unary_unary(f"/{SERVICE}/{infer.name}")(request.SerializeToString())
        assert [each.name for each in answer.FromString(told).outputs] == ["y"]


async def test_every_method_that_is_described_is_there(http: Http) -> None:
    async with grpc.aio.insecure_channel(address(http)) as channel:
        for service in (HEALTH, *REFLECTIONS, SERVICE):
            (described,) = await reflected(
                channel, {"file_containing_symbol": service}, service=REFLECTIONS[0]
            )
            (encoded,) = described.file_descriptor_response.file_descriptor_proto
            file = descriptor_pb2.FileDescriptorProto.FromString(encoded)
            (found,) = file.service
            assert f"{file.package}.{found.name}" == service
            for method in found.method:
                call = channel.stream_stream(f"/{service}/{method.name}")()
                await call.done_writing()
                assert await call.code() is not grpc.StatusCode.UNIMPLEMENTED, method.name


@pytest.mark.parametrize(
    ("asked", "code", "text"),
    [
        ({"file_containing_symbol": "no.Such"}, 5, "there is no 'no.Such' here"),
        ({"file_by_filename": "no.proto"}, 5, "there is no 'no.proto' here"),
        ({"all_extension_numbers_of_type": "no.Such"}, 5, "there is no 'no.Such' here"),
        ({"file_containing_extension": {"containing_type": "a.B"}}, 5, "extension of a.B"),
        ({}, 3, "asks for nothing"),
    ],
)
async def test_name_that_nothing_has_is_told_so(
    http: Http, asked: dict[str, Any], code: int, text: str
) -> None:
    none = {"all_extension_numbers_of_type": "inference.ModelInferRequest"}
    async with grpc.aio.insecure_channel(address(http)) as channel:
        told, without = await reflected(
            channel, {**asked, "host": "h"}, none, service=REFLECTIONS[0]
        )
    assert told.valid_host == told.original_request.host == "h"
    assert told.error_response.error_code == code
    assert text in told.error_response.error_message
    response = without.all_extension_numbers_response
    assert response.base_type_name == none["all_extension_numbers_of_type"]
    assert list(response.extension_number) == []


async def test_reflection_takes_any_key_where_keys_are_asked_for(http: Http) -> None:
    path = f"/{REFLECTIONS[0]}/{REFLECTION_METHOD}"
    asked = CLASSES["ServerReflectionRequest"](list_services="").SerializeToString()
    async with grpc.aio.insecure_channel(address(http)) as channel:
        call = channel.stream_stream(path)()
        await call.write(b"\x0a\xff")
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "no ServerReflectionRequest" in (await call.details() or "")
        mine = http.metadata()
        call = channel.stream_stream(path)()
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        call = channel.stream_stream(path)(metadata=mine)
        await call.write(asked)
        assert len(await call.read()) > 0
        await call.done_writing()
