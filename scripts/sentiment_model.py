"""A classifier of texts by VADER's list of words, each with the mood that people gave it. Makes ONNX and its tokenizer.

The scores are a simple part of VADER's own rules: the moods of a text's words are added up, a word after a negation counts the
other way round, and the sum is squeezed between -1 and 1. Capitals, emphasis and idioms are not looked at.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

LABELS = ("negative", "neutral", "positive")
NEGATIONS = (
    "not",
    "no",
    "never",
    "none",
    "nobody",
    "nothing",
    "neither",
    "nor",
    "without",
    "cannot",
)
TURNED = -0.74  # VADER's N_SCALAR
SQUEEZED = 15.0  # VADER's alpha
THRESHOLD = 0.05  # VADER's: a sum nearer to 0 is neutral
REACH = 3  # VADER's: a negation turns the mood of as many words behind it
PAD, UNKNOWN = "[PAD]", "[UNK]"
_WORD = re.compile(r"[a-z]+")


def moods(lexicon: Path) -> dict[str, float]:
    """Return the mood of each word, -4 to 4, of the file `vader_lexicon.txt`; what is no plain word is left out."""
    found: dict[str, float] = {}
    for line in lexicon.read_text(encoding="utf-8").splitlines():
        word, mood, *_ = line.split("\t")
        if _WORD.fullmatch(word) and word not in NEGATIONS:
            found[word] = float(mood)
    return found


def tokenizer(words: list[str]) -> bytes:
    """Return the file of a tokenizer with one token a word; the contraction n't is a negation of its own."""
    vocabulary = {word: at for at, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    made.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace("\u2019", "'"),
            normalizers.Replace("n't", " not"),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made.to_str().encode()


def model(words: list[str], of_word: dict[str, float], *, opset: int, ir_version: int) -> bytes:
    """Return the model: `input_ids`, INT64 [rows, tokens], to `scores`, FP32 [rows, 3], in the order of `LABELS`."""
    mood = np.array([of_word.get(word, 0.0) for word in words], np.float32)
    negates = np.array([word in NEGATIONS for word in words], np.float32)
    constants = {
        "mood": mood,
        "negates": negates,
        "turned": np.array(TURNED - 1, np.float32),
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.float32),
        "threshold": np.array(THRESHOLD, np.float32),
        "squeezed": np.array(SQUEEZED, np.float32),
        "start": np.array([0], np.int64),
        "axis": np.array([1], np.int64),
        "before": np.array([0, REACH, 0, 0], np.int64),
        "last": np.array([-1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["mood", "input_ids"], ["moods"]),
        node("Gather", ["negates", "input_ids"], ["negations"]),
        # whether one of the words before is a negation: a window of REACH that ends before each word
        node("Pad", ["negations", "before"], ["padded"]),
        node("Slice", ["padded", "start", "last", "axis"], ["shifted"]),
        node("Unsqueeze", ["shifted", "axis"], ["channel"]),
        node("MaxPool", ["channel"], ["pooled"], kernel_shape=[REACH]),
        node("Squeeze", ["pooled", "axis"], ["is_negated"]),
        node("Mul", ["is_negated", "turned"], ["change"]),
        node("Add", ["change", "one"], ["factor"]),
        node("Mul", ["moods", "factor"], ["counted"]),
        node("ReduceSum", ["counted", "axis"], ["sum"], keepdims=1),
        node("Mul", ["sum", "sum"], ["square"]),
        node("Add", ["square", "squeezed"], ["wide"]),
        node("Sqrt", ["wide"], ["root"]),
        node("Div", ["sum", "root"], ["compound"]),
        # three scores that add up to 1, of which the second is the largest within the threshold
        node("Max", ["compound", "zero"], ["above"]),
        node("Neg", ["compound"], ["opposite"]),
        node("Max", ["opposite", "zero"], ["below"]),
        node("Abs", ["compound"], ["strength"]),
        node("Add", ["strength", "threshold"], ["whole"]),
        node("Div", ["below", "whole"], ["negative"]),
        node("Div", ["threshold", "whole"], ["neutral"]),
        node("Div", ["above", "whole"], ["positive"]),
        node("Concat", ["negative", "neutral", "positive"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "sentiment",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "tokens"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", len(LABELS)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = ir_version
    onnx.checker.check_model(made)
    return made.SerializeToString()
