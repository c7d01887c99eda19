"""Makes the ONNX file of a decoder whose cache of keys and values lies in slots of one buffer. Writes files.

One run serves B sequences of S new tokens each, where only B or S may be over 1 once there is a past: several tokens of one
sequence, which is a prompt or a part of one, or one token of each of several. `seqlens_k` says of each sequence how many tokens lie
in its slot after the run, less one, so that slots of any lengths stand side by side, and past and present are one buffer, which
GroupQueryAttention writes in place. `rows` are the places of B*S whose logits are wanted: none of a prompt's earlier parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np

from capamesh.node.tools.llm.gguf_blocks import BLOCK
from capamesh.node.tools.llm.llama_shape import EMBEDDING, HEAD, LAST_NORM, of
from capamesh.node.tools.llm.matrix_products import MICROSOFT, InUnits, MatrixProducts
from capamesh.node.tools.llm.quantising import (
    FEW_BITS,
    Form,
    WeightKind,
    block_weights,
    form_of,
    row_weights,
)
from capamesh.node.tools.llm.weight_file import WeightFile
from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    import onnx

    from capamesh.node.tools.llm.gguf_llama import LlamaWeights

_Untyped = Any
"""The `onnx` package, whose own types are incomplete."""

INPUT_IDS: Final = "input_ids"
LENGTHS: Final = "seqlens_k"
TOTAL: Final = "total_sequence_length"
ROWS: Final = "rows"
LOGITS: Final = "logits"
PAST_KEYS: Final = "past_key_values.%d.key"
PAST_VALUES: Final = "past_key_values.%d.value"
PRESENT_KEYS: Final = "present.%d.key"
PRESENT_VALUES: Final = "present.%d.value"
"""The names of inputs and outputs; those of the cache are onnxruntime-genai's."""

_OPSET: Final = 21
_IR_VERSION: Final = (
    10  # ONNX Runtime 1.31 reads up to 13; older numbers let older runtimes read it
)


def write_decoder(
    weights: LlamaWeights, kind: WeightKind, path: Path, *, tell: Callable[[float], None]
) -> None:
    """Write the decoder to `path` and its weights into a file beside it; `tell` hears which part is done, from 0 to 1.

    ModelInvalid: the model's rows do not divide into blocks. OSError: the disk is full.
    """
    import onnx  # noqa: PLC0415 - an extra

    shape = weights.shape
    if kind in FEW_BITS and any(
        width % BLOCK for width in (shape.hidden, shape.feed_forward, shape.heads * shape.head_size)
    ):
        raise ModelInvalid(
            f"the model's rows of {shape.hidden}, {shape.feed_forward} and {shape.heads * shape.head_size} numbers do not"
            f" divide into blocks of {BLOCK}: import it with --weights fp16 or fp32"
        )
    with WeightFile(path.with_name(path.name + ".data")) as file:
        graph = _Decoder(weights, kind, file)
        model = graph.model(tell)
    cast("_Untyped", onnx).save_model(model, path)


class _Branch(NamedTuple):
    """The two tensors that go from one layer to the next."""

    residual: str
    """The sum of all layers so far, [B, S, hidden]."""
    normed: str
    """The same, normalised."""


class _Decoder(MatrixProducts):
    """The nodes and weights of one decoder, in the making."""

    def __init__(self, weights: LlamaWeights, kind: WeightKind, file: WeightFile) -> None:
        from onnx import TensorProto  # noqa: PLC0415 - an extra

        super().__init__(weights, np.float16 if kind is WeightKind.FP16 else np.float32, file)
        self._shape = weights.shape
        self._kind = kind
        self._float: int = TensorProto.FLOAT16 if kind is WeightKind.FP16 else TensorProto.FLOAT
        self._types = TensorProto

    def model(self, tell: Callable[[float], None]) -> onnx.ModelProto:
        """Return the whole model; its weights are written on the way."""
        shape = self._shape
        self._positions()
        branch = self._first()
        for layer in range(shape.layers):
            branch = self._layer(layer, branch)
            tell((layer + 1) / (shape.layers + 1))
        self._head(branch.normed)
        tell(1.0)
        inputs, outputs = self._signature()
        graph = self._helper.make_graph(
            self._nodes, "decoder", inputs, outputs, list(self._constants.values())
        )
        opsets = [
            self._helper.make_opsetid("", _OPSET),
            self._helper.make_opsetid(MICROSOFT, 1),
        ]
        model = self._helper.make_model(
            graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="capamesh"
        )
        return cast("onnx.ModelProto", model)

    # parts of the model

    def _positions(self) -> None:
        """Add the cosines and sines by which positions turn queries and keys, [context, half of a head's size] each."""
        shape = self._shape
        turns = 1.0 / shape.rope_base ** (
            np.arange(0, shape.head_size, 2, dtype=np.float64) / shape.head_size
        )
        turns /= self._weights.rope_factors() * shape.rope_scale
        angles = np.arange(shape.context, dtype=np.float64)[:, None] * turns
        self._constant("cos_cache", np.cos(angles).astype(self._dtype))
        self._constant("sin_cache", np.sin(angles).astype(self._dtype))

    def _first(self) -> _Branch:
        """Add the table of tokens' vectors, and the norm of the first layer."""
        name = "model.embed_tokens.weight"
        if self._is_quantised:
            codes = block_weights(self._weights, [EMBEDDING], Form.EIGHT)
            rows = codes.codes.reshape(self._shape.vocabulary, -1)
            inputs = [
                self._constant(f"{name}_Q8", rows, is_shared=True),
                INPUT_IDS,
                self._constant(f"{name}_scale", codes.scales),
            ]
            out = self._op(
                "GatherBlockQuantized",
                inputs,
                ["embedded"],
                MICROSOFT,
                bits=8,
                block_size=BLOCK,
                gather_axis=0,
                quantize_axis=1,
            )
        else:
            out = self._op("Gather", [self._matrix(name, EMBEDDING), INPUT_IDS], ["embedded"])
        normed = self._op(
            "SimplifiedLayerNormalization",
            [out, self._gain("model.layers.0.input_layernorm.weight", of(0, "attn_norm.weight"))],
            ["layers.0.input"],
            axis=-1,
            epsilon=self._shape.epsilon,
            stash_type=1,
        )
        return _Branch(out, normed)

    def _layer(self, layer: int, branch: _Branch) -> _Branch:
        shape, prefix = self._shape, f"layers.{layer}"
        attended = self._attention(layer, branch.normed)
        out = self._multiplied(attended, f"{prefix}.attn.o_proj", [of(layer, "attn_output.weight")])
        branch = self._norm(
            out, branch.residual, f"{prefix}.post_attention", of(layer, "ffn_norm.weight")
        )
        gate, up = self._gate_and_up(layer, branch.normed)
        sigmoid = self._op(
            "QuickGelu", [gate], [f"{prefix}.mlp.activated"], MICROSOFT, alpha=1.0
        )  # x times its sigmoid
        gated = self._op("Mul", [sigmoid, up], [f"{prefix}.mlp.gated"])
        out = self._multiplied(gated, f"{prefix}.mlp.down_proj", [of(layer, "ffn_down.weight")])
        is_last = layer + 1 == shape.layers
        gain = LAST_NORM if is_last else of(layer + 1, "attn_norm.weight")
        return self._norm(
            out, branch.residual, "norm" if is_last else f"layers.{layer + 1}.input", gain
        )

    def _attention(self, layer: int, x: str) -> str:
        """Add queries, keys and values, as one matrix where all three have one form, and what they attend to."""
        shape, prefix = self._shape, f"layers.{layer}.attn"
        names = [of(layer, f"attn_{part}.weight") for part in "qkv"]
        biases = [of(layer, f"attn_{part}.bias") for part in "qkv"]
        if len({self._form(name) for name in names}) == 1:
            out = self._multiplied(x, f"{prefix}.qkv_proj", names)
            parts = [self._biased(out, f"{prefix}.qkv_proj", biases), "", ""]
        else:
            parts = [
                self._biased(
                    self._multiplied(x, f"{prefix}.{part}_proj", [name]),
                    f"{prefix}.{part}_proj",
                    [bias],
                )
                for part, name, bias in zip("qkv", names, biases, strict=True)
            ]
        inputs = [*parts, PAST_KEYS % layer, PAST_VALUES % layer, LENGTHS, TOTAL]
        outputs = [f"{prefix}.attended", PRESENT_KEYS % layer, PRESENT_VALUES % layer]
        return self._op(
            "GroupQueryAttention",
            [*inputs, "cos_cache", "sin_cache"],
            outputs,
            MICROSOFT,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
        )

    def _gate_and_up(self, layer: int, x: str) -> tuple[str, str]:
        """Add the two matrices of a layer's feed-forward part, as one where both have one form: 5 to 15 % quicker (measured)."""
        prefix = f"layers.{layer}.mlp"
        gate, up = (of(layer, f"ffn_{part}.weight") for part in ("gate", "up"))
        if self._form(gate) is not self._form(up):
            return (
                self._multiplied(x, f"{prefix}.gate_proj", [gate]),
                self._multiplied(x, f"{prefix}.up_proj", [up]),
            )
        out = self._multiplied(x, f"{prefix}.gate_up_proj", [gate, up])
        halves = (f"{prefix}.gate", f"{prefix}.up")
        self._op("Split", [out], list(halves), axis=-1, num_outputs=2)
        return halves

    def _head(self, x: str) -> None:
        """Add the choice of rows, and the matrix of all tokens, of 8 bits where weights are quantised."""
        size = self._constant("hidden_rows", np.array([-1, self._shape.hidden], np.int64))
        flat = self._op("Reshape", [x, size], ["hidden"])
        if self._kind is WeightKind.W8A8:
            self._head_of_rows(flat)
            return
        rows = self._op("Gather", [flat, ROWS], ["hidden_of_rows"], axis=0)
        source = EMBEDDING if self._shape.is_tied else HEAD
        if not self._is_quantised:
            name = "model.embed_tokens.weight" if self._shape.is_tied else "lm_head.weight"
            out = LOGITS if self._float == self._types.FLOAT else "logits_of_halves"
            self._op("Gemm", [rows, self._matrix(name, source), ""], [out], transB=1)
            if out != LOGITS:
                self._op("Cast", [out], [LOGITS], to=self._types.FLOAT)
        elif self._shape.is_tied:
            self._tied_head(rows)
        else:
            blocks = block_weights(self._weights, [source], Form.EIGHT)
            self._block_product(rows, LOGITS, "lm_head", blocks)

    def _head_of_rows(self, x: str) -> None:
        """Add the last matrix as one with scales for rows. The rows of `x` are chosen as codes, for of no rows there is no largest number."""
        codes, most = (
            self._op("Gather", [part, ROWS], [f"{part}_of_rows"], axis=0)
            for part in self._in_units(x)
        )
        self._row_product(
            InUnits(codes, most), LOGITS, "lm_head", row_weights(self._weights, [HEAD])
        )

    def _tied_head(self, rows: str) -> None:
        """Add the last matrix as one whose bytes are those of the table of tokens' vectors."""
        shape, table = self._shape, "model.embed_tokens.weight"
        blocks = shape.hidden // BLOCK
        codes = self._again("lm_head_Q8", f"{table}_Q8", (shape.vocabulary, blocks, BLOCK))
        inputs = [rows, codes, f"{table}_scale"]
        self._matmul_bits(inputs, LOGITS, shape.vocabulary, shape.hidden, 8)

    # what parts are made of

    @property
    def _is_quantised(self) -> bool:
        return self._kind in FEW_BITS

    def _form(self, name: str) -> Form:
        return form_of(self._weights, name, self._kind)

    def _norm(self, x: str, residual: str, name: str, gain: str) -> _Branch:
        """Add a sum and its norm; of the last norm's sum nothing is needed any more."""
        total = f"{name}.residual"
        outputs = [f"{name}.normed", "", "", total] if gain != LAST_NORM else [f"{name}.normed"]
        weight = self._gain(f"model.{name}_layernorm.weight", gain)
        normed = self._op(
            "SkipSimplifiedLayerNormalization",
            [x, residual, weight],
            outputs,
            MICROSOFT,
            epsilon=self._shape.epsilon,
        )
        return _Branch(total, normed)

    def _biased(self, x: str, name: str, biases: Sequence[str]) -> str:
        if not self._shape.has_biases:
            return x
        bias = np.concatenate([self._weights.floats(each) for each in biases])
        weight = self._constant(f"model.{name}.bias", bias.astype(self._dtype))
        return self._op("Add", [x, weight], [f"{name}.biased"])

    def _multiplied(self, x: str, name: str, matrices: Sequence[str]) -> str:
        """Add the product of `x` with matrices of one form, one below the other."""
        return self._product(x, f"{name}.out", name, matrices, self._form(matrices[0]))

    def _gain(self, name: str, source: str) -> str:
        return self._constant(name, self._weights.floats(source).astype(self._dtype))

    def _matrix(self, name: str, source: str) -> str:
        """Return a matrix of floats that is taken as it lies, [rows, numbers]; one name is written once."""
        if name not in self._constants:
            self._constant(name, self._weights.floats(source).astype(self._dtype))
        return name

    def _signature(self) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
        info, types, shape = self._helper.make_tensor_value_info, self._types, self._shape
        inputs = [
            info(INPUT_IDS, types.INT64, ["sequences", "tokens"]),
            info(LENGTHS, types.INT32, ["sequences"]),
            info(TOTAL, types.INT32, [1]),
            info(ROWS, types.INT64, ["rows"]),
        ]
        outputs = [info(LOGITS, types.FLOAT, ["rows", shape.vocabulary])]
        cache = ["sequences", shape.kv_heads, "slot_length", shape.head_size]
        for layer in range(shape.layers):
            for past, present in ((PAST_KEYS, PRESENT_KEYS), (PAST_VALUES, PRESENT_VALUES)):
                inputs.append(info(past % layer, self._float, cache))
                outputs.append(info(present % layer, self._float, cache))
        return inputs, outputs
