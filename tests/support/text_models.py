"""A small encoder of texts with its tokenizer, and a classifier of texts, as folders that a node serves. Writes files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from engine_models import model_of, save
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
ids = "raw"
max_tokens = 8
truncate = false
max_chars = 100
"""


def table() -> np.ndarray:
    """Return the vector of each token, f32 [tokens, DIMENSIONS]."""
    return np.random.default_rng(7).standard_normal((len(WORDS), DIMENSIONS)).astype(np.float32)


def tokenizer() -> bytes:
    """Return a tokenizer's file: words in lower case, [CLS] before a text and [SEP] behind it.

    As many files do, it says to pad all texts to 16 tokens, which a node does not heed.
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
    made.enable_padding(length=16, pad_id=0, pad_token="[PAD]")  # noqa: S106 - no password
    made.enable_truncation(16)
    return made.to_str().encode()


def encoder() -> onnx.ModelProto:
    """Return a model whose output `hidden` is `table` at each token.

    The mask is taken and changes nothing: what lies behind a text's end is left to whoever makes one vector of it.
    """
    return model_of(
        f"""encoder (int64[rows, tokens] input_ids, int64[rows, tokens] attention_mask) => (float[rows, tokens, {DIMENSIONS}] hidden)
        {{ hidden = Gather(table, input_ids) unused = Identity(attention_mask) }}""",
        table=table(),
    )


def classifier() -> onnx.ModelProto:
    """Return a model whose `scores` count the words "bad" and "good" of each text."""
    bad, good = WORDS.index("bad"), WORDS.index("good")
    return model_of(
        f"""classifier (int64[rows, tokens] raw) => (float[rows, 2] scores)
        <int64[2] words = {{{bad}, {good}}}, int64[1] axis = {{1}}, int64[1] last = {{2}}> {{
            input_ids = Unsqueeze(raw, last)
            found = Equal(input_ids, words)
            ones = Cast <to = 1> (found)
            scores = ReduceSum <keepdims = 0> (ones, axis)
        }}"""
    )


def write_encoder(models_folder: Path, name: str = "words") -> None:
    _write(models_folder / name, encoder(), EMBEDDING_MANIFEST)


def write_classifier(models_folder: Path, name: str = "mood") -> None:
    _write(models_folder / name, classifier(), CLASSIFIER_MANIFEST)
    (models_folder / name / "labels.txt").write_text("bad\ngood\n")


def _write(folder: Path, model: onnx.ModelProto, manifest: str) -> None:
    file = save(model, folder.parent, folder.name, manifest=manifest)
    (file.parent / "tokenizer.json").write_bytes(tokenizer())
