"""A tokenizer out of a GGUF file cuts texts as the one that it was written from."""

from __future__ import annotations

from typing import Any

import gguf_writer
import pytest
import tiny_llama
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from capamesh.node.tools.llm.gguf_file import GgufFile, parse_gguf
from capamesh.node.tools.llm.gguf_tokenizer import special_tokens, tokenizer_json
from capamesh.protocol.errors import ModelInvalid

KEY = "tokenizer.ggml."


def file_of(**changes: Any) -> GgufFile:
    """Return what a file says, with other values of keys of the tokenizer; None leaves one out."""
    said = {**tiny_llama.metadata(), **{KEY + key: value for key, value in changes.items()}}
    kept = {key: value for key, value in said.items() if value is not None}
    return parse_gguf(memoryview(gguf_writer.gguf(kept, {})))


def made(**changes: Any) -> Tokenizer:
    file = file_of(**changes)
    return Tokenizer.from_str(tokenizer_json(file, special_tokens(file)).decode())


PLAIN = made()


@given(st.text(max_size=40) | st.sampled_from(tiny_llama.TEXTS))
def test_texts_have_the_tokens_of_the_tokenizer_that_was_written(text: str) -> None:
    ids = PLAIN.encode(text).ids
    assert ids == tiny_llama.tokenizer().encode(text).ids
    assert PLAIN.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_are_told_by_number_and_text() -> None:
    found = special_tokens(file_of())
    assert (found.bos_id, found.end_ids, found.pad_id) == (0, (1, 3), 1)
    assert [found.texts[name] for name in ("bos_token", "eos_token")] == ["<|begin|>", "<|end|>"]
    assert not found.is_bos_added
    alone = special_tokens(file_of(eot_token_id=None, padding_token_id=None, bos_token_id=None))
    assert (alone.bos_id, alone.end_ids, alone.pad_id) == (None, (1,), 1)


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "it's 1234 x", ["it", "'s", "Ġ1234", "Ġx"]),
        ("default", "it's 1234 x", ["it", "'s", "Ġ1234", "Ġx"]),
        ("smollm", "it's 1234 x", ["it", "'s", "Ġ", "1", "2", "3", "4", "Ġx"]),
        ("llama-bpe", "It'S 1234 x\n\ny", ["It", "'S", "Ġ", "123", "4", "Ġx", "ĊĊ", "y"]),
        ("qwen2", "It'S 12 x", ["It", "'S", "Ġ", "1", "2", "Ġx"]),
    ],
)
def test_texts_are_cut_as_the_model_was_trained(pre: str, text: str, expected: list[str]) -> None:
    cut = made(pre=pre).pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in cut] == expected


SPM_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
SPM_WORDS = {"▁": -9.0, "a": -8.0, "c": -8.5, "t": -8.6, "▁c": -5.0, "at": -4.0, "cat": -3.0}
SPM_WORDS |= {"▁cat": -2.0, "▁at": -3.5}
SPM = {
    "model": "llama",
    "pre": None,
    "merges": None,
    "add_bos_token": None,
    "tokens": [*SPM_TOKENS, *SPM_WORDS],
    "scores": [0.0] * len(SPM_TOKENS) + list(SPM_WORDS.values()),
    "token_type": [2, 3, 3] + [6] * 256 + [1] * len(SPM_WORDS),
    "bos_token_id": 1,
    "eos_token_id": 2,
    "eot_token_id": None,
    "unknown_token_id": 0,
    "padding_token_id": None,
}


def spm(**changes: Any) -> Tokenizer:
    return made(**{**SPM, **changes})


def names(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text).tokens


def test_pieces_of_sentencepiece_are_joined_by_their_scores() -> None:
    tokenizer = spm()
    assert names(tokenizer, "cat at") == ["<s>", "▁cat", "▁at"]
    assert names(tokenizer, "catc") == ["<s>", "▁cat", "c"]
    assert tokenizer.decode(tokenizer.encode("cat at").ids) == "cat at"


def test_characters_without_a_piece_are_bytes() -> None:
    tokenizer = spm()
    assert names(tokenizer, "é") == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("cat é").ids) == "cat é"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "t5"}, "of the kind 't5'; gpt2 and llama can be converted"),
        ({"pre": "tekken"}, "cuts texts as 'tekken' does; gpt-2, smollm, llama-bpe, qwen2 can be"),
        ({"tokens": ["a", "a", "b"], "token_type": [1, 1, 1]}, "has 1 tokens twice"),
        ({"token_type": [1, 1]}, "types of 2; it contradicts itself"),
        ({"merges": ["a b c"]}, "a merge of the tokenizer is not of two tokens"),
        ({"eos_token_id": None, "eot_token_id": None}, "no answer of the model would ever end"),
        ({"eos_token_id": 512}, "eos_token_id' of the GGUF file is '512'"),
        ({**SPM, "scores": [0.0, 1.0]}, "scores of 2; it contradicts itself"),
    ],
)
def test_tokenizer_that_cannot_be_converted_is_refused(changes: dict[str, Any], said: str) -> None:
    if "tokens" in changes and "bos_token_id" not in changes:
        changes = {**changes, "bos_token_id": 0, "eot_token_id": None}
    file = file_of(**changes)
    with pytest.raises(ModelInvalid, match=said):
        tokenizer_json(file, special_tokens(file))
