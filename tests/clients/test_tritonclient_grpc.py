"""Triton's own gRPC client, unmodified, against ONNX Runtime run directly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from direct_answers import MODELS, check, direct, rows_of
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def input_of(name: str, rows: Any) -> Any:
    tensor = triton.InferInput(name, rows.shape, np_to_triton_dtype(rows.dtype))
    tensor.set_data_from_numpy(rows)
    return tensor


@pytest.mark.parametrize("model", MODELS)
async def test_answers_equal_those_of_onnx_runtime(
    address: str, built_models: Path, model: str
) -> None:
    name, rows = rows_of(built_models, model)

    def asked() -> dict[str, Any]:
        with triton.InferenceServerClient(address) as server:
            outputs = [output.name for output in server.get_model_metadata(model).outputs]
            result = server.infer(model, [input_of(name, rows)], request_id="seven")
            assert result.get_response().id == "seven"
            return {output: result.as_numpy(output) for output in outputs}

    got = await asyncio.to_thread(asked)
    check(got, direct(built_models, model, {name: rows}))


async def test_metadata_config_readiness_and_index(address: str) -> None:
    def asked() -> None:
        with triton.InferenceServerClient(address) as server:
            assert server.is_server_live()
            assert server.is_server_ready()
            assert server.is_model_ready("digits", "1")
            assert server.get_server_metadata().name == "capamesh"
            assert list(server.get_model_metadata("digits").versions) == ["1"]
            config = server.get_model_config("digits").config
            assert (config.name, config.platform) == ("digits", "onnxruntime_onnx")
            labels = {output.name: output.label_filename for output in config.output}
            assert labels == {"label": "", "probabilities": "labels.txt"}
            states = {each.name: each.state for each in server.get_model_repository_index().models}
            assert states["digits"] == "READY"

    await asyncio.to_thread(asked)


async def test_classes_and_statistics(address: str, built_models: Path) -> None:
    name, rows = rows_of(built_models, "digits")

    def asked() -> Any:
        with triton.InferenceServerClient(address) as server:
            before = server.get_inference_statistics("digits", "1").model_stats[0]
            wanted = triton.InferRequestedOutput("probabilities", class_count=3)
            found = server.infer("digits", [input_of(name, rows)], outputs=[wanted])
            after = server.get_inference_statistics("digits", "1").model_stats[0]
            assert after.inference_count - before.inference_count == len(rows)
            return found.as_numpy("probabilities")

    found = await asyncio.to_thread(asked)
    scores = direct(built_models, "digits", {name: rows})["probabilities"]
    assert found.shape == (len(rows), 3)
    for texts, of_row in zip(found, scores, strict=True):
        told = [int(text.decode().split(":")[1]) for text in texts]
        assert told == np.argsort(-of_row)[:3].tolist()


async def test_stream_answers_in_order(address: str, built_models: Path) -> None:
    name, rows = rows_of(built_models, "digits")
    expected = direct(built_models, "digits", {name: rows})["label"]

    def asked() -> list[Any]:
        found: list[Any] = []
        with triton.InferenceServerClient(address) as server:
            server.start_stream(lambda result, error: found.append((result, error)))
            for at in range(len(rows)):
                server.async_stream_infer(
                    "digits", [input_of(name, rows[at : at + 1])], request_id=str(at)
                )
            server.stop_stream()
        return found

    found = await asyncio.to_thread(asked)
    assert [error for _, error in found] == [None] * len(rows)
    assert [result.get_response().id for result, _ in found] == [str(at) for at in range(len(rows))]
    assert [int(result.as_numpy("label")[0]) for result, _ in found] == expected.tolist()


async def test_unknown_model_is_an_error_the_client_understands(
    address: str, built_models: Path
) -> None:
    name, rows = rows_of(built_models, "digits")

    def asked() -> None:
        with triton.InferenceServerClient(address) as server:
            server.infer("nonesuch", [input_of(name, rows)])

    with pytest.raises(InferenceServerException, match="no node hosts model 'nonesuch'") as caught:
        await asyncio.to_thread(asked)
    assert caught.value.status() == "StatusCode.NOT_FOUND"


async def test_health_of_the_router_and_of_a_model(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"") == b"\x08\x01"
        assert await check(b"\x0a\x06digits") == b"\x08\x01"
