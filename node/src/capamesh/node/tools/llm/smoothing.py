"""Moves what is uneven in the inputs of matrices into their weights, so that both survive rounding by rows. Pure.

A row of inputs that is rounded in units of its largest number loses its small ones, and in a language model a few places of all rows hold
numbers many times as large as all others. Such places are divided by a factor where they are made, in the gain of a norm or the rows of
a matrix before, and the weights that multiply them take it up: the model is the same, and nothing is added to a run. A factor is the root
of how large the place's inputs become over how large its weights are (SmoothQuant, Xiao et al. 2023, with a strength of 0.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from capamesh.node.tools.llm.llama_shape import HEAD, LAST_NORM, of
from capamesh.node.tools.llm.reference import reference_logits

if TYPE_CHECKING:
    from capamesh.node.tools.llm.gguf_llama import LlamaWeights

_LEAST: Final = np.float32(1e-5)
"""The size that inputs and weights have at least, so that places of zeros get a factor too (SmoothQuant's)."""


def smoothed(
    weights: LlamaWeights, ids: Sequence[int], *, tell: Callable[[float], None]
) -> LlamaWeights:
    """Return weights of the same model, smoothed by what its matrices are multiplied by while it reads `ids`; `tell` hears which part is done.

    Attention's outputs stay as they are: a factor for them would have to be that of several heads at once.
    """
    sizes: dict[str, npt.NDArray[np.float32]] = {}

    def hear(name: str, x: npt.NDArray[np.float32]) -> None:
        sizes[name] = np.abs(x).max(0)

    reference_logits(weights, ids, tell=tell, hear=hear)
    rows: dict[str, npt.NDArray[np.float32]] = {}
    numbers: dict[str, npt.NDArray[np.float32]] = {}

    def move(matrices: Sequence[str]) -> npt.NDArray[np.float32]:
        """Multiply matrices of one input by their factors; return what that input is to be multiplied by."""
        inputs = sizes[matrices[0]]
        most = np.zeros_like(inputs)
        for name in matrices:
            for _, piece in weights.pieces(name):
                np.maximum(most, np.abs(piece).max(0), out=most)
        factors = np.sqrt(np.maximum(inputs, _LEAST) / np.maximum(most, _LEAST))
        for name in matrices:
            numbers[name] = factors
        return (1 / factors).astype(np.float32, copy=False)

    for layer in range(weights.shape.layers):
        attention = [of(layer, f"attn_{part}.weight") for part in "qkv"]
        gate, up, down = (of(layer, f"ffn_{part}.weight") for part in ("gate", "up", "down"))
        numbers[of(layer, "attn_norm.weight")] = move(attention)
        numbers[of(layer, "ffn_norm.weight")] = move([gate, up])
        rows[up] = move([down])
    numbers[LAST_NORM] = move([HEAD])
    return weights.scaled(rows=rows, numbers=numbers)
