"""A small encoder of texts with its tokenizer, and a classifier of texts, as folders that a node serves. Writes files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from engine_models import model_of, value_of
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "sat", "good", "bad", "##s")
"""The tokens; their numbers are their places."""
DIMENSIONS = 4

EMBEDDING_MANIFEST = """
task = "text-embedding"

[text]
max_tokens = 8

[embedding]
shorten = true

[[batching.ragged]]
input = "input_ids"
mask = "attention_mask"
outputs = ["hidden"]
"""
CLASSIFIER_MANIFEST = """
task = "text-classification"

[text]
max_tokens = 8
truncate = false
max_chars = 100
"""


def table() -> np.ndarray:
    """Return the vector of each token, f32 [tokens, DIMENSIONS]."""
    return np.random.default_rng(7).standard_normal((len(WORDS), DIMENSIONS)).astype(np.float32)


def tokenizer(*, is_padded: bool = True) -> bytes:
    """Return a tokenizer's file: words in lower case, [CLS] before a text and [SEP] behind it.

    As many files do, it says to pad all texts to 16 tokens with `is_padded`, which a node does not heed.
    """
    made = Tokenizer(
        models.WordPiece({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]")  # noqa: S106 - no password
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))],
    )
    if is_padded:
        made.enable_padding(length=16, pad_id=0, pad_token="[PAD]")  # noqa: S106 - no password
        made.enable_truncation(16)
    return made.to_str().encode()


def encoder(*, has_mask: bool = True) -> onnx.ModelProto:
    """Return a model whose output `hidden`, f32 [rows, tokens, DIMENSIONS], is `table` at each token.

    The mask is taken and changes nothing: what lies behind a text's end is left to whoever makes one vector of it.
    """
    inputs = [_ids("input_ids")] + ([_ids("attention_mask")] if has_mask else [])
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["hidden"])]
    if has_mask:
        nodes.append(helper.make_node("Identity", ["attention_mask"], ["unused"]))
    output = value_of("hidden", TensorProto.FLOAT, ["rows", "tokens", DIMENSIONS])
    return model_of(nodes, inputs, [output], {"table": table()})


def classifier() -> onnx.ModelProto:
    """Return a model whose `scores`, f32 [rows, 2], count the words "bad" and "good" of each text."""
    good, bad = np.int64(WORDS.index("good")), np.int64(WORDS.index("bad"))
    nodes = [
        helper.make_node("Equal", ["input_ids", "words"], ["found"]),
        helper.make_node("Cast", ["found"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "axis"], ["scores"], keepdims=0),
    ]
    ids = helper.make_node("Unsqueeze", ["raw", "last"], ["input_ids"])
    output = value_of("scores", TensorProto.FLOAT, ["rows", 2])
    return model_of(
        [ids, *nodes],
        [_ids("raw")],
        [output],
        {
            "words": np.array([bad, good]),
            "axis": np.array([1], np.int64),
            "last": np.array([2], np.int64),
        },
    )


def write_encoder(models_folder: Path, name: str = "words") -> None:
    """Write the encoder of texts into a folder of models."""
    _write(models_folder / name, encoder(), EMBEDDING_MANIFEST)


def write_classifier(models_folder: Path, name: str = "mood") -> None:
    """Write the classifier of texts into a folder of models, with its labels."""
    _write(
        models_folder / name,
        classifier(),
        CLASSIFIER_MANIFEST.replace("[text]", '[text]\nids = "raw"'),
    )
    (models_folder / name / "labels.txt").write_text("bad\ngood\n")


def _write(folder: Path, model: onnx.ModelProto, manifest: str) -> None:
    version = folder / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(model.SerializeToString())
    (version / "tokenizer.json").write_bytes(tokenizer())
    (folder / "capamesh.toml").write_text(manifest)


def _ids(name: str) -> onnx.ValueInfoProto:
    return value_of(name, TensorProto.INT64, ["rows", "tokens"])
