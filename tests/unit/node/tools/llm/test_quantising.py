"""Weights of few bits stand for what they were made of, and those of 4 bits for exactly that."""

from __future__ import annotations

import gguf_writer
import numpy as np
import pytest
import tiny_llama
from tiny_llama import Variant

from capamesh.node.tools.llm.gguf_file import parse_gguf
from capamesh.node.tools.llm.gguf_llama import LlamaWeights, read_llama
from capamesh.node.tools.llm.quantising import (
    ROW_TOP,
    BlockWeights,
    Form,
    block_weights,
    packed,
    packed_zeros,
    rounded,
    row_weights,
)
from capamesh.node.tools.llm.reference import reference_logits
from capamesh.node.tools.llm.smoothing import smoothed

QUERY, VALUE, DOWN = "blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.1.ffn_down.weight"


def read(kind: int, **kinds: int) -> LlamaWeights:
    return read_llama(parse_gguf(memoryview(tiny_llama.gguf(kind, **kinds))))


def values(weights: BlockWeights) -> np.ndarray:
    """Return the numbers that blocks stand for, f32 [rows, numbers]."""
    zeros = 2 ** (weights.bits - 1) if weights.zeros is None else weights.zeros[..., None]
    of_codes = (weights.codes.astype(np.float32) - zeros) * weights.scales[..., None]
    rests = 0 if weights.rests is None else weights.rests[..., None]
    return (of_codes + rests).reshape(len(weights.codes), -1)


@pytest.mark.parametrize(("bits", "most"), [(8, 1 / 254), (4, 1 / 14)])
def test_rounding_is_by_half_a_step_at_most(bits: int, most: float) -> None:
    rows = np.random.default_rng(3).standard_normal((5, 96)).astype(np.float32)
    codes, scales = rounded(rows, bits)
    found = values(BlockWeights(bits, codes, scales)).reshape(5, 3, 32)
    step = np.abs(rows.reshape(5, 3, 32)).max(-1, keepdims=True)
    # the one number that lies beyond the last code on the shorter side may be a step off
    assert (np.abs(found - rows.reshape(5, 3, 32)) <= 2 * most * step).all()
    assert np.median(np.abs(found - rows.reshape(5, 3, 32)) / step) < most


@pytest.mark.parametrize("kind", [gguf_writer.Q4_0, gguf_writer.Q4_1])
def test_four_bits_are_kept_to_the_bit(kind: int) -> None:
    weights = read(kind)
    for names in ([QUERY, VALUE], [DOWN]):
        kept = block_weights(weights, names, Form.FOUR_KEPT)
        source = [weights.four_bits(name) for name in names]
        np.testing.assert_array_equal(kept.codes, np.concatenate([one.codes for one in source]))
        np.testing.assert_array_equal(kept.scales, np.concatenate([one.scales for one in source]))
        exact = np.concatenate([weights.floats(name) for name in names])
        np.testing.assert_allclose(values(kept), exact, rtol=0, atol=1e-6)
        assert (kept.zeros is None) == (kind == gguf_writer.Q4_0)


def test_rows_are_columns_of_codes_with_a_scale_each() -> None:
    weights = read(gguf_writer.F32)
    found = row_weights(weights, [QUERY, VALUE])
    exact = np.concatenate([weights.floats(QUERY), weights.floats(VALUE)])
    assert (found.codes.dtype, found.codes.shape) == (np.int8, exact.T.shape)
    steps = np.abs(exact).max(-1) / ROW_TOP
    np.testing.assert_allclose(found.scales, steps, rtol=1e-6)
    assert (np.abs(found.codes.T * found.scales[:, None] - exact) <= steps[:, None] / 1.99).all()


def test_codes_are_packed_low_half_first() -> None:
    codes = np.arange(32, dtype=np.uint8).reshape(1, 1, 32) % 16
    scales = np.ones((1, 1), np.float32)
    assert packed(BlockWeights(4, codes, scales))[0, 0, :2].tolist() == [0x10, 0x32]
    assert packed(BlockWeights(8, codes, scales)) is codes
    assert packed_zeros(np.array([[1, 2, 3]], np.uint8)).tolist() == [[0x21, 0x03]]


READ = [3, 200, 17, 401, 88, 5, 260, 77, 31, 9, 140]
OTHER = list(range(100, 130))
VARIANTS = {
    "tied": Variant(),
    "untied": Variant(is_tied=False),
    "biases": Variant(has_biases=True),
    "qwen2": Variant(architecture="qwen2", has_biases=True),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_model_stays_what_it_was(name: str) -> None:
    raw = tiny_llama.gguf(gguf_writer.F32, VARIANTS[name])
    model = read_llama(parse_gguf(memoryview(raw)))
    parts: list[float] = []
    made = smoothed(model, READ, tell=parts.append)
    assert parts[-1] == 1.0
    for ids in (READ, OTHER):
        expected = reference_logits(model, ids, tell=lambda _: None)
        found = reference_logits(made, ids, tell=lambda _: None)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_places_that_are_always_zero_have_a_factor() -> None:
    arrays = {**tiny_llama.weights(), "blk.0.ffn_up.weight": np.zeros((128, 64), np.float32)}
    raw = gguf_writer.gguf(tiny_llama.metadata(), {**arrays})
    made = smoothed(read_llama(parse_gguf(memoryview(raw))), READ, tell=lambda _: None)
    assert np.isfinite(made.floats("blk.0.ffn_down.weight")).all()
    assert not made.floats("blk.0.ffn_up.weight").any()
