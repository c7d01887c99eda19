"""Clients of gRPC, unmodified, at a router's own port: Triton's, and gRPC's own with the bytes that a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from fleet_fakes import Ask, FakeLink, Reply, echo, failing, hang, offer, parting
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from raw_http import GUARD_S
from router_http import Http
from tidy_router import tidy
from tritonclient.grpc import aio as triton_aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from capamesh.protocol.errors import RunFailed
from capamesh.protocol.tensors import Limits
from capamesh.router.access.keys import Verb
from capamesh.router.grpc import health
from capamesh.router.grpc.health import HEALTH
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.methods import SERVICE
from capamesh.router.grpc.reflection import REFLECTION_METHOD, REFLECTIONS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

INFER, STREAM = f"/{SERVICE}/ModelInfer", f"/{SERVICE}/ModelStreamInfer"
LIVE = f"/{SERVICE}/ServerLive"
ROW = np.array([[1, 2]], np.float32)
IN_STATUS = (("triton_grpc_error", "true"),)
"""The wish of a client that wants errors of a stream as its status."""


def address(http: Http) -> str:
    return f"{http.client.host}:{http.client.port}"


@pytest.fixture
async def channel(http: Http) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address(http)) as channel:
        yield channel


@pytest.fixture
async def client(http: Http) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with triton_aio.InferenceServerClient(address(http)) as client:
        yield client


def x_of(rows: Any) -> triton.InferInput:
    tensor = triton.InferInput("x", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    return tensor


def message(**fields: Any) -> bytes:
    given = {"model_name": "m", "raw_input_contents": [ROW.tobytes()], **fields}
    described = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
    built = CLASSES["ModelInferRequest"](inputs=[described], **given)
    return bytes(built.SerializeToString())


def packed(kind: str, **fields: Any) -> bytes:
    return bytes(CLASSES[kind](**fields).SerializeToString())


async def refused(call: Any, code: str, *texts: str) -> grpc.aio.AioRpcError:
    """See that a call ends with a code whose details have these texts."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert (caught.value.code().name, caught.value.details()) == (code, caught.value.details())
    assert all(text in (caught.value.details() or "") for text in texts), caught.value.details()
    return caught.value


async def guarded(is_so: Callable[[], object]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(GUARD_S):
        while not is_so():
            await asyncio.sleep(0)


async def test_triton_s_client_infers(http: Http, client: Any) -> None:
    http.node("a", echo)
    for at in range(3):
        result = await client.infer("m", [x_of(ROW + at)], model_version="1")
        assert result.as_numpy("y").tolist() == (ROW + at).tolist()
    wanted = [triton.InferRequestedOutput("y")]
    response = (await client.infer("m", [x_of(ROW)], request_id="7", outputs=wanted)).get_response()
    assert (response.id, response.model_name, response.model_version) == ("7", "m", "1")
    # more than any window
    rows = np.arange(6_000_000, dtype=np.float32).reshape(-1, 2)
    results = await asyncio.gather(*(client.infer("m", [x_of(rows + at)]) for at in range(3)))
    for at, result in enumerate(results):
        assert np.array_equal(result.as_numpy("y"), rows + at)


async def test_triton_s_client_learns_what_http_s_clients_learn(http: Http, client: Any) -> None:
    http.node("a", echo)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    versions = (("m", ""), ("m", "1"), ("m", "2"), ("nonesuch", ""))
    assert [await client.is_model_ready(*each) for each in versions] == [True, True, False, False]
    await client.infer("m", [x_of(ROW)])
    told = {
        "/v2": await client.get_server_metadata(as_json=True),
        "/v2/models/m": await client.get_model_metadata("m", as_json=True),
        "/v2/models/m/versions/1": await client.get_model_metadata("m", "1", as_json=True),
    }
    for path, found in told.items():
        assert _texts(found) == _texts(await (await http.client.get(path)).json())
    config = (await client.get_model_config("m", as_json=True))["config"]
    expected = await (await http.client.get("/v2/models/m/config")).json()
    assert config["input"][0]["dims"] == [str(dim) for dim in expected["input"][0]["dims"]]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    for one in ("m", ""):
        (entry,) = (await client.get_inference_statistics(one, as_json=True))["model_stats"]
        assert (entry["name"], entry["version"], entry["inference_count"]) == ("m", "1", "1")
        assert entry["inference_stats"]["success"]["count"] == "1"
    (entry,) = (await client.get_model_repository_index(as_json=True))["models"]
    assert entry == {"name": "m", "version": "1", "state": "READY"}


def _texts(found: Any) -> Any:
    """Return it with numbers as texts, as protobuf's JSON has those of 64 bits."""
    if isinstance(found, dict):
        return {key: _texts(of) for key, of in found.items()}
    return [_texts(of) for of in found] if isinstance(found, list) else str(found)


async def test_triton_s_client_is_told_of_errors_as_http_s_are(http: Http, client: Any) -> None:
    http.node("a", failing(RunFailed("it broke")))
    wrong = x_of(np.zeros((1, 2), np.float32))
    wrong._input.shape[:] = [1, 3]
    for model, tensor, status in (
        ("gone", x_of(ROW), "StatusCode.NOT_FOUND"),
        ("m", x_of(ROW), "StatusCode.INTERNAL"),
        ("m", wrong, "StatusCode.INVALID_ARGUMENT"),
    ):
        data = tensor._raw_content
        with pytest.raises(InferenceServerException) as caught:
            await client.infer(model, [tensor])
        body = {"name": "x", "datatype": "FP32", "shape": list(tensor.shape())}
        body["parameters"] = {"binary_data_size": len(data)}
        head = str({"inputs": [body]}).replace("'", '"').encode()
        path = f"/v2/models/{model}/infer"
        told = await http.infer(head + data, header_length=len(head), path=path)
        assert caught.value.message() == (await told.json())["error"]
        assert caught.value.status() == status


async def test_triton_s_client_streams_in_order(http: Http, client: Any) -> None:
    link = http.node("a", echo)

    async def asked() -> AsyncIterator[dict[str, Any]]:
        for at in range(20):
            model = "gone" if at == 7 else "m"
            yield {"model_name": model, "inputs": [x_of(ROW + at)], "request_id": str(at)}

    found: list[Any] = []
    async for result, error in client.stream_infer(asked()):
        if error is not None:
            assert "no node hosts model 'gone'" in str(error)
            found.append(None)
        else:
            response = result.get_response()
            assert response.parameters["triton_final_response"].bool_param
            assert result.as_numpy("y").tolist() == (ROW + len(found)).tolist()
            found.append(response.id)
    assert found == [None if at == 7 else str(at) for at in range(20)]
    assert len(link.asks) == 19


# one call


async def test_metadata_routes_and_explains(http: Http, channel: grpc.aio.Channel) -> None:
    for peer in "ab":
        http.node(peer, echo)
    wishes = (("x-capamesh-nodes", "b"), ("x-capamesh-explain", "1"))
    call = channel.unary_unary(INFER)(message(), metadata=wishes)
    await call
    told = dict(await call.initial_metadata())
    assert told["x-capamesh-node"] == "b"
    assert '"replicas"' in told["x-capamesh-explanation"]
    wrong = channel.unary_unary(INFER)(message(), metadata=(("x-capamesh-node", "b"),))
    error = await refused(wrong, "INVALID_ARGUMENT", "did you mean X-Capamesh-Nodes?")
    assert dict(error.trailing_metadata())["x-capamesh-error"] == "invalid_request"


async def test_time_of_the_call_is_the_deadline_of_the_request(
    http: Http, channel: grpc.aio.Channel
) -> None:
    link = http.node("a", hang)
    while not link.asks:  # a machine that has other work may take that long to bring it here
        await refused(channel.unary_unary(INFER)(message(), timeout=1.0), "DEADLINE_EXCEEDED")
    (budget_ms,) = link.budgets_ms
    assert budget_ms is not None
    assert 0 < budget_ms <= 1000
    await guarded(link.cancelled.is_set)


async def test_client_that_leaves_takes_its_request_back(
    http: Http, channel: grpc.aio.Channel
) -> None:
    link = http.node("a", hang)
    asked = asyncio.ensure_future(channel.unary_unary(INFER)(message()))
    await link.asked.wait()
    assert http.front.requests.count == 1
    asked.cancel()
    await guarded(link.cancelled.is_set)
    assert http.front.requests.count == 0
    assert await channel.unary_unary(LIVE)(b"") == b"\x08\x01"  # the connection goes on


async def test_many_calls_of_one_connection_are_answered_as_their_answers_come(
    http: Http, channel: grpc.aio.Channel
) -> None:
    asks: list[Ask] = []
    http.node("a", asks.append)
    calls = [channel.unary_unary(INFER)(message(id=str(at))) for at in range(40)]
    waiting = [asyncio.ensure_future(call) for call in calls]
    await guarded(lambda: len(asks) == 40)
    for ask in reversed(asks):
        ask.echo()
    found = [
        CLASSES["ModelInferResponse"].FromString(each) for each in await asyncio.gather(*waiting)
    ]
    assert [each.id for each in found] == [str(at) for at in range(40)]


@pytest.mark.parametrize(
    ("path", "request_", "status", "text"),
    [
        ("/x/Y", b"", "UNIMPLEMENTED", "there is no method '/x/Y'"),
        (f"/{SERVICE}/RepositoryModelLoad", b"", "UNAUTHENTICATED", "takes the operator's key"),
        (INFER, b"\x0a\xff", "INVALID_ARGUMENT", "no ModelInferRequest"),
        (INFER, b"\x0a\xd0\x0f" + b"m" * 2000, "INVALID_ARGUMENT", "the limit of each is 1024"),
        (f"/{SERVICE}/ModelReady", b"\x0a\xff", "INVALID_ARGUMENT", "no ModelReadyRequest"),
        (f"/{SERVICE}/ModelStatistics", b"\x0a\xff", "INVALID_ARGUMENT", "no ModelStatisticsReq"),
        (f"/{SERVICE}/ModelStatistics", b"\x0a\x04gone", "NOT_FOUND", "no node hosts model 'gone'"),
        (f"/{SERVICE}/ModelReady", bytes(20_000), "RESOURCE_EXHAUSTED", "the limit is 16384"),
    ],
)
async def test_call_that_cannot_be_done_is_told_why(
    http: Http, channel: grpc.aio.Channel, path: str, request_: bytes, status: str, text: str
) -> None:
    http.node("a", echo)
    await refused(channel.unary_unary(path)(request_), status, text)


async def test_message_over_the_limit_is_refused() -> None:
    async with tidy(limits=Limits(max_message_bytes=4096)) as http:
        http.node("a", echo)
        async with grpc.aio.insecure_channel(address(http)) as channel:
            call = channel.unary_unary(INFER)
            await refused(call(message(id="x" * 5000)), "RESOURCE_EXHAUSTED", "the limit is 4096")
            await call(message())


async def test_router_that_stops_asks_its_clients_to_leave(
    http: Http, channel: grpc.aio.Channel
) -> None:
    http.node("a", echo)
    infer = channel.unary_unary(INFER)
    await infer(message())
    assert (await http.client.get("/v2/health/live")).status == 200  # by HTTP/1, beside it
    http.front.requests.is_closing = True
    await infer(message())
    await guarded(lambda: len(http.front.connections) <= 1)
    http.front.requests.is_closing = False
    await infer(message())  # the client has come again


async def test_router_that_stops_asks_clients_at_once_and_answers_what_is_under_way(
    http: Http, channel: grpc.aio.Channel
) -> None:
    link = http.node("a", hang)
    own_pool = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address(http), options=own_pool) as busy:
        await channel.unary_unary(LIVE)(b"")
        asked = asyncio.ensure_future(busy.unary_unary(INFER)(message()))
        await guarded(link.asked.is_set)
        before = len(http.front.connections)
        http.front.requests.is_closing = True
        for _ in range(2):
            http.front.ask_to_leave()
        await guarded(lambda: len(http.front.connections) < before)  # the idle one leaves
        assert len(http.front.connections) == before - 1
        link.asks[0].echo()
        await asked
        await guarded(lambda: len(http.front.connections) < before - 1)
        http.front.requests.is_closing = False


async def test_keys_are_taken_in_each_form_for_their_methods_and_tenant(
    http: Http, channel: grpc.aio.Channel
) -> None:
    """Which methods refuse which keys: `test_strangers_read_no_names`."""
    http.node("a", echo)
    infer, check = channel.unary_unary(INFER), channel.unary_unary(f"/{HEALTH}/Check")
    assert await infer(message())  # no key is asked for yet
    mine = http.metadata(Verb.INFER)
    for metadata in (mine, (("x-api-key", mine[0][1][7:]),)):
        assert await infer(message(), metadata=metadata)
    looks, name = ("ModelMetadata", "ModelConfig", "ModelReady"), b"\x0a\x01m"
    for verb, names in ((Verb.INFER, looks), (Verb.READ, (*looks, "ModelStatistics"))):
        for each in names:
            call = channel.unary_unary(f"/{SERVICE}/{each}")(name, metadata=http.metadata(verb))
            assert await call
        server = channel.unary_unary(f"/{SERVICE}/ServerMetadata")
        assert await server(b"", metadata=http.metadata(verb))
    index = channel.unary_unary(f"/{SERVICE}/RepositoryIndex")
    assert await index(b"", metadata=http.metadata(Verb.READ))
    another = (*mine, ("x-capamesh-tenant", "another"))
    await refused(infer(message(), metadata=another), "PERMISSION_DENIED")
    assert await check(b"")
    await refused(check(name, metadata=mine), "UNAUTHENTICATED")


# a stream


def node(http: Http, *script: Reply) -> FakeLink:
    return http.node("a", *script, models=(replace(offer(), max_parts=1000),))


def parsed(data: Any) -> Any:
    return service_pb2.ModelStreamInferResponse.FromString(data)


def value_of(data: Any) -> float:
    return float(np.frombuffer(parsed(data).infer_response.raw_output_contents[0], np.float32)[0])


async def asked(channel: grpc.aio.Channel, **fields: Any) -> list[Any]:
    """Send one request, and return all that comes until the stream ends."""
    call = channel.stream_stream(STREAM)()
    await call.write(message(**fields))
    await call.done_writing()
    return [parsed(data) async for data in call]


def is_final(found: Any) -> bool:
    value = found.infer_response.parameters["triton_final_response"]
    assert value.WhichOneof("parameter_choice") == "bool_param"
    return bool(value.bool_param)


async def test_triton_s_client_is_given_each_part_and_told_which_is_the_last(
    http: Http, client: Any
) -> None:
    link = node(http, parting(4))

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for name in ("first", "second"):
            yield {"model_name": "m", "inputs": [x_of(ROW)], "request_id": name}

    found: list[tuple[str, float, bool]] = []
    async for result, error in client.stream_infer(requests()):
        assert error is None
        response = result.get_response()
        last = response.parameters["triton_final_response"].bool_param
        found.append((response.id, float(result.as_numpy("y")[0, 0]), last))
    one = [(1.0, False), (2.0, False), (3.0, False), (4.0, True)]
    assert found == [(name, *each) for name in ("first", "second") for each in one]
    assert [ask.call.takes_parts for ask in link.asks] == [True, True]


async def test_last_message_may_be_empty_on_request(http: Http, channel: grpc.aio.Channel) -> None:
    link = node(http, parting(2), parting(1), parting(1))
    wish = {"triton_enable_empty_final_response": {"bool_param": True}}
    found = await asked(channel, id="7", parameters=wish)
    assert [is_final(each) for each in found] == [False, False, True]
    assert [len(each.infer_response.outputs) for each in found] == [1, 1, 0]
    assert {each.infer_response.id for each in found} == {"7"}
    # a call that is unary is answered whole
    data = await channel.unary_unary(INFER)(message())
    assert not CLASSES["ModelInferResponse"].FromString(data).parameters
    assert [ask.call.takes_parts for ask in link.asks] == [True, False]
    # one answer is its own last message
    http.node("b", echo, models=(offer("n"),))
    (one,) = await asked(channel, model_name="n", parameters=wish)
    assert is_final(one)


async def test_answer_that_breaks_off_is_told_in_band_with_the_request_s_id_or_as_a_status(
    http: Http, channel: grpc.aio.Channel
) -> None:
    node(http, parting(3, end=RunFailed("it fell over")))
    said = "the answer broke off after 2 parts: it fell over"
    *parts, last = await asked(channel, id="7")
    assert [is_final(each) for each in parts] == [False, False]
    assert (last.error_message, last.infer_response.id) == (said, "7")
    (wrong,) = await asked(channel, id="8", parameters={"priority": {"int64_param": -1}})
    assert (wrong.error_message != "", wrong.infer_response.id) == (True, "8")
    for fields, parts_before, code in (
        ({}, 2, "INTERNAL"),
        ({"model_name": "gone"}, 0, "NOT_FOUND"),
    ):
        call = channel.stream_stream(STREAM)(metadata=IN_STATUS)
        await call.write(message(**fields))
        assert [value_of(await call.read()) for _ in range(parts_before)] == [1, 2][:parts_before]
        await refused(call.read(), code, said if parts_before else "gone")


async def test_client_that_cancels_stops_the_node(http: Http, channel: grpc.aio.Channel) -> None:
    link = node(http, parting(1000))
    call = channel.stream_stream(STREAM)()
    await call.write(message())
    assert value_of(await call.read()) == 1
    call.cancel()
    await guarded(link.cancelled.is_set)
    assert link.asks[0].ended == "withdrawn"


async def test_client_that_does_not_read_stops_its_own_answer_alone(http: Http) -> None:
    link = node(http, parting(30, rows=50_000))  # 400 KB each, more than a client takes ahead
    fixed = [("grpc.http2.bdp_probe", 0)]  # else the client's window grows to megabytes
    async with grpc.aio.insecure_channel(address(http), options=fixed) as channel:
        slow, quick = channel.stream_stream(STREAM)(), channel.stream_stream(STREAM)()
        await slow.write(message(id="slow"))
        assert value_of(await slow.read()) == 1
        await quick.write(message(id="quick"))
        assert [value_of(await quick.read()) for _ in range(30)] == [*range(1, 31)]
        assert link.asks[1].ended == "answered"
        assert not link.asks[0].ended  # 12 MB of it have still to come
        assert len(link.released) - 29 < 5
        assert [value_of(await slow.read()) for _ in range(29)] == [*range(2, 31)]
        slow.cancel()
        quick.cancel()


async def test_key_that_is_revoked_ends_a_stream_that_goes_on(
    http: Http, channel: grpc.aio.Channel
) -> None:
    http.node("a", echo)
    text = http.key()
    call = channel.stream_stream(STREAM)(metadata=(("authorization", f"Bearer {text}"),))
    await call.write(message())
    assert await call.read()
    http.revoke(text)
    await call.write(message())
    await refused(call.read(), "UNAUTHENTICATED")


# health

SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOK_EVERY_S", 0.001)


def watch(channel: grpc.aio.Channel, service: str = "") -> Any:
    asked_for = packed("HealthCheckRequest", service=service)
    return channel.unary_stream(f"/{HEALTH}/Watch")(asked_for)


async def state(call: Any) -> int:
    async with asyncio.timeout(GUARD_S):
        return int(CLASSES["HealthCheckResponse"].FromString(await call.read()).status)


async def test_health_is_that_of_the_router_and_of_each_model(
    http: Http, channel: grpc.aio.Channel
) -> None:
    check = channel.unary_unary(f"/{HEALTH}/Check")

    async def found(service: str) -> int:
        data = await check(packed("HealthCheckRequest", service=service))
        return int(CLASSES["HealthCheckResponse"].FromString(data).status)

    assert await found("") == NOT_SERVING  # no node
    assert await channel.unary_unary(f"/{SERVICE}/ServerReady")(b"") == b""
    http.node("a", echo)
    assert [await found(each) for each in ("", SERVICE, HEALTH, "m")] == [SERVING] * 4
    await refused(found("gone"), "NOT_FOUND")


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("service", ["", SERVICE, "m"])
async def test_watch_tells_the_first_state_and_each_other_one(
    http: Http, channel: grpc.aio.Channel, service: str
) -> None:
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
async def test_watch_ends_where_the_router_stops(http: Http, channel: grpc.aio.Channel) -> None:
    call = watch(channel)
    assert await state(call) == NOT_SERVING
    http.front.requests.is_closing = True
    await refused(state(call), "UNAVAILABLE", "this router stops")


async def test_no_more_than_so_many_watch(
    http: Http, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MOST_WATCHES", 2)
    calls = [watch(channel) for _ in range(2)]
    assert [await state(call) for call in calls] == [NOT_SERVING, NOT_SERVING]
    await refused(state(watch(channel)), "UNAVAILABLE")
    calls.pop(0).cancel()
    async with asyncio.timeout(GUARD_S):
        while len(calls) < 2:
            call = watch(channel)
            try:
                assert await state(call) == NOT_SERVING
                calls.append(call)
            except grpc.aio.AioRpcError:  # the router has not heard yet
                await asyncio.sleep(0)
    for each in calls:
        each.cancel()


@pytest.mark.usefixtures("often")
async def test_watch_of_a_model_ends_once_keys_are_asked_for(
    http: Http, channel: grpc.aio.Channel
) -> None:
    http.node("a", echo)
    of_model, of_all = watch(channel, "m"), watch(channel)
    assert [await state(of_model), await state(of_all)] == [SERVING, SERVING]
    http.metadata()
    await refused(state(of_model), "UNAUTHENTICATED")
    http.endpoints[0].link = None
    assert await state(of_all) == NOT_SERVING
    of_all.cancel()


# reflection


async def reflected(
    channel: grpc.aio.Channel, *asked: dict[str, Any], service: str = REFLECTIONS[0]
) -> list[Any]:
    call = channel.stream_stream(f"/{service}/{REFLECTION_METHOD}")()
    found = []
    for each in asked:
        await call.write(packed("ServerReflectionRequest", **each))
        async with asyncio.timeout(GUARD_S):
            found.append(CLASSES["ServerReflectionResponse"].FromString(await call.read()))
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK
    return found


def file_of(described: Any) -> descriptor_pb2.FileDescriptorProto:
    (encoded,) = described.file_descriptor_response.file_descriptor_proto
    return descriptor_pb2.FileDescriptorProto.FromString(encoded)


@pytest.mark.parametrize("service", REFLECTIONS)
async def test_client_that_knows_nothing_infers_by_reflection(
    http: Http, channel: grpc.aio.Channel, service: str
) -> None:
    http.node("a", echo)
    listed, described = await reflected(
        channel, {"list_services": ""}, {"file_containing_symbol": SERVICE}, service=service
    )
    names = [each.name for each in listed.list_services_response.service]
    assert names == [HEALTH, *REFLECTIONS, SERVICE]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file_of(described))
    infer = pool.FindServiceByName(SERVICE).FindMethodByName("ModelInfer")
    asked, answer = map(message_factory.GetMessageClass, (infer.input_type, infer.output_type))
    request = asked(model_name="m", raw_input_contents=[bytes(8)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.parameters["priority"].int64_param = 3
    told = await channel.unary_unary(f"/{SERVICE}/{infer.name}")(request.SerializeToString())
    assert [each.name for each in answer.FromString(told).outputs] == ["y"]


async def test_every_method_that_is_described_is_there(channel: grpc.aio.Channel) -> None:
    for service in (HEALTH, *REFLECTIONS, SERVICE):
        (described,) = await reflected(channel, {"file_containing_symbol": service})
        file = file_of(described)
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
    channel: grpc.aio.Channel, asked: dict[str, Any], code: int, text: str
) -> None:
    none = {"all_extension_numbers_of_type": "inference.ModelInferRequest"}
    told, without = await reflected(channel, {**asked, "host": "h"}, none)
    assert told.valid_host == told.original_request.host == "h"
    assert told.error_response.error_code == code
    assert text in told.error_response.error_message
    response = without.all_extension_numbers_response
    assert response.base_type_name == none["all_extension_numbers_of_type"]
    assert list(response.extension_number) == []


async def test_reflection_takes_any_key_where_keys_are_asked_for(
    http: Http, channel: grpc.aio.Channel
) -> None:
    reflect = channel.stream_stream(f"/{REFLECTIONS[0]}/{REFLECTION_METHOD}")
    call = reflect()
    await call.write(b"\x0a\xff")
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no ServerReflectionRequest" in (await call.details() or "")
    mine = http.metadata()
    call = reflect()
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    call = reflect(metadata=mine)
    await call.write(packed("ServerReflectionRequest", list_services=""))
    assert len(await call.read()) > 0
    await call.done_writing()
