"""A model of Llama's architecture is read out of a GGUF file, and what only looks like one is refused."""

from __future__ import annotations

from typing import Any

import gguf_writer
import numpy as np
import pytest
import tiny_llama
from tiny_llama import Variant

from capamesh.node.tools.llm.gguf_file import parse_gguf
from capamesh.node.tools.llm.gguf_llama import LlamaWeights, read_llama
from capamesh.protocol.errors import ModelInvalid


def read(raw: bytes) -> LlamaWeights:
    return read_llama(parse_gguf(memoryview(raw)))


def changed(said: dict[str, Any], **tensors: Any) -> bytes:
    """Return the plain model's file with other metadata, and tensors added."""
    plain = tiny_llama.weights()
    arrays = {name: tiny_llama.turned(name, array) for name, array in plain.items()}
    arrays |= {name.replace("__", "."): array for name, array in tensors.items()}
    return gguf_writer.gguf({**tiny_llama.metadata(), **said}, arrays)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_queries_and_keys_come_back_as_halves_of_heads(architecture: str) -> None:
    variant = Variant(architecture=architecture, has_biases=True)
    weights = read(tiny_llama.gguf(variant=variant))
    for name, array in tiny_llama.weights(variant).items():
        np.testing.assert_array_equal(weights.floats(name), array, name)


def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capamesh.node.tools.llm.gguf_llama._PIECE_NUMBERS", 64 * 7)
    weights = read(tiny_llama.gguf(gguf_writer.Q8_0))
    pieces = list(weights.pieces("blk.0.attn_q.weight"))
    assert [start for start, _ in pieces] == list(range(0, 64, 7))
    whole = np.concatenate([piece for _, piece in pieces])
    np.testing.assert_array_equal(whole, weights.floats("blk.0.attn_q.weight"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"general.architecture": "gemma3"}, "'gemma3'; llama, mistral, qwen2 can be converted"),
        ({"llama.expert_count": 8}, "a mixture of experts"),
        ({"llama.attention.head_count": 3}, "3 heads of 16 numbers and 2 of keys"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8, and a head has 16"),
        ({"llama.attention.value_length": 8}, "attention.value_length is 8, and a head has 16"),
        ({"llama.rope.scaling.type": "yarn"}, "scaled as 'yarn'; none and linear"),
        ({"llama.block_count": 3}, "tensor 'blk.2.attn_norm.weight' is missing"),
        ({"llama.block_count": 10**9}, "a whole number from 1 to 1024"),
        ({"llama.embedding_length": 32}, r"has the shape \[512, 64\]; it must be \[512, 32\]"),
    ],
)
def test_other_model_is_refused_with_a_reason(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelInvalid, match=reason):
        read(changed(said))


def test_tensors_that_no_llama_has_are_refused() -> None:
    with pytest.raises(ModelInvalid, match=r"1 tensors that no plain model .* blk\.0\.attn_q_norm"):
        read(changed({}, blk__0__attn_q_norm__weight=np.ones(16, np.float32)))


def test_factors_of_positions_are_read_and_checked() -> None:
    weights = read(tiny_llama.gguf(variant=Variant(rope_factors=True)))
    assert weights.rope_factors().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    bad = read(changed({}, rope_freqs__weight=np.zeros(8, np.float32)))
    with pytest.raises(ModelInvalid, match="must have 8 numbers over 0"):
        bad.rope_factors()
