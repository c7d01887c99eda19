"""The shape of a model of Llama's architecture, and the tensors that it has. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

EMBEDDING: Final = "token_embd.weight"
"""The names of tensors are those of GGUF."""
HEAD: Final = "output.weight"
LAST_NORM: Final = "output_norm.weight"
ROPE_FACTORS: Final = "rope_freqs.weight"
"""The factors by which positions turn the more slowly, one for each pair of a head's numbers; a model may have none."""


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The sizes of a model, and the constants of its operators."""

    architecture: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    """The most tokens of a sequence."""
    epsilon: float
    rope_base: float
    rope_scale: float = 1.0
    """The number that positions are divided by."""
    has_biases: bool = False
    """True if queries, keys and values have biases."""
    is_tied: bool = False
    """True if the tokens' vectors are the last matrix too."""

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the tensors that the model has, with their shapes; factors of positions aside."""
        query, key = self.heads * self.head_size, self.kv_heads * self.head_size
        found: dict[str, tuple[int, ...]] = {
            EMBEDDING: (self.vocabulary, self.hidden),
            LAST_NORM: (self.hidden,),
        }
        if not self.is_tied:
            found[HEAD] = (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            of_layer: dict[str, tuple[int, ...]] = {
                "attn_norm.weight": (self.hidden,),
                "attn_q.weight": (query, self.hidden),
                "attn_k.weight": (key, self.hidden),
                "attn_v.weight": (key, self.hidden),
                "attn_output.weight": (self.hidden, query),
                "ffn_norm.weight": (self.hidden,),
                "ffn_gate.weight": (self.feed_forward, self.hidden),
                "ffn_up.weight": (self.feed_forward, self.hidden),
                "ffn_down.weight": (self.hidden, self.feed_forward),
            }
            if self.has_biases:
                of_layer |= {
                    "attn_q.bias": (query,),
                    "attn_k.bias": (key,),
                    "attn_v.bias": (key,),
                }
            found |= {of(layer, name): shape for name, shape in of_layer.items()}
        return found

    @property
    def parameters(self) -> int:
        """Return how many numbers the model has."""
        return sum(math.prod(shape) for shape in self.tensors().values())


def of(layer: int, name: str) -> str:
    """Return the full name of a layer's tensor."""
    return f"blk.{layer}.{name}"
