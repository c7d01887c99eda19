"""Smoothed weights are the same model, whose inputs of matrices are even."""

from __future__ import annotations

import gguf_writer
import numpy as np
import pytest
import tiny_llama
from tiny_llama import Variant

from capamesh.node.tools.llm.gguf_file import parse_gguf
from capamesh.node.tools.llm.gguf_llama import LlamaWeights, read_llama
from capamesh.node.tools.llm.reference import reference_logits
from capamesh.node.tools.llm.smoothing import smoothed

READ = [3, 200, 17, 401, 88, 5, 260, 77, 31, 9, 140]
OTHER = list(range(100, 130))
VARIANTS = {
    "tied": Variant(),
    "untied": Variant(is_tied=False),
    "biases": Variant(has_biases=True),
    "qwen2": Variant(architecture="qwen2", has_biases=True),
}


def weights(variant: Variant = tiny_llama.PLAIN, kind: int = gguf_writer.F32) -> LlamaWeights:
    return read_llama(parse_gguf(memoryview(tiny_llama.gguf(kind, variant))))


def inputs(model: LlamaWeights) -> dict[str, np.ndarray]:
    """Return how large each number of the inputs of matrices becomes."""
    heard: dict[str, np.ndarray] = {}
    reference_logits(
        model,
        READ,
        tell=lambda _: None,
        hear=lambda name, x: heard.update({name: np.abs(x).max(0)}),
    )
    return heard


@pytest.mark.parametrize("name", VARIANTS)
def test_model_stays_what_it_was(name: str) -> None:
    model = weights(VARIANTS[name])
    parts: list[float] = []
    made = smoothed(model, READ, tell=parts.append)
    assert parts[-1] == 1.0
    for ids in (READ, OTHER):
        expected = reference_logits(model, ids, tell=lambda _: None)
        found = reference_logits(made, ids, tell=lambda _: None)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_inputs_and_weights_of_a_place_are_as_large_as_each_other() -> None:
    made = smoothed(weights(), READ, tell=lambda _: None)
    sizes = inputs(made)
    assert len(sizes) == 3 * tiny_llama.LAYERS + 1
    attention = [f"blk.1.attn_{part}.weight" for part in "qkv"]
    for first, matrices in ((attention[0], attention), ("output.weight", ["output.weight"])):
        most = np.abs(np.concatenate([made.floats(name) for name in matrices])).max(0)
        np.testing.assert_allclose(sizes[first], most, rtol=1e-3)


def test_places_that_are_always_zero_have_a_factor() -> None:
    arrays = {**tiny_llama.weights(), "blk.0.ffn_up.weight": np.zeros((128, 64), np.float32)}
    raw = gguf_writer.gguf(tiny_llama.metadata(), {**arrays})
    made = smoothed(read_llama(parse_gguf(memoryview(raw))), READ, tell=lambda _: None)
    assert np.isfinite(made.floats("blk.0.ffn_down.weight")).all()
    assert not made.floats("blk.0.ffn_up.weight").any()
