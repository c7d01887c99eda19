"""Triton's own clients for event loops, unmodified: over HTTP and over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http
from direct_answers import MODELS, check, direct, rows_of
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
WIRES = pytest.mark.parametrize("wire", [triton_http, triton_grpc], ids=["http", "grpc"])


def input_of(wire: Any, name: str, rows: Any) -> Any:
    tensor = wire.InferInput(name, list(rows.shape), np_to_triton_dtype(rows.dtype))
    tensor.set_data_from_numpy(rows)
    return tensor


def plain(value: Any) -> Any:
    """Return a description as lists and dictionaries, whatever wire brought it."""
    if isinstance(value, dict):
        return value
    return {
        "versions": list(value.versions),
        "outputs": [{"name": output.name} for output in value.outputs],
    }


@WIRES
@pytest.mark.parametrize("model", MODELS)
async def test_answers_equal_those_of_onnx_runtime(
    address: str, built_models: Path, wire: Any, model: str
) -> None:
    name, rows = rows_of(built_models, model)
    async with wire.InferenceServerClient(address) as server:
        metadata = plain(await server.get_model_metadata(model))
        assert metadata["versions"] == ["1"]
        result = await server.infer(model, [input_of(wire, name, rows)], request_id="seven")
        got = {output["name"]: result.as_numpy(output["name"]) for output in metadata["outputs"]}
    check(got, direct(built_models, model, {name: rows}))


@WIRES
async def test_health_and_statistics(address: str, wire: Any) -> None:
    async with wire.InferenceServerClient(address) as server:
        assert await server.is_server_live()
        assert await server.is_server_ready()
        assert await server.is_model_ready("digits")
        assert not await server.is_model_ready("nonesuch")
        told = await server.get_inference_statistics("digits", "1")
        (entry,) = told["model_stats"] if isinstance(told, dict) else told.model_stats
        assert (entry["name"] if isinstance(entry, dict) else entry.name) == "digits"


@WIRES
async def test_unknown_model_is_an_error_the_client_understands(
    address: str, built_models: Path, wire: Any
) -> None:
    name, rows = rows_of(built_models, "digits")
    async with wire.InferenceServerClient(address) as server:
        with pytest.raises(InferenceServerException, match="no node hosts model 'nonesuch'"):
            await server.infer("nonesuch", [input_of(wire, name, rows)])


async def test_stream_answers_in_order(address: str, built_models: Path) -> None:
    name, rows = rows_of(built_models, "digits")
    expected = direct(built_models, "digits", {name: rows})["label"]

    async def asked() -> AsyncIterator[dict[str, Any]]:
        for at in range(len(rows)):
            inputs = [input_of(triton_grpc, name, rows[at : at + 1])]
            yield {"model_name": "digits", "inputs": inputs, "request_id": str(at)}

    found: list[tuple[str, int]] = []
    async with triton_grpc.InferenceServerClient(address) as server:
        async for result, error in server.stream_infer(asked()):
            assert error is None
            found.append((result.get_response().id, int(result.as_numpy("label")[0])))
    assert found == [(str(at), int(label)) for at, label in enumerate(expected)]
