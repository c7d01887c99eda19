"""Answers in parts over gRPC: Triton's client and gRPC's own, at a router's port, with nodes that answer as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from fleet_fakes import FakeLink, Reply, echo, offer, parting
from raw_http import GUARD_S
from router_http import Http
from tritonclient.grpc import aio as triton_aio
from tritonclient.grpc import service_pb2

from capamesh.protocol.errors import RunFailed
from capamesh.router.grpc.methods import SERVICE

LOOP = replace(offer(), max_parts=1000)
ROW = np.array([[1, 2]], np.float32)
STREAM = f"/{SERVICE}/ModelStreamInfer"
WIDE = 50_000
"""Rows of a part of 400 KB, more than what a client takes ahead."""


def node(http: Http, *script: Reply) -> FakeLink:
    return http.node("a", *script, models=(LOOP,))


def address(http: Http) -> str:
    return f"{http.client.host}:{http.client.port}"


def message(model: str = "m", **fields: Any) -> bytes:
    built = service_pb2.ModelInferRequest(
        model_name=model,
        inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}],
        raw_input_contents=[ROW.tobytes()],
        **fields,
    )
    return bytes(built.SerializeToString())


def parsed(data: Any) -> Any:
    return service_pb2.ModelStreamInferResponse.FromString(data)


def value_of(data: Any) -> float:
    return float(np.frombuffer(parsed(data).infer_response.raw_output_contents[0], np.float32)[0])


async def asked(call: Any, **fields: Any) -> list[Any]:
    """Send one request, and return all that comes until the stream ends."""
    await call.write(message(**fields))
    await call.done_writing()
    return [parsed(data) async for data in call]


def is_final(found: Any) -> bool:
    value = found.infer_response.parameters["triton_final_response"]
    assert value.WhichOneof("parameter_choice") == "bool_param"
    return bool(value.bool_param)


async def test_triton_s_client_is_given_each_part_and_told_which_is_the_last(http: Http) -> None:
    link = node(http, parting(4))
    async with triton_aio.InferenceServerClient(address(http)) as client:

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for name in ("first", "second"):
                tensor = triton.InferInput("x", [1, 2], "FP32")
                tensor.set_data_from_numpy(ROW)
                yield {"model_name": "m", "inputs": [tensor], "request_id": name}

        found: list[tuple[str, float, bool]] = []
        async for result, error in client.stream_infer(requests()):
            assert error is None
            response = result.get_response()
            last = response.parameters["triton_final_response"].bool_param
            found.append((response.id, float(result.as_numpy("y")[0, 0]), last))
    one = [(1.0, False), (2.0, False), (3.0, False), (4.0, True)]
    assert found == [(name, *each) for name in ("first", "second") for each in one]
    assert [ask.call.takes_parts for ask in link.asks] == [True, True]


async def test_last_message_may_be_empty_on_request(http: Http) -> None:
    link = node(http, parting(2), parting(1), parting(1))
    wish = {"triton_enable_empty_final_response": {"bool_param": True}}
    async with grpc.aio.insecure_channel(address(http)) as channel:
        found = await asked(channel.stream_stream(STREAM)(), id="7", parameters=wish)
        assert [is_final(each) for each in found] == [False, False, True]
        assert [len(each.infer_response.outputs) for each in found] == [1, 1, 0]
        assert {each.infer_response.id for each in found} == {"7"}
        # a call that is unary is answered whole
        data = await channel.unary_unary(f"/{SERVICE}/ModelInfer")(message())
        assert not service_pb2.ModelInferResponse.FromString(data).parameters
        assert [ask.call.takes_parts for ask in link.asks] == [True, False]
        # one answer is its own last message
        http.node("b", echo, models=(offer("n"),))
        (one,) = await asked(channel.stream_stream(STREAM)(), model="n", parameters=wish)
        assert is_final(one)


async def test_answer_that_breaks_off_is_told_in_band_with_the_request_s_id(http: Http) -> None:
    node(http, parting(3, end=RunFailed("it fell over")))
    unreadable = {"priority": {"int64_param": -1}}
    async with grpc.aio.insecure_channel(address(http)) as channel:
        *parts, last = await asked(channel.stream_stream(STREAM)(), id="7")
        (refused,) = await asked(channel.stream_stream(STREAM)(), id="8", parameters=unreadable)
    assert [is_final(each) for each in parts] == [False, False]
    assert last.error_message == "the answer broke off after 2 parts: it fell over"
    assert last.infer_response.id == "7"
    assert refused.error_message
    assert refused.infer_response.id == "8"


async def test_answer_that_breaks_off_ends_the_call_for_those_who_want_a_status(http: Http) -> None:
    node(http, parting(3, end=RunFailed("it fell over")))
    wish = (("triton_grpc_error", "true"),)
    async with grpc.aio.insecure_channel(address(http)) as channel:
        call = channel.stream_stream(STREAM)(metadata=wish)
        await call.write(message())
        assert [value_of(await call.read()) for _ in range(2)] == [1, 2]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "the answer broke off after 2 parts: it fell over"


async def test_client_that_cancels_stops_the_node(http: Http) -> None:
    link = node(http, parting(1000))
    async with grpc.aio.insecure_channel(address(http)) as channel:
        call = channel.stream_stream(STREAM)()
        await call.write(message())
        assert value_of(await call.read()) == 1
        call.cancel()
        async with asyncio.timeout(GUARD_S):
            await link.cancelled.wait()
    assert link.asks[0].ended == "withdrawn"


async def test_client_that_does_not_read_stops_its_own_answer_alone(http: Http) -> None:
    link = node(http, parting(30, rows=WIDE))
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
