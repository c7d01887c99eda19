"""A decoder says what a plain loop in numpy says, and weights of few bits stand for what they were made of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf_writer
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny_llama
from tiny_llama import Variant

from capamesh.node.runtime.decoders.decoder_folder import DecoderFolder
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

QUIET = 4  # the level of logs


class TinySlots:
    """Slots of one buffer for each input of the cache; past and present are the same memory."""

    def __init__(self, folder: DecoderFolder, *, slots: int, length: int = 64) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = QUIET
        self.session = ort.InferenceSession(
            str(folder.onnx_file), options, providers=["CPUExecutionProvider"]
        )
        config = folder.config
        shape = (slots, config.kv_heads, length, config.head_size)
        kinds = {one.name: one.type for one in self.session.get_inputs()}
        half = kinds[config.past_names()[0]] == "tensor(float16)"
        self._cache = [
            (past, present, np.zeros(shape, np.float16 if half else np.float32))
            for past, present in zip(config.past_names(), config.present_names(), strict=True)
        ]
        self.used = [0] * slots

    def extend(self, slot: int, ids: Sequence[int], rows: Sequence[int] | None = None) -> Any:
        """Feed tokens to one slot; return the logits of some of them, or of all, f32 [rows, vocabulary]."""
        places = range(len(ids)) if rows is None else rows
        return self._run(slot, np.array([ids], np.int64), places)

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """Feed one token to each of the first slots; return the logits, f32 [slots, vocabulary]."""
        return self._run(0, np.array(ids, np.int64)[:, None], range(len(ids)))

    def truncate(self, slot: int, count: int) -> None:
        """Forget all but the first tokens of a slot."""
        self.used[slot] = count

    def _run(self, first: int, ids: np.ndarray, rows: Sequence[int]) -> np.ndarray:
        slots = range(first, first + len(ids))
        ends = [self.used[slot] + ids.shape[1] for slot in slots]
        io = self.session.io_binding()
        io.bind_cpu_input("input_ids", ids)
        io.bind_cpu_input("seqlens_k", np.array(ends, np.int32) - 1)
        io.bind_cpu_input("total_sequence_length", np.array([max(ends)], np.int32))
        io.bind_cpu_input("rows", np.array(rows, np.int64))
        for past, present, held in self._cache:
            part = held[first : first + len(ids)]
            io.bind_input(past, "cpu", 0, part.dtype, part.shape, part.ctypes.data)
            io.bind_output(present, "cpu", 0, part.dtype, part.shape, part.ctypes.data)
        io.bind_output("logits", "cpu")
        self.session.run_with_iobinding(io)
        for slot, end in zip(slots, ends, strict=True):
            self.used[slot] = end
        return io.get_outputs()[-1].numpy()


PROMPTS = (
    [3, 200, 17, 401, 88, 5, 260, 77, 31, 9, 140],
    [12, 7],
    [44, 300, 301, 302, 19, 6, 470],
    list(range(100, 130)),
)
VARIANTS = {
    "tied": Variant(),
    "untied": Variant(is_tied=False),
    "biases": Variant(has_biases=True),
    "qwen2": Variant(architecture="qwen2", has_biases=True),
    "factors": Variant(rope_factors=True),
}


def decoder(tmp_path: Path, kind: str = "fp32", source: bytes | None = None) -> TinySlots:
    return TinySlots(tiny_llama.write_decoder_folder(tmp_path / "m", kind, source), slots=4)


@pytest.mark.parametrize("name", VARIANTS)
def test_prompt_has_the_logits_of_a_plain_loop(tmp_path: Path, name: str) -> None:
    variant = VARIANTS[name]
    slots = decoder(tmp_path, source=tiny_llama.gguf(variant=variant))
    for prompt in PROMPTS:
        slots.truncate(0, 0)
        expected = tiny_llama.logits(tiny_llama.weights(variant), prompt, variant)
        np.testing.assert_allclose(slots.extend(0, prompt), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_reference_is_the_plain_loop_too(name: str) -> None:
    variant = VARIANTS[name]
    weights = read_llama(parse_gguf(memoryview(tiny_llama.gguf(variant=variant))))
    parts: list[float] = []
    found = reference_logits(weights, PROMPTS[0], tell=parts.append)
    expected = tiny_llama.logits(tiny_llama.weights(variant), PROMPTS[0], variant)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert parts == [1 / 3, 2 / 3, 1.0]


def test_next_tokens_of_several_sequences_have_the_logits_of_a_plain_loop(tmp_path: Path) -> None:
    slots = decoder(tmp_path)
    sequences = [list(prompt) for prompt in PROMPTS]
    for slot, prompt in enumerate(sequences):
        slots.extend(slot, prompt, rows=())
    for token in (5, 400, 23):
        given = [token + slot for slot in range(4)]
        found = slots.decode(given)
        for slot, one in enumerate(given):
            sequences[slot].append(one)
            expected = tiny_llama.logits(tiny_llama.weights(), sequences[slot])[-1]
            np.testing.assert_allclose(found[slot], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "q8", "w8a8", "q4"])
def test_row_is_the_same_to_the_bit_beside_any_others(tmp_path: Path, kind: str) -> None:
    source = gguf_writer.Q4_1 if kind == "q4" else gguf_writer.F32
    slots = decoder(tmp_path, kind, tiny_llama.gguf(source))
    alone: dict[int, np.ndarray] = {}
    for number, prompt in enumerate(PROMPTS):
        slots.truncate(0, 0)
        slots.extend(0, prompt, rows=())
        alone[number] = slots.decode([number + 50])[0].copy()
    for count in (2, 3, 4):
        for order in itertools.permutations(range(4), count):
            for slot, number in enumerate(order):
                slots.truncate(slot, 0)
                slots.extend(slot, PROMPTS[number], rows=())
            found = slots.decode([number + 50 for number in order])
            for slot, number in enumerate(order):
                assert (found[slot] == alone[number]).all()


def scatter(slots: TinySlots, raw: bytes) -> float:
    """Return the mean difference to the source's own numbers, in units of their scatter."""
    weights = read_llama(parse_gguf(memoryview(raw)))
    expected = reference_logits(weights, PROMPTS[3], tell=lambda _: None)
    found = slots.extend(0, PROMPTS[3])
    return float(np.sqrt(((found - expected) ** 2).mean()) / expected.std())


KINDS = {
    # (weights, type in the source, most difference to the source's own numbers in units of their scatter)
    "fp16": ("fp16", gguf_writer.F16, 0.01),
    "q8": ("q8", gguf_writer.F32, 0.25),
    "q8 of 4 bits": ("q8", gguf_writer.Q4_1, 0.25),
    "w8a8": ("w8a8", gguf_writer.F32, 0.25),
    "4 bits kept": ("q4", gguf_writer.Q4_1, 0.25),
    "4 bits without lows kept": ("q4", gguf_writer.Q4_0, 0.25),
}


@pytest.mark.parametrize("name", KINDS)
def test_weights_of_few_bits_stay_near_their_source(tmp_path: Path, name: str) -> None:
    kind, source, most = KINDS[name]
    raw = tiny_llama.gguf(source, token_embd=gguf_writer.F32)
    assert scatter(decoder(tmp_path, kind, raw), raw) < most


MIXED = {"attn_v": gguf_writer.Q8_0, "ffn_up": gguf_writer.F16}


def test_matrices_of_several_types_are_multiplied_apart(tmp_path: Path) -> None:
    raw = tiny_llama.gguf(gguf_writer.Q4_1, token_embd=gguf_writer.F32, **MIXED)
    assert scatter(decoder(tmp_path, "q4", raw), raw) < 0.25
    nodes = onnx.load(tmp_path / "m" / "model.onnx", load_external_data=False).graph.node
    outputs = {output for node in nodes for output in node.output}
    assert {"layers.0.attn.v_proj.out", "layers.1.mlp.up_proj.out"} <= outputs


def test_rows_of_zeros_stay_zeros_where_rows_have_scales(tmp_path: Path) -> None:
    arrays = {name: tiny_llama.turned(name, array) for name, array in tiny_llama.weights().items()}
    arrays["token_embd.weight"][7] = 0
    slots = decoder(tmp_path, "w8a8", gguf_writer.gguf(tiny_llama.metadata(), {**arrays}))
    assert not slots.extend(0, [7]).any()
    beside = slots.extend(1, [7, 12, 7])
    assert not beside[0].any()
    assert np.isfinite(beside).all()
    assert slots.extend(1, [7, 12], rows=()).shape == (0, 512)


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
