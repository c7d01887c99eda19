"""Triton's own HTTP client, unmodified, against ONNX Runtime run directly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from direct_answers import MODELS, check, direct, rows_of
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def ask(address: str, model: str, name: str, rows: Any, *, is_binary: bool) -> Any:
    with triton.InferenceServerClient(address) as server:
        tensor = triton.InferInput(name, rows.shape, np_to_triton_dtype(rows.dtype))
        tensor.set_data_from_numpy(rows, binary_data=is_binary)
        metadata = server.get_model_metadata(model)
        outputs = [
            triton.InferRequestedOutput(output["name"], binary_data=is_binary)
            for output in metadata["outputs"]
        ]
        result = server.infer(model, [tensor], outputs=outputs, request_id="seven")
        assert result.get_response()["id"] == "seven"
        return {output["name"]: result.as_numpy(output["name"]) for output in metadata["outputs"]}


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("model", MODELS)
async def test_answers_equal_those_of_onnx_runtime(
    address: str, built_models: Path, model: str, is_binary: bool
) -> None:
    name, rows = rows_of(built_models, model)
    got = await asyncio.to_thread(ask, address, model, name, rows, is_binary=is_binary)
    check(got, direct(built_models, model, {name: rows}))


@pytest.mark.parametrize("model", MODELS)
async def test_metadata_config_and_readiness(address: str, built_models: Path, model: str) -> None:
    session = ort.InferenceSession(
        built_models / model / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )

    def asked() -> Any:
        with triton.InferenceServerClient(address) as server:
            return (
                server.is_server_live(),
                server.is_server_ready(),
                server.is_model_ready(model),
                server.is_model_ready(model, "1"),
                server.get_model_metadata(model, "1"),
                server.get_model_config(model),
                server.get_model_repository_index(),
                server.get_server_metadata(),
            )

    (
        live,
        ready,
        model_ready,
        version_ready,
        metadata,
        config,
        index,
        server,
    ) = await asyncio.to_thread(asked)
    assert (live, ready, model_ready, version_ready) == (True, True, True, True)
    assert metadata["versions"] == ["1"]
    assert [entry["name"] for entry in metadata["inputs"]] == [i.name for i in session.get_inputs()]
    assert [entry["name"] for entry in metadata["outputs"]] == [
        o.name for o in session.get_outputs()
    ]
    assert config["name"] == model
    assert config["platform"] == "onnxruntime_onnx"
    assert {entry["name"]: entry["state"] for entry in index} == dict.fromkeys(
        _names(built_models), "READY"
    )
    assert server["name"] == "capamesh"


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize(
    ("model", "output"), [("digits", "probabilities"), ("magika", "target_label")]
)
async def test_classes_are_the_largest_scores_with_the_model_s_labels(
    address: str, built_models: Path, model: str, output: str, is_binary: bool
) -> None:
    name, rows = rows_of(built_models, model)
    labels = (built_models / model / "labels.txt").read_text().splitlines()

    def asked() -> Any:
        with triton.InferenceServerClient(address) as server:
            tensor = triton.InferInput(name, rows.shape, np_to_triton_dtype(rows.dtype))
            tensor.set_data_from_numpy(rows, binary_data=is_binary)
            wanted = triton.InferRequestedOutput(output, binary_data=is_binary, class_count=3)
            return server.infer(model, [tensor], outputs=[wanted]).as_numpy(output)

    found = await asyncio.to_thread(asked)
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

    def asked(output: str, count: int) -> Any:
        with triton.InferenceServerClient(address) as server:
            tensor = triton.InferInput(name, rows.shape, np_to_triton_dtype(rows.dtype))
            tensor.set_data_from_numpy(rows)
            wanted = triton.InferRequestedOutput(output, class_count=count)
            return server.infer("digits", [tensor], outputs=[wanted]).as_numpy(output)

    found = await asyncio.to_thread(asked, "probabilities", 8192)
    assert found.shape == (len(rows), 10)  # there are no more
    with pytest.raises(InferenceServerException, match="a whole number from 0 to 8192, got 8193"):
        await asyncio.to_thread(asked, "probabilities", 8193)
    with pytest.raises(InferenceServerException, match="has no output 'gone'"):
        await asyncio.to_thread(asked, "gone", 3)


async def test_configuration_says_which_outputs_have_labels(address: str) -> None:
    def asked() -> Any:
        with triton.InferenceServerClient(address) as server:
            return server.get_model_config("digits")["output"]

    files = {
        output["name"]: output.get("label_filename") for output in await asyncio.to_thread(asked)
    }
    assert files == {"label": None, "probabilities": "labels.txt"}


async def test_statistics_count_what_was_asked(address: str, built_models: Path) -> None:
    name, rows = rows_of(built_models, "digits")

    def counted() -> Any:
        with triton.InferenceServerClient(address) as server:
            (entry,) = server.get_inference_statistics("digits", "1")["model_stats"]
            return entry

    before = await asyncio.to_thread(counted)
    await asyncio.to_thread(ask, address, "digits", name, rows, is_binary=True)
    after = await asyncio.to_thread(counted)
    assert (after["name"], after["version"]) == ("digits", "1")
    assert after["inference_count"] - before["inference_count"] == len(rows)
    more = {
        kind: {key: of[key] - before["inference_stats"][kind][key] for key in of}
        for kind, of in after["inference_stats"].items()
    }
    assert more["success"]["count"] == more["queue"]["count"] == more["compute_infer"]["count"] == 1
    assert more["fail"]["count"] == 0
    assert 0 < more["queue"]["ns"] + more["compute_infer"]["ns"] <= more["success"]["ns"]
    assert after["last_inference"] > before["last_inference"]


async def test_unknown_model_is_an_error_the_client_understands(address: str) -> None:
    def asked() -> None:
        with triton.InferenceServerClient(address) as server:
            server.get_model_metadata("nonesuch")

    with pytest.raises(InferenceServerException, match="no node hosts model 'nonesuch'"):
        await asyncio.to_thread(asked)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
