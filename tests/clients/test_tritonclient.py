"""Triton's own clients, unmodified, by threads and for event loops, over HTTP and over gRPC, against ONNX Runtime run directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from direct_answers import MODELS, check, direct, rows_of
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
WIRES = pytest.mark.parametrize(
    "wire", [triton_http, triton_grpc, triton_http_aio, triton_grpc_aio], ids=lambda it: it.__name__
)
BINARY = pytest.mark.parametrize(
    ("wire", "binary"),
    [
        (triton_http, {"binary_data": True}),
        (triton_http, {"binary_data": False}),
        (triton_grpc, {}),
        (triton_http_aio, {"binary_data": True}),
        (triton_grpc_aio, {}),
    ],
)


async def call(wire: Any, address: str, method: str, *given: Any, **named: Any) -> Any:
    """Call a method of a client; descriptions come as dictionaries, whatever wire brings them."""
    if "grpc" in wire.__name__ and method.startswith("get_"):
        named["as_json"] = True
    if wire.__name__.endswith("aio"):
        async with wire.InferenceServerClient(address) as server:
            return await getattr(server, method)(*given, **named)

    def called() -> Any:
        with wire.InferenceServerClient(address) as server:
            return getattr(server, method)(*given, **named)

    return await asyncio.to_thread(called)


def input_of(wire: Any, name: str, rows: Any, **binary: bool) -> Any:
    tensor = wire.InferInput(name, list(rows.shape), np_to_triton_dtype(rows.dtype))
    tensor.set_data_from_numpy(rows, **binary)
    return tensor


@BINARY
@pytest.mark.parametrize("model", MODELS)
async def test_answers_equal_those_of_onnx_runtime(
    address: str, built_models: Path, wire: Any, binary: dict[str, bool], model: str
) -> None:
    name, rows = rows_of(built_models, model)
    metadata = await call(wire, address, "get_model_metadata", model)
    outputs = [output["name"] for output in metadata["outputs"]]
    wanted = [wire.InferRequestedOutput(output, **binary) for output in outputs]
    given = [input_of(wire, name, rows, **binary)]
    result = await call(wire, address, "infer", model, given, outputs=wanted, request_id="seven")
    response = result.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "seven"
    got = {output: result.as_numpy(output) for output in outputs}
    check(got, direct(built_models, model, {name: rows}))


@WIRES
async def test_health_metadata_configuration_and_index(
    address: str, built_models: Path, wire: Any
) -> None:
    def ask(method: str, *given: str) -> Any:
        return call(wire, address, method, *given)

    assert await ask("is_server_live")
    assert await ask("is_server_ready")
    assert (await ask("get_server_metadata"))["name"] == "capamesh"
    assert not await ask("is_model_ready", "nonesuch")
    index = await ask("get_model_repository_index")
    entries = index["models"] if isinstance(index, dict) else index
    states = {entry["name"]: entry["state"] for entry in entries}
    assert states == dict.fromkeys(names_in(built_models), "READY")
    for model in MODELS:
        file = built_models / model / "1" / "model.onnx"
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        assert await ask("is_model_ready", model)
        assert await ask("is_model_ready", model, "1")
        metadata = await ask("get_model_metadata", model, "1")
        assert metadata["versions"] == ["1"]
        for kind, found in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            assert [entry["name"] for entry in metadata[kind]] == [one.name for one in found]
        told = await ask("get_model_config", model)
        config = told.get("config", told)
        assert (config["name"], config["platform"]) == (model, "onnxruntime_onnx")
        if model == "digits":
            labels = {each["name"]: each.get("label_filename") for each in config["output"]}
            assert labels == {"label": None, "probabilities": "labels.txt"}
    with pytest.raises(InferenceServerException, match="no node hosts model 'nonesuch'") as caught:
        await ask("get_model_metadata", "nonesuch")
    assert caught.value.status() in {"404", "StatusCode.NOT_FOUND", None}


@BINARY
@pytest.mark.parametrize(
    ("model", "output"), [("digits", "probabilities"), ("magika", "target_label")]
)
async def test_classes_are_the_largest_scores_with_the_model_s_labels(
    address: str, built_models: Path, wire: Any, binary: dict[str, bool], model: str, output: str
) -> None:
    name, rows = rows_of(built_models, model)
    labels = (built_models / model / "labels.txt").read_text().splitlines()
    wanted = [wire.InferRequestedOutput(output, class_count=3, **binary)]
    given = [input_of(wire, name, rows, **binary)]
    found = (await call(wire, address, "infer", model, given, outputs=wanted)).as_numpy(output)
    scores = direct(built_models, model, {name: rows})[output]
    assert found.shape == (len(rows), 3)
    for texts, of_row in zip(found, scores, strict=True):
        plain = [text if isinstance(text, str) else text.decode() for text in texts]
        told = [text.split(":") for text in plain]
        assert [int(index) for _, index, _ in told] == np.argsort(-of_row)[:3].tolist()
        assert [label for _, _, label in told] == [labels[int(index)] for _, index, _ in told]
        best = [float(score) for score, _, _ in told]
        np.testing.assert_allclose(best, np.sort(of_row)[::-1][:3], atol=1e-5)


async def test_classes_of_what_has_no_scores_or_too_many_are_refused(
    address: str, built_models: Path
) -> None:
    name, rows = rows_of(built_models, "digits")

    async def asked(output: str, count: int) -> Any:
        wanted = [triton_http.InferRequestedOutput(output, class_count=count)]
        given = [input_of(triton_http, name, rows)]
        return await call(triton_http, address, "infer", "digits", given, outputs=wanted)

    found = (await asked("probabilities", 8192)).as_numpy("probabilities")
    assert found.shape == (len(rows), 10)  # there are no more
    with pytest.raises(InferenceServerException, match="a whole number from 0 to 8192, got 8193"):
        await asked("probabilities", 8193)
    with pytest.raises(InferenceServerException, match="has no output 'gone'"):
        await asked("gone", 3)


@WIRES
async def test_statistics_count_what_was_asked(address: str, built_models: Path, wire: Any) -> None:
    name, rows = rows_of(built_models, "digits")

    async def counted() -> dict[str, Any]:
        told = await call(wire, address, "get_inference_statistics", "digits", "1")
        (entry,) = told["model_stats"]
        assert (entry["name"], entry["version"]) == ("digits", "1")
        return dict(entry)

    def value(entry: dict[str, Any], kind: str, what: str) -> int:
        return int(entry["inference_stats"].get(kind, {}).get(what, 0))

    before = await counted()
    await call(wire, address, "infer", "digits", [input_of(wire, name, rows)])
    after = await counted()
    assert int(after["inference_count"]) - int(before["inference_count"]) == len(rows)
    more = {
        (kind, what): value(after, kind, what) - value(before, kind, what)
        for kind in ("success", "fail", "queue", "compute_infer")
        for what in ("count", "ns")
    }
    counts = [more[kind, "count"] for kind in ("success", "fail", "queue", "compute_infer")]
    assert counts == [1, 0, 1, 1]
    assert 0 < more["queue", "ns"] + more["compute_infer", "ns"] <= more["success", "ns"]
    assert int(after["last_inference"]) > int(before["last_inference"])


@pytest.mark.parametrize("is_aio", [False, True])
async def test_stream_answers_in_order(address: str, built_models: Path, is_aio: bool) -> None:
    name, rows = rows_of(built_models, "digits")
    expected = direct(built_models, "digits", {name: rows})["label"]
    parts = [[input_of(triton_grpc, name, rows[at : at + 1])] for at in range(len(rows))]
    found: list[tuple[Any, Any]] = []

    async def asked() -> AsyncIterator[dict[str, Any]]:
        for at, inputs in enumerate(parts):
            yield {"model_name": "digits", "inputs": inputs, "request_id": str(at)}

    def by_a_thread() -> None:
        with triton_grpc.InferenceServerClient(address) as server:
            server.start_stream(lambda result, error: found.append((result, error)))
            for at, inputs in enumerate(parts):
                server.async_stream_infer("digits", inputs, request_id=str(at))
            server.stop_stream()

    if is_aio:
        async with triton_grpc_aio.InferenceServerClient(address) as server:
            found += [pair async for pair in server.stream_infer(asked())]
    else:
        await asyncio.to_thread(by_a_thread)
    assert [error for _, error in found] == [None] * len(rows)
    told = [(result.get_response().id, int(result.as_numpy("label")[0])) for result, _ in found]
    assert told == [(str(at), int(label)) for at, label in enumerate(expected)]


async def test_health_of_the_router_and_of_a_model(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        asked = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await asked(b"") == b"\x08\x01"
        assert await asked(b"\x0a\x06digits") == b"\x08\x01"


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
