"""Computes what a model of Llama's architecture itself says, in plain numpy and 32 bits: what an import is held against. Pure.

One layer is in memory at a time, so that a model of any size has a reference where its file can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from capamesh.node.tools.llm.llama_shape import EMBEDDING, HEAD, LAST_NORM, of

if TYPE_CHECKING:
    from capamesh.node.tools.llm.gguf_llama import LlamaWeights

_Floats = npt.NDArray[np.float32]
_Hear = Callable[[str, _Floats], None]


def reference_logits(
    weights: LlamaWeights,
    ids: Sequence[int],
    *,
    tell: Callable[[float], None],
    hear: _Hear = lambda _name, _x: None,
) -> npt.NDArray[np.float32]:
    """Return the logits after each of `ids`, f32 [tokens, vocabulary]; `tell` hears which part is done, from 0 to 1.

    `hear` gets what matrices are multiplied by, f32 [tokens, numbers], with the name of the first of these.
    """
    shape = weights.shape
    x = _vectors(weights, ids)
    turned = _turns(weights, len(ids))
    for layer in range(shape.layers):
        normed = _norm(x, weights.floats(of(layer, "attn_norm.weight")), shape.epsilon)
        hear(of(layer, "attn_q.weight"), normed)
        x += _attention(weights, layer, normed, turned)
        normed = _norm(x, weights.floats(of(layer, "ffn_norm.weight")), shape.epsilon)
        hear(of(layer, "ffn_gate.weight"), normed)
        gate = normed @ weights.floats(of(layer, "ffn_gate.weight")).T
        up = normed @ weights.floats(of(layer, "ffn_up.weight")).T
        gated = (gate / (1 + np.exp(-gate)) * up).astype(np.float32)
        hear(of(layer, "ffn_down.weight"), gated)
        x += gated @ weights.floats(of(layer, "ffn_down.weight")).T
        tell((layer + 1) / (shape.layers + 1))
    x = _norm(x, weights.floats(LAST_NORM), shape.epsilon)
    hear(HEAD, x)
    logits = np.empty((len(ids), shape.vocabulary), np.float32)
    for start, piece in weights.pieces(HEAD):
        logits[:, start : start + len(piece)] = x @ piece.T
    tell(1.0)
    return logits


def _vectors(weights: LlamaWeights, ids: Sequence[int]) -> _Floats:
    """Return the vectors of tokens, f32 [tokens, hidden]."""
    wanted = np.asarray(ids)
    x = np.empty((len(ids), weights.shape.hidden), np.float32)
    for start, piece in weights.pieces(EMBEDDING):
        here = (wanted >= start) & (wanted < start + len(piece))
        x[here] = piece[wanted[here] - start]
    return x


def _turns(weights: LlamaWeights, tokens: int) -> tuple[_Floats, _Floats]:
    """Return cosines and sines, f32 [tokens, 1, half of a head's size]."""
    shape = weights.shape
    exponents = np.arange(shape.head_size // 2) * 2 / shape.head_size
    steps = shape.rope_base**-exponents / weights.rope_factors() / shape.rope_scale
    angles = np.arange(tokens)[:, None, None] * steps
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _attention(
    weights: LlamaWeights, layer: int, x: _Floats, turned: tuple[_Floats, _Floats]
) -> _Floats:
    shape = weights.shape
    parts: list[_Floats] = []
    for part in "qkv":
        out = x @ weights.floats(of(layer, f"attn_{part}.weight")).T
        if shape.has_biases:
            out = out + weights.floats(of(layer, f"attn_{part}.bias"))
        parts.append(out.reshape(len(x), -1, shape.head_size))
    query, key, value = _turn(parts[0], turned), _turn(parts[1], turned), parts[2]
    group = shape.heads // shape.kv_heads
    hidden_from = np.triu(np.ones((len(x), len(x)), bool), 1)
    heads: list[_Floats] = []
    for head in range(shape.heads):
        scores = query[:, head] @ key[:, head // group].T / np.sqrt(np.float32(shape.head_size))
        scores[hidden_from] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append((scores / scores.sum(-1, keepdims=True)) @ value[:, head // group])
    joined = np.concatenate(heads, -1)
    return joined @ weights.floats(of(layer, "attn_output.weight")).T


def _turn(x: _Floats, turned: tuple[_Floats, _Floats]) -> _Floats:
    """Return queries or keys, f32 [tokens, heads, head size], turned by their positions: the halves of a head are the pairs."""
    cosines, sines = turned
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    whole = np.concatenate([first * cosines - second * sines, second * cosines + first * sines], -1)
    return whole.astype(np.float32, copy=False)


def _norm(x: _Floats, gain: _Floats, epsilon: float) -> _Floats:
    size = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(epsilon))
    scaled: _Floats = (x / size * gain).astype(np.float32, copy=False)
    return scaled
