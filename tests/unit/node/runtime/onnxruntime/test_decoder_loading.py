"""Where a language model is run, by the device, the manifest and what ONNX Runtime has."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama

from capamesh.node.repository import ModelSource, scan
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.runtime.onnxruntime.binding import ort
from capamesh.protocol.errors import ModelInvalid

CPU = "CPUExecutionProvider"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_llama.write_decoder_folder(folder / "tiny" / "1", "fp16")
    return folder


def source_of(models: Path, **manifest: object) -> ModelSource:
    lines = ['task = "chat"', *(f"{key} = {value}" for key, value in manifest.items())]
    (models / "tiny" / "capamesh.toml").write_text("\n".join(lines))
    (source,) = scan(models).models
    return source


def test_decoder_whose_provider_is_not_there_is_refused_or_run_by_the_cpu(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    told: list[str] = []
    backend = OnnxBackend("cuda", on_fallback=lambda _, why: told.append(why))
    with pytest.raises(ModelInvalid, match=f"but this ONNX Runtime has only {CPU}.*fallback"):
        backend.load(source_of(models))
    assert told == []
    loaded = backend.load(source_of(models, allow_cpu_fallback="true"))
    assert loaded.provider == CPU
    (why,) = told
    assert why.startswith("it should run on CUDAExecutionProvider, but this ONNX Runtime has only")
    loaded = backend.load(source_of(models, providers=f'["{CPU}"]'))
    assert (loaded.provider, len(told)) == (CPU, 1)


def test_decoder_of_another_provider_than_cuda_is_refused(models: Path) -> None:
    source = source_of(models, providers='["TensorrtExecutionProvider"]')
    with pytest.raises(ModelInvalid, match="decoders run on CUDAExecutionProvider and CPU"):
        OnnxBackend("cuda").load(source)
