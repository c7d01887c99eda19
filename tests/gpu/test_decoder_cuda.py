"""A language model on a CUDA device: the CPU's answers, with keys and values that never leave the GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_llama
from cuda_device import CUDA, why_no_cuda
from generation_fakes import Desk

from capamesh.node.generation import GenerationRequest, GenerationSettings, SamplingParameters
from capamesh.node.repository import scan
from capamesh.node.runtime.decoders.decoder_folder import DecoderFolder
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.runtime.onnxruntime.decoder_slots import (
    THE_CPU,
    DecoderDevice,
    DecoderSlots,
    NotOnDevice,
)
from capamesh.node.runtime.text_generation.loaded_decoder import LoadedDecoder

TOKENS = [(17 + 31 * at) % tiny_llama.VOCABULARY for at in range(40)]
GPU = DecoderDevice(CUDA, place=("cuda", 0), is_apart=True)


pytestmark = pytest.mark.skipif(bool(why_no_cuda()), reason=why_no_cuda() or "a GPU is there")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DecoderFolder:
    """The tiny decoder in 16 bits, which is what CUDA's attention takes."""
    return tiny_llama.write_decoder_folder(tmp_path_factory.mktemp("models") / "tiny" / "1", "fp16")


def slots_on(folder: DecoderFolder, device: DecoderDevice) -> DecoderSlots:
    OnnxBackend("cuda")  # reads in the libraries
    return DecoderSlots(folder, count=4, length=96, threads=1, device=device)


def test_scores_are_those_of_the_cpu(folder: DecoderFolder) -> None:
    cpu, gpu = slots_on(folder, THE_CPU), slots_on(folder, GPU)
    for slots in (cpu, gpu):
        for slot, count in ((0, 24), (1, 7), (3, 40)):
            slots.extend(slot, TOKENS[:count], wants_logits=False)
        slots.copy(0, 2, 20)
        slots.truncate(1, 5)
        slots.load(1, slots.save(3, 10, 30), 11)
    assert [gpu.used(slot) for slot in range(4)] == [24, 16, 20, 40]
    for step in range(5):
        expected, found = (slots.decode(TOKENS[step : step + 4]).copy() for slots in (cpu, gpu))
        np.testing.assert_allclose(found, expected, rtol=5e-2, atol=0.2)
    saved = [slots.save(1, 0, 21).astype(np.float32) for slots in (cpu, gpu)]
    np.testing.assert_allclose(saved[1], saved[0], rtol=5e-2, atol=5e-2)


def test_decoder_is_loaded_onto_the_gpu_and_generates(folder: DecoderFolder) -> None:
    models = folder.path.parents[1]
    (models / "tiny" / "capamesh.toml").write_text('task = "chat"\n')
    (source,) = scan(models).models
    loaded = OnnxBackend("cuda").load(source)
    assert isinstance(loaded, LoadedDecoder)
    assert (loaded.provider, loaded.prefix_bytes) == (CUDA, 0)
    desk = Desk(loaded.slots, GenerationSettings(prefix_bytes=0))
    sampling = SamplingParameters(temperature=0.0)
    asked = [
        desk.submit(GenerationRequest(tuple(TOKENS[: 9 + at]), 20, sampling))[0] for at in range(6)
    ]
    desk.run()
    assert [len(desk.ids(each)) for each in asked] == [20] * 6


def test_decoder_in_32_bits_is_told_to_be_the_cpus(tmp_path: Path) -> None:
    with pytest.raises(NotOnDevice, match="its attention is run by CPUExecutionProvider"):
        slots_on(tiny_llama.write_decoder_folder(tmp_path, "fp32"), GPU)
