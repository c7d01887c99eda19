"""Clients of gRPC, unmodified, at a router's own port: Triton's, and gRPC's own with the bytes that a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from fleet_fakes import Ask, echo, failing, hang
from raw_http import GUARD_S
from router_http import Http
from tidy_router import tidy
from tritonclient.grpc import aio as triton_aio
from tritonclient.utils import InferenceServerException

from capamesh.protocol.errors import RunFailed
from capamesh.protocol.tensors import Limits
from capamesh.router.access.keys import Verb
from capamesh.router.grpc.health import HEALTH
from capamesh.router.grpc.messages import CLASSES
from capamesh.router.grpc.methods import SERVICE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def address(http: Http) -> str:
    return f"{http.client.host}:{http.client.port}"


def x_of(rows: Any) -> triton.InferInput:
    tensor = triton.InferInput("x", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    return tensor


ROW = np.array([[1, 2]], np.float32)


async def test_triton_s_client_infers(http: Http) -> None:
    http.node("a", echo)
    async with triton_aio.InferenceServerClient(address(http)) as client:
        for at in range(3):
            result = await client.infer("m", [x_of(ROW + at)], model_version="1")
            assert result.as_numpy("y").tolist() == (ROW + at).tolist()
        result = await client.infer(
            "m", [x_of(ROW)], request_id="7", outputs=[triton.InferRequestedOutput("y")]
        )
        response = result.get_response()
        assert (response.id, response.model_name, response.model_version) == ("7", "m", "1")


async def test_triton_s_client_infers_more_than_any_window(http: Http) -> None:
    http.node("a", echo)
    rows = np.arange(6_000_000, dtype=np.float32).reshape(-1, 2)
    async with triton_aio.InferenceServerClient(address(http)) as client:
        results = await asyncio.gather(*(client.infer("m", [x_of(rows + at)]) for at in range(3)))
    for at, result in enumerate(results):
        assert np.array_equal(result.as_numpy("y"), rows + at)


async def test_triton_s_client_learns_what_http_s_clients_learn(http: Http) -> None:
    http.node("a", echo)
    async with triton_aio.InferenceServerClient(address(http)) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("m")
        assert await client.is_model_ready("m", "1")
        assert not await client.is_model_ready("m", "2")
        assert not await client.is_model_ready("nonesuch")
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


async def test_triton_s_client_is_told_of_errors_as_http_s_are(http: Http) -> None:
    http.node("a", failing(RunFailed("it broke")))
    wrong = x_of(np.zeros((1, 2), np.float32))
    wrong._input.shape[:] = [1, 3]
    async with triton_aio.InferenceServerClient(address(http)) as client:
        for model, tensor, status in (
            ("gone", x_of(ROW), "StatusCode.NOT_FOUND"),
            ("m", x_of(ROW), "StatusCode.INTERNAL"),
            ("m", wrong, "StatusCode.INVALID_ARGUMENT"),
        ):
            data = tensor._raw_content
            with pytest.raises(InferenceServerException) as caught:
                await client.infer(model, [tensor])
            body = {
                "name": "x",
                "datatype": "FP32",
                "shape": list(tensor.shape()),
                "parameters": {"binary_data_size": len(data)},
            }
            head = str({"inputs": [body]}).replace("'", '"').encode()
            told = await http.infer(
                head + data,
                header_length=len(head),
                path=f"/v2/models/{model}/infer",
            )
            assert caught.value.message() == (await told.json())["error"]
            assert caught.value.status() == status


async def test_triton_s_client_streams_in_order(http: Http) -> None:
    link = http.node("a", echo)
    async with triton_aio.InferenceServerClient(address(http)) as client:

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


async def test_stream_ends_with_a_status_for_those_who_ask_for_it(http: Http) -> None:
    http.node("a", echo)
    wish = (("triton_grpc_error", "true"),)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=wish)
        await call.write(message())
        assert await call.read()
        await call.write(message(model_name="gone"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_triton_s_own_thread_streams(http: Http) -> None:
    http.node("a", echo)

    def streamed() -> list[str]:
        found: list[str] = []
        with triton.InferenceServerClient(address(http)) as client:
            client.start_stream(
                lambda result, error: found.append(error or result.get_response().id)
            )
            for at in range(5):
                client.async_stream_infer("m", [x_of(ROW)], request_id=str(at))
            client.stop_stream()
        return found

    assert await asyncio.to_thread(streamed) == [str(at) for at in range(5)]


def method(channel: grpc.aio.Channel, path: str) -> Any:
    return channel.unary_unary(path)


def message(**fields: Any) -> bytes:
    described = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
    built = CLASSES["ModelInferRequest"](
        **{
            "model_name": "m",
            "inputs": [described],
            "raw_input_contents": [ROW.tobytes()],
            **fields,
        }
    )
    return bytes(built.SerializeToString())


INFER = f"/{SERVICE}/ModelInfer"


async def test_metadata_routes_and_explains(http: Http) -> None:
    http.node("a", echo)
    http.node("b", echo)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        wishes = (("x-capamesh-nodes", "b"), ("x-capamesh-explain", "1"))
        call = method(channel, INFER)(message(), metadata=wishes)
        await call
        told = dict(await call.initial_metadata())
        assert told["x-capamesh-node"] == "b"
        assert '"replicas"' in told["x-capamesh-explanation"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(channel, INFER)(message(), metadata=(("x-capamesh-node", "b"),))
        assert "did you mean X-Capamesh-Nodes?" in (caught.value.details() or "")
        assert dict(caught.value.trailing_metadata())["x-capamesh-error"] == "invalid_request"


async def test_time_of_the_call_is_the_deadline_of_the_request(http: Http) -> None:
    link = http.node("a", hang)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        while not link.asks:  # a machine that has other work may take that long to bring it here
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(channel, INFER)(message(), timeout=1.0)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (budget_ms,) = link.budgets_ms
    assert budget_ms is not None
    assert 0 < budget_ms <= 1000
    async with asyncio.timeout(GUARD_S):
        await link.cancelled.wait()


async def test_client_that_leaves_takes_its_request_back(http: Http) -> None:
    link = http.node("a", hang)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        call = method(channel, INFER)(message())
        asked = asyncio.ensure_future(call)
        await link.asked.wait()
        assert http.front.requests.count == 1
        asked.cancel()
        async with asyncio.timeout(GUARD_S):
            await link.cancelled.wait()
        assert http.front.requests.count == 0
        # the connection goes on
        assert (await method(channel, f"/{SERVICE}/ServerLive")(b"")) == b"\x08\x01"


async def test_many_calls_of_one_connection_are_answered_as_their_answers_come(http: Http) -> None:
    asks: list[Ask] = []
    http.node("a", asks.append)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        calls = [method(channel, INFER)(message(id=str(at))) for at in range(40)]
        waiting = [asyncio.ensure_future(call) for call in calls]
        async with asyncio.timeout(GUARD_S):
            while len(asks) < 40:
                await asyncio.sleep(0)
        for ask in reversed(asks):
            ask.echo()
        found = [
            CLASSES["ModelInferResponse"].FromString(each).id
            for each in await asyncio.gather(*waiting)
        ]
    assert found == [str(at) for at in range(40)]


async def test_health_is_that_of_the_router_and_of_each_model(http: Http) -> None:
    async with grpc.aio.insecure_channel(address(http)) as channel:
        check = method(channel, f"/{HEALTH}/Check")

        async def health(service: str) -> int:
            request = CLASSES["HealthCheckRequest"](service=service).SerializeToString()
            return int(CLASSES["HealthCheckResponse"].FromString(await check(request)).status)

        assert await health("") == 2  # no node
        assert await method(channel, f"/{SERVICE}/ServerReady")(b"") == b""
        http.node("a", echo)
        assert [await health(each) for each in ("", SERVICE, HEALTH, "m")] == [1] * 4
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health("gone")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


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
    http: Http, path: str, request_: bytes, status: str, text: str
) -> None:
    http.node("a", echo)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(channel, path)(request_)
    assert caught.value.code().name == status
    assert text in (caught.value.details() or "")


async def test_message_over_the_limit_is_refused() -> None:
    async with tidy(limits=Limits(max_message_bytes=4096)) as http:
        http.node("a", echo)
        async with grpc.aio.insecure_channel(address(http)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(channel, INFER)(message(id="x" * 5000))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "the limit is 4096" in (caught.value.details() or "")
            await method(channel, INFER)(message())


async def test_router_that_stops_asks_its_clients_to_leave(http: Http) -> None:
    http.node("a", echo)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        await method(channel, INFER)(message())
        assert (await http.client.get("/v2/health/live")).status == 200  # by HTTP/1, beside it
        http.front.requests.is_closing = True
        await method(channel, INFER)(message())
        async with asyncio.timeout(GUARD_S):
            while len(http.front.connections) > 1:
                await asyncio.sleep(0)
        http.front.requests.is_closing = False
        await method(channel, INFER)(message())  # the client has come again


async def test_router_that_stops_asks_clients_at_once_and_answers_what_is_under_way(
    http: Http,
) -> None:
    link = http.node("a", hang)
    async with (
        grpc.aio.insecure_channel(address(http)) as idle,
        grpc.aio.insecure_channel(
            address(http), options=[("grpc.use_local_subchannel_pool", 1)]
        ) as busy,
    ):
        await method(idle, "/inference.GRPCInferenceService/ServerLive")(b"")
        asked = asyncio.ensure_future(method(busy, INFER)(message()))
        async with asyncio.timeout(GUARD_S):
            await link.asked.wait()
            before = len(http.front.connections)
            http.front.requests.is_closing = True
            http.front.ask_to_leave()
            http.front.ask_to_leave()
            while len(http.front.connections) == before:  # the idle one leaves
                await asyncio.sleep(0)
            assert len(http.front.connections) == before - 1
            link.asks[0].echo()
            await asked
            while len(http.front.connections) == before - 1:
                await asyncio.sleep(0)
        http.front.requests.is_closing = False


async def status(call: Any, request_: bytes, metadata: Any = ()) -> str:
    """Return the status of a call."""
    try:
        await call(request_, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_keys_are_asked_for_once_there_are_some(http: Http) -> None:
    link = http.node("a", echo)
    name = b"\x0a\x01m"
    async with grpc.aio.insecure_channel(address(http)) as channel:
        infer = method(channel, INFER)
        assert await status(infer, message()) == "OK"
        mine = http.metadata(Verb.INFER)
        other = http.metadata(Verb.INFER, models=("other",))
        reads = http.metadata(Verb.READ)
        table = {
            "ModelInfer": ("UNAUTHENTICATED", "OK", "PERMISSION_DENIED", "PERMISSION_DENIED"),
            "ModelMetadata": ("UNAUTHENTICATED", "OK", "PERMISSION_DENIED", "OK"),
            "ModelConfig": ("UNAUTHENTICATED", "OK", "PERMISSION_DENIED", "OK"),
            "ModelReady": ("UNAUTHENTICATED", "OK", "PERMISSION_DENIED", "OK"),
            "ModelStatistics": ("UNAUTHENTICATED", "PERMISSION_DENIED", "PERMISSION_DENIED", "OK"),
            "RepositoryIndex": ("UNAUTHENTICATED", "PERMISSION_DENIED", "PERMISSION_DENIED", "OK"),
            "ServerMetadata": ("UNAUTHENTICATED", "OK", "OK", "OK"),
            "ServerLive": ("OK", "OK", "OK", "OK"),
            "ServerReady": ("OK", "OK", "OK", "OK"),
        }
        for each, expected in table.items():
            body = message() if each == "ModelInfer" else name
            body = b"" if each in {"RepositoryIndex", "ServerLive", "ServerReady"} else body
            call = method(channel, f"/{SERVICE}/{each}")
            found = [await status(call, body, key) for key in ((), mine, other, reads)]
            assert (each, tuple(found)) == (each, expected)
        check = method(channel, f"/{HEALTH}/Check")
        assert await status(check, b"") == "OK"
        assert await status(check, name, mine) == "UNAUTHENTICATED"
        assert await status(infer, message(), (("x-api-key", mine[0][1][7:]),)) == "OK"
        wish = (*mine, ("x-capamesh-tenant", "another"))
        assert await status(infer, message(), wish) == "PERMISSION_DENIED"
    assert len(link.asks) == 3


async def test_key_that_is_revoked_ends_a_stream_that_goes_on(http: Http) -> None:
    http.node("a", echo)
    text = http.key()
    metadata = (("authorization", f"Bearer {text}"),)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=metadata)
        await call.write(message())
        assert await call.read()
        http.revoke(text)
        await call.write(message())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
