"""A tiny random model of Llama's architecture, with a tokenizer: as arrays, as a GGUF file, and as a folder that can be served. Writes files.

`write_decoder_folder(folder, "q8")` is the shortest way to a decoder; all are made of one seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import gguf_writer
import numpy as np
import onnx
import onnx.parser
from gguf_writer import Raw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from capamesh.node.runtime.decoders.decoder_folder import DecoderFolder, read_decoder_folder
from capamesh.node.tools.llm.decoder_graph import write_decoder
from capamesh.node.tools.llm.genai_files import licence_of, write_files
from capamesh.node.tools.llm.gguf_file import parse_gguf
from capamesh.node.tools.llm.gguf_llama import read_llama
from capamesh.node.tools.llm.gguf_tokenizer import special_tokens, tokenizer_json
from capamesh.node.tools.llm.quantising import WeightKind

VOCABULARY: Final = 512
LAYERS: Final = 2
HIDDEN: Final = 64
FEED_FORWARD: Final = 128
HEADS: Final = 4
KV_HEADS: Final = 2
HEAD_SIZE: Final = 16
CONTEXT: Final = 512
EPSILON: Final = 1e-5
ROPE_BASE: Final = 10_000.0
BEGIN, END, START_OF_TURN, END_OF_TURN = "<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"
SPECIAL: Final = (BEGIN, END, START_OF_TURN, END_OF_TURN)
"""The special tokens, which are the first numbers: 0 to 3."""
TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS: Final = (
    "The ferry left the harbour at six in the morning, when the lamps were still on.",
    "She had promised to sell the boat before the winter, and the winter was near.",
    "What do people remember of the places that they leave? Smells and sounds.",
    "Mix the flour with the salt and the yeast, add the water, and let it rest.",
    "The tides follow the Moon, and the Moon turns around the Earth in 27 days.",
)
NORMS: Final = 0.1
"""The scatter of the gains of norms around 1."""


@dataclass(frozen=True)
class Variant:
    """A model that differs from the plain one."""

    architecture: str = "llama"
    is_tied: bool = True
    has_biases: bool = False
    hidden: int = HIDDEN
    feed_forward: int = FEED_FORWARD
    context: int = CONTEXT
    rope_factors: bool = False


PLAIN: Final = Variant()


def weights(variant: Variant = PLAIN) -> dict[str, np.ndarray]:
    """Return all weights by GGUF's names, f32 [out, in]; rows of queries and keys lie as halves of heads, as Hugging Face has them."""
    rng = np.random.default_rng(20)
    hidden, wide, keys = variant.hidden, HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE

    def matrix(rows: int, width: int, scale: float = 1.5) -> np.ndarray:
        return (rng.standard_normal((rows, width)) * scale / np.sqrt(width)).astype(np.float32)

    def gain() -> np.ndarray:
        return (1 + NORMS * rng.standard_normal(hidden)).astype(np.float32)

    made = {"token_embd.weight": matrix(VOCABULARY, hidden, 4.0), "output_norm.weight": gain()}
    if not variant.is_tied:
        made["output.weight"] = matrix(VOCABULARY, hidden, 4.0)
    if variant.rope_factors:
        made["rope_freqs.weight"] = np.linspace(1, 8, HEAD_SIZE // 2, dtype=np.float32)
    for layer in range(LAYERS):
        of_layer = {
            "attn_norm.weight": gain(),
            "attn_q.weight": matrix(wide, hidden),
            "attn_k.weight": matrix(keys, hidden),
            "attn_v.weight": matrix(keys, hidden),
            "attn_output.weight": matrix(hidden, wide),
            "ffn_norm.weight": gain(),
            "ffn_gate.weight": matrix(variant.feed_forward, hidden),
            "ffn_up.weight": matrix(variant.feed_forward, hidden),
            "ffn_down.weight": matrix(hidden, variant.feed_forward),
        }
        if variant.has_biases:
            for part, size in (("q", wide), ("k", keys), ("v", keys)):
                of_layer[f"attn_{part}.bias"] = matrix(1, size, 3.0)[0]
        made |= {f"blk.{layer}.{name}": array for name, array in of_layer.items()}
    return made


@cache
def tokenizer() -> Tokenizer:
    """Return a tokenizer of bytes with merges that some sentences gave: every text can be said in its tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 40,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def metadata(variant: Variant = PLAIN) -> dict[str, Any]:
    """Return what the GGUF file says of the model and of its tokenizer."""
    name = variant.architecture
    said = json.loads(tokenizer().to_str())["model"]
    tokens = sorted(said["vocab"], key=said["vocab"].__getitem__)
    filled = [*tokens, *(f"<|unused{n}|>" for n in range(VOCABULARY - len(tokens)))]
    control = {*SPECIAL, *filled[len(tokens) :]}
    return {
        "general.architecture": name,
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        f"{name}.block_count": LAYERS,
        f"{name}.embedding_length": variant.hidden,
        f"{name}.feed_forward_length": variant.feed_forward,
        f"{name}.attention.head_count": HEADS,
        f"{name}.attention.head_count_kv": KV_HEADS,
        f"{name}.attention.key_length": HEAD_SIZE,
        f"{name}.attention.layer_norm_rms_epsilon": EPSILON,
        f"{name}.rope.freq_base": ROPE_BASE,
        f"{name}.context_length": variant.context,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": filled,
        "tokenizer.ggml.token_type": [3 if token in control else 1 for token in filled],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in said["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.eot_token_id": 3,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def gguf(kind: int = gguf_writer.F32, variant: Variant = PLAIN, **kinds: int) -> bytes:
    """Return the model as a GGUF file whose matrices are of one of ggml's types; `kinds` has those of some parts, as attn_v=Q8_0."""
    written: dict[str, np.ndarray | Raw] = {}
    for name, array in weights(variant).items():
        if array.ndim == 1:
            written[name] = turned(name, array) if variant.architecture == "llama" else array
            continue
        part = name.removesuffix(".weight").rpartition(".")[2]
        lying = turned(name, array) if variant.architecture == "llama" else array
        written[name] = gguf_writer.quantised(lying, kinds.get(part, kind))
    return gguf_writer.gguf(metadata(variant), written)


def turned(name: str, array: np.ndarray) -> np.ndarray:
    """Return the rows of queries and keys as llama.cpp has them, pair beside pair, and all other arrays as they are."""
    part = name.rpartition("attn_")[2]
    heads = {"q": HEADS, "k": KV_HEADS}.get(part.partition(".")[0])
    if heads is None:
        return array
    rest = array.shape[1:]
    return array.reshape(heads, 2, -1, *rest).swapaxes(1, 2).reshape(-1, *rest)


def write_decoder_folder(
    folder: Path, kind: str = "fp32", source: bytes | None = None
) -> DecoderFolder:
    """Write the model with weights of a `WeightKind` into `folder`, as an import does it, and return it."""
    file = parse_gguf(memoryview(gguf() if source is None else source))
    read = read_llama(file)
    special = special_tokens(file)
    folder.mkdir(parents=True, exist_ok=True)
    write_files(
        folder,
        onnx_name="model.onnx",
        shape=read.shape,
        special=special,
        tokenizer=tokenizer_json(file, special),
        template=file.text("tokenizer.chat_template", default=""),
        licence=licence_of(file),
    )
    write_decoder(read, WeightKind(kind), folder / "model.onnx", tell=lambda _: None)
    return read_decoder_folder(folder)


def write_genai_folder(
    folder: Path,
    onnx_name: str = "decoder.onnx",
    kind: str = "fp32",
    *,
    has_positions: bool = False,
) -> None:
    """Write the model as onnxruntime-genai's builder does it: lengths are told by a mask, and all tokens have logits."""
    write_decoder_folder(folder, kind)
    made = onnx.load(folder / "model.onnx")
    graph = made.graph
    told = {"seqlens_k", "total_sequence_length", "rows"}
    kept = [one for one in graph.input if one.name not in told]
    added = ["attention_mask", "position_ids"] if has_positions else ["attention_mask"]
    around = onnx.parser.parse_graph(
        f"""around (int64[sequences, total] attention_mask, int64[sequences, tokens] position_ids)
        => (float[sequences, tokens, {VOCABULARY}] logits)
        <int64[1] last_axis = {{1}}, int64[1] one = {{1}}, int64[1] vocabulary = {{{VOCABULARY}}}> {{
            lengths = ReduceSum <keepdims = 0> (attention_mask, last_axis)
            lengths_less_one = Sub(lengths, one)
            seqlens_k = Cast <to = 6> (lengths_less_one)
            total = Shape <start = 1, end = 2> (attention_mask)
            total_sequence_length = Cast <to = 6> (total)
            places = Shape(input_ids)
            of_tokens = Concat <axis = 0> (places, vocabulary)
            logits = Reshape(flat_logits, of_tokens)
        }}"""
    )
    *counted, shaped = around.node
    tokens = [one for one in graph.node if one.output[0] not in {"hidden_of_rows", "logits"}]
    (head,) = (one for one in graph.node if one.output[0] == "logits")
    head.input[0], head.output[0] = "hidden", "flat_logits"
    nodes = [*counted, *tokens, head, shaped]
    del graph.input[:], graph.node[:]
    graph.input.extend([*kept, *around.input[: len(added)]])
    graph.node.extend(nodes)
    graph.initializer.extend(around.initializer)
    graph.output[0].CopyFrom(around.output[0])
    for name in ("model.onnx", "model.onnx.data"):
        (folder / name).unlink()
    onnx.save(made, folder / onnx_name)
    config = json.loads((folder / "genai_config.json").read_text())
    decoder = config["model"]["decoder"]
    decoder["filename"] = onnx_name
    for name in told:
        del decoder["inputs"][name]
    decoder["inputs"] |= {name: name for name in added}
    (folder / "genai_config.json").write_text(json.dumps(config))
    (folder / "NOTICE").write_text("whatever lies beside it")


def logits(made: Mapping[str, np.ndarray], ids: list[int], variant: Variant = PLAIN) -> np.ndarray:
    """Return the logits after each token, f64 [tokens, VOCABULARY], by a plain loop over layers, heads and positions."""
    of_tokens = made["token_embd.weight"].astype(np.float64)
    x = of_tokens[ids]
    factors = made.get("rope_freqs.weight", np.ones(HEAD_SIZE // 2))
    for layer in range(LAYERS):
        part = {
            name.removeprefix(f"blk.{layer}."): array.astype(np.float64)
            for name, array in made.items()
            if name.startswith(f"blk.{layer}.")
        }
        h = norm(x, part["attn_norm.weight"])
        q, k, v = (
            h @ part[f"attn_{one}.weight"].T + part.get(f"attn_{one}.bias", 0.0) for one in "qkv"
        )
        out = np.zeros((len(ids), HEADS * HEAD_SIZE))
        for head in range(HEADS):
            at = slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)
            group = head * KV_HEADS // HEADS
            of_keys = slice(group * HEAD_SIZE, (group + 1) * HEAD_SIZE)
            queries = [rotated(row, pos, factors) for pos, row in enumerate(q[:, at])]
            keys = [rotated(row, pos, factors) for pos, row in enumerate(k[:, of_keys])]
            for pos, query in enumerate(queries):
                scores = np.array([query @ key for key in keys[: pos + 1]]) / np.sqrt(HEAD_SIZE)
                shares = np.exp(scores - scores.max())
                out[pos, at] = shares / shares.sum() @ v[: pos + 1, of_keys]
        x = x + out @ part["attn_output.weight"].T
        h = norm(x, part["ffn_norm.weight"])
        gate = h @ part["ffn_gate.weight"].T
        x = (
            x
            + (gate / (1 + np.exp(-gate)) * (h @ part["ffn_up.weight"].T))
            @ part["ffn_down.weight"].T
        )
    head_matrix = of_tokens if variant.is_tied else made["output.weight"]
    return norm(x, made["output_norm.weight"]) @ head_matrix.T


def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * gain


def rotated(row: np.ndarray, position: int, factors: np.ndarray) -> np.ndarray:
    half = HEAD_SIZE // 2
    angle = position * ROPE_BASE ** (-np.arange(half) / half) / factors
    first, second = row[:half], row[half:]
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine])
