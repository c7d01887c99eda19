"""Where a language model is run, by the device, the manifest and what ONNX Runtime has."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama

from capamesh.node.repository import ModelSource, scan
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.runtime.onnxruntime.binding import ort
from capamesh.node.runtime.onnxruntime.decoder_loading import load_decoder
from capamesh.node.runtime.onnxruntime.decoder_slots import DecoderDevice
from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder
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


def test_decoder_on_a_device_keeps_no_prefixes_on_the_host(models: Path) -> None:
    source = source_of(models)
    found: list[LoadedDecoder] = [
        load_decoder(source, threads=1, free_bytes=2**30, device=DecoderDevice(is_apart=is_apart))
        for is_apart in (False, True)
    ]
    assert [each.slots.count for each in found] == [8, 32]
    assert found[0].prefix_bytes > 0
    assert found[1].prefix_bytes == 0
