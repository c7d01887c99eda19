"""Reads a model of Llama's architecture out of a GGUF file: its shape, and its weights as floats or as the file's blocks. Reads a mapped file.

The rows of queries and keys of some architectures lie in GGUF as llama.cpp turns them, pair by pair. Here they lie as two halves of
a head, as ONNX Runtime turns them: whole rows change places, so that blocks stay what they are.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from capamesh.node.tools.llm.gguf_blocks import FOUR_BIT_TYPES, FourBits, dequantised, four_bits
from capamesh.node.tools.llm.gguf_file import GgmlType, GgufFile, GgufTensor
from capamesh.node.tools.llm.llama_shape import EMBEDDING, HEAD, ROPE_FACTORS, LlamaShape, of
from capamesh.protocol.errors import ModelInvalid

MAX_LAYERS: Final = 1024  # guess: the largest have 126
MAX_SIZE: Final = 2**20  # guess: the largest hidden size is 16,384
MAX_HEADS: Final = 4096
MAX_CONTEXT: Final = 2**20
MAX_BASE: Final = 1e12
_PIECE_NUMBERS: Final = 2**22
"""The numbers that are floats at a time (guess: 16 MiB, so that a large matrix is never there as a whole)."""
_TURNED: Final = re.compile(r"blk\.[0-9]+\.attn_([qk])\.(?:weight|bias)")
_SHOWN_NAMES: Final = 5
Factors: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
"""The type of the numbers that tensors are multiplied by, f32, by the tensors' names."""
_FLOATS: Final = frozenset({GgmlType.F32, GgmlType.F16, GgmlType.BF16})


class _Architecture(NamedTuple):
    """The ways in which an architecture differs from Llama's."""

    is_turned: bool
    """True if rows of queries and keys lie as llama.cpp turns them."""
    has_biases: bool | None
    """True if there are biases of queries, keys and values; None: as the file has them."""


ARCHITECTURES: Final = {
    "llama": _Architecture(is_turned=True, has_biases=None),
    "mistral": _Architecture(is_turned=True, has_biases=None),
    "qwen2": _Architecture(is_turned=False, has_biases=True),
}
"""The architectures that can be converted, by GGUF's names; a Mistral model is called "llama" there."""


class LlamaWeights:
    """The weights of one model, by the names of `LlamaShape.tensors`; `HEAD` is the table of tokens' vectors where that is the last matrix too."""

    def __init__(self, file: GgufFile, shape: LlamaShape) -> None:
        """Raises ModelInvalid where a tensor is missing, is not of the shape that it must have, or is one that no such model has."""
        self.shape = shape
        self._of_rows: Factors = {}
        self._of_numbers: Factors = {}
        self._tensors = file.tensors
        self._is_turned = ARCHITECTURES[shape.architecture].is_turned
        expected = shape.tensors()
        for name, wanted in expected.items():
            tensor = file.tensors.get(name)
            if tensor is None or tensor.shape != wanted:
                said = "is missing" if tensor is None else f"has the shape {list(tensor.shape)}"
                raise ModelInvalid(f"tensor {name!r} {said}; it must be {list(wanted)}")
            if len(wanted) == 1 and tensor.kind not in _FLOATS:
                raise ModelInvalid(f"tensor {name!r} is {tensor.kind.name}; it must be of floats")
        others = sorted(file.tensors.keys() - expected.keys() - {ROPE_FACTORS})
        if others:
            raise ModelInvalid(
                f"the file has {len(others)} tensors that no plain model of {shape.architecture!r} has, such as"
                f" {', '.join(others[:_SHOWN_NAMES])}: convert it with onnxruntime-genai's builder"
            )

    @property
    def has_four_bits(self) -> bool:
        """True if the file itself has matrices in blocks of 4 bits, those of tokens' vectors aside."""
        return any(
            tensor.kind in FOUR_BIT_TYPES and name not in {EMBEDDING, HEAD}
            for name, tensor in self._tensors.items()
        )

    def kind(self, name: str) -> GgmlType:
        """Return the type that a tensor's numbers have in the file."""
        return self._tensors[name].kind

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        """Return a whole tensor, f32 in the shape of `LlamaShape.tensors`."""
        tensor = self._tensor(name)
        whole = dequantised(tensor.kind, self._rows(tensor)).reshape(tensor.shape)
        return self._scaled(name, whole, slice(None))

    def pieces(self, name: str) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield a matrix in pieces: the first row of each, and its rows, f32 [rows, numbers of a row]."""
        tensor = self._tensor(name)
        rows, width = tensor.shape
        step = max(1, _PIECE_NUMBERS // width)
        raw = self._rows(tensor)
        for start in range(0, rows, step):
            here = slice(start, start + step)
            yield start, self._scaled(name, dequantised(tensor.kind, raw[here]), here)

    def scaled(self, *, rows: Factors, numbers: Factors) -> LlamaWeights:
        """Return the same weights, as floats, of which some are multiplied; blocks stay those of the file.

        `rows` has a factor for each row of matrices, f32 [rows]; `numbers` one for each number of a row, or of a vector, f32 [numbers].
        """
        made = copy.copy(self)
        vars(made).update(_of_rows=rows, _of_numbers=numbers)
        return made

    def four_bits(self, name: str) -> FourBits:
        """Return a matrix of one of `FOUR_BIT_TYPES` as it is in the file, in the shapes of `FourBits`."""
        tensor = self._tensors[name]
        return four_bits(tensor.kind, self._rows(tensor))

    def rope_factors(self) -> npt.NDArray[np.float32]:
        """Return the factors of positions, f32 [half of a head's size]: 1 where the file has none. Raises ModelInvalid."""
        half = self.shape.head_size // 2
        tensor = self._tensors.get(ROPE_FACTORS)
        if tensor is None:
            return np.ones(half, np.float32)
        factors = self.floats(ROPE_FACTORS)
        if factors.shape != (half,) or not (factors > 0).all():
            raise ModelInvalid(f"tensor {ROPE_FACTORS!r} must have {half} numbers over 0")
        return factors

    def _tensor(self, name: str) -> GgufTensor:
        return self._tensors[EMBEDDING if name == HEAD and self.shape.is_tied else name]

    def _scaled(
        self, name: str, found: npt.NDArray[np.float32], here: slice
    ) -> npt.NDArray[np.float32]:
        """Return the rows `here` of a tensor with its factors."""
        if name in self._of_rows:
            found = found * self._of_rows[name][here, None]
        return found * self._of_numbers[name] if name in self._of_numbers else found

    def _rows(self, tensor: GgufTensor) -> npt.NDArray[np.uint8]:
        """Return the blocks of a tensor, u8 [rows, bytes of a row], the rows of queries and keys as halves of heads."""
        turned = _TURNED.fullmatch(tensor.name) if self._is_turned else None
        if turned is None:
            return tensor.rows
        heads = self.shape.heads if turned[1] == "q" else self.shape.kv_heads
        raw = tensor.rows
        if len(tensor.shape) == 1:  # a bias has its numbers in one row
            raw = raw.reshape(tensor.shape[0], -1)
        pairs = np.arange(raw.shape[0]).reshape(heads, -1, 2)
        return raw[pairs.swapaxes(1, 2).reshape(-1)]


def read_llama(file: GgufFile) -> LlamaWeights:
    """Return the model in a GGUF file. Raises ModelInvalid: it is of another architecture, or has what cannot be converted."""
    name = file.text("general.architecture")
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        raise ModelInvalid(
            f"the model is of the architecture {name[:80]!r}; {', '.join(ARCHITECTURES)} can be converted from GGUF:"
            " give its folder of Hugging Face, or one that onnxruntime-genai's builder wrote"
        )
    if file.whole(f"{name}.expert_count", 0, MAX_LAYERS, default=0):
        raise ModelInvalid("the model is a mixture of experts, which cannot be converted from GGUF")
    embedding = file.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise ModelInvalid(f"tensor {EMBEDDING!r} is missing or no matrix")
    has_biases = architecture.has_biases
    if has_biases is None:
        has_biases = of(0, "attn_q.bias") in file.tensors
    shape = _shape(file, name, embedding.shape[0], has_biases=has_biases)
    return LlamaWeights(file, shape)


def _shape(file: GgufFile, name: str, vocabulary: int, *, has_biases: bool) -> LlamaShape:
    hidden = file.whole(f"{name}.embedding_length", 1, MAX_SIZE)
    heads = file.whole(f"{name}.attention.head_count", 1, MAX_HEADS)
    kv_heads = file.whole(f"{name}.attention.head_count_kv", 1, MAX_HEADS, default=heads)
    size = file.whole(f"{name}.attention.key_length", 1, MAX_SIZE, default=hidden // heads)
    if heads % kv_heads or size % 8:
        raise ModelInvalid(
            f"the model has {heads} heads of {size} numbers and {kv_heads} of keys; heads must be a multiple of those of"
            " keys, and their numbers one of 8"
        )
    for key in ("attention.value_length", "rope.dimension_count"):
        if (value := file.whole(f"{name}.{key}", 1, MAX_SIZE, default=size)) != size:
            raise ModelInvalid(
                f"metadata {name}.{key} is {value}, and a head has {size} numbers; such models cannot be converted from GGUF"
            )
    context = file.whole(f"{name}.context_length", 2, MAX_CONTEXT)
    window = file.whole(f"{name}.attention.sliding_window", 0, MAX_CONTEXT, default=0)
    return LlamaShape(
        architecture=name,
        layers=file.whole(f"{name}.block_count", 1, MAX_LAYERS),
        hidden=hidden,
        feed_forward=file.whole(f"{name}.feed_forward_length", 1, MAX_SIZE),
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        vocabulary=vocabulary,
        # Within its window a model that slides is one that does not.
        context=min(context, window) if window > 1 else context,
        epsilon=file.real(f"{name}.attention.layer_norm_rms_epsilon", 0.0, 1.0),
        rope_base=file.real(f"{name}.rope.freq_base", 1.0, MAX_BASE, default=10_000.0),
        rope_scale=_rope_scale(file, name),
        has_biases=has_biases,
        is_tied=HEAD not in file.tensors,
    )


def _rope_scale(file: GgufFile, name: str) -> float:
    kind = file.text(f"{name}.rope.scaling.type", default="none")
    if kind not in {"none", "linear"}:
        raise ModelInvalid(
            f"the positions of the model are scaled as {kind[:80]!r}; none and linear can be converted from GGUF"
        )
    factor = file.real(f"{name}.rope.scaling.factor", 1e-3, 1e6, default=1.0)
    return factor if kind == "linear" else 1.0
