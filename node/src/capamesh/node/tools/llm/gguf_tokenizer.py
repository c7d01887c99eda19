"""Makes a tokenizer's file as Hugging Face's tokenizers write it, and the special tokens, out of what a GGUF file says. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from capamesh.node.tools.llm.gguf_file import GgufFile
from capamesh.protocol.errors import ModelInvalid

_KEY: Final = "tokenizer.ggml"
_CONTROL, _USER_DEFINED = 3, 4  # of the types of tokens
_SPACE: Final = "▁"
"""Stands for a space in the vocabularies of SentencePiece."""
_MAX_PIECE_CHARS: Final = 64
"""Longer tokens of SentencePiece are not taken apart (guess: its own longest have 16 characters)."""

_GPT2: Final[dict[str, Any]] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_BYTES: Final[dict[str, Any]] = {**_GPT2, "use_regex": False}


def _split(pattern: str) -> list[dict[str, Any]]:
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return [split, _BYTES]


_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class _Cutting:
    """The way in which texts are cut before their tokens are looked for."""

    steps: Sequence[dict[str, Any]]
    is_whole_first: bool = False
    """True if a piece that is a token itself is not taken apart."""
    is_normalised: bool = False
    """True if characters are composed first."""


_CUTTINGS: Final = {
    "gpt-2": _Cutting([_GPT2]),
    "smollm": _Cutting([{"type": "Digits", "individual_digits": True}, _GPT2]),
    "llama-bpe": _Cutting(_split(_WORDS % "{1,3}"), is_whole_first=True),
    "qwen2": _Cutting(_split(_WORDS % ""), is_normalised=True),
}
"""The ways of cutting, by llama.cpp's names for them."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The tokens that mean something to whoever generates, as numbers and as texts."""

    texts: Mapping[str, str]
    """The texts of "bos_token", "eos_token", "pad_token" and "unk_token", of those that there are."""
    bos_id: int | None
    end_ids: tuple[int, ...]
    """The tokens that end an answer: one, or more."""
    pad_id: int
    is_bos_added: bool
    """True if each text begins with the first of these."""


def special_tokens(file: GgufFile) -> SpecialTokens:
    """Return the special tokens of a GGUF file. Raises ModelInvalid: a number is none of a token's, or no token ends an answer."""
    tokens = file.texts(f"{_KEY}.tokens")
    ids = {
        name: file.whole(f"{_KEY}.{key}", 0, len(tokens) - 1)
        for name, key in (
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("eot_token", "eot_token_id"),
            ("eom_token", "eom_token_id"),
            ("unk_token", "unknown_token_id"),
            ("pad_token", "padding_token_id"),
        )
        if f"{_KEY}.{key}" in file.metadata
    }
    ends = [ids[name] for name in ("eos_token", "eot_token", "eom_token") if name in ids]
    if not ends:
        raise ModelInvalid(
            f"the GGUF file has no {_KEY}.eos_token_id: no answer of the model would ever end"
        )
    texts: dict[str, str] = {
        name: tokens[ids[name]]
        for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        if name in ids
    }
    return SpecialTokens(
        texts,
        ids.get("bos_token"),
        tuple(dict.fromkeys(ends)),
        ids.get("pad_token", ends[0]),
        file.flag(f"{_KEY}.add_bos_token", default=_model(file) == "llama") and "bos_token" in ids,
    )


def tokenizer_json(file: GgufFile, special: SpecialTokens) -> bytes:
    """Return the tokenizer's file. Raises ModelInvalid: it is of a kind that cannot be converted, or contradicts itself."""
    tokens = file.texts(f"{_KEY}.tokens")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ModelInvalid(
            f"the GGUF file has {len(tokens) - len(vocabulary)} tokens twice; such a tokenizer cannot be converted"
        )
    kind = _model(file)
    if kind == "gpt2":
        made = _byte_level(file, vocabulary)
    elif kind == "llama":
        made = _sentence_piece(file, tokens, vocabulary, special)
    else:
        raise ModelInvalid(
            f"the tokenizer is of the kind {kind[:80]!r}; gpt2 and llama can be converted"
        )
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added(file, tokens)),
        **made,
        "post_processor": _begun(special) if special.is_bos_added else None,
    }
    return json.dumps(whole, ensure_ascii=False).encode()


def _model(file: GgufFile) -> str:
    return file.text(f"{_KEY}.model")


def _added(file: GgufFile, tokens: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the tokens that are looked for in texts as they are, before these are cut."""
    types = file.numbers(f"{_KEY}.token_type")
    if len(types) != len(tokens):
        raise ModelInvalid(
            f"the GGUF file has {len(tokens)} tokens and types of {len(types)}; it contradicts itself"
        )
    for number, (token, kind) in enumerate(zip(tokens, types.tolist(), strict=True)):
        if kind in {_CONTROL, _USER_DEFINED}:
            yield {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind == _CONTROL,
            }


def _byte_level(file: GgufFile, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """Return the parts of a tokenizer whose tokens are of bytes, as GPT-2's are."""
    name = file.text(f"{_KEY}.pre", default="gpt-2")
    cutting = _CUTTINGS.get("gpt-2" if name == "default" else name)
    if cutting is None:
        raise ModelInvalid(
            f"the tokenizer cuts texts as {name[:80]!r} does; {', '.join(_CUTTINGS)} can be converted: put the model's own"
            " tokenizer.json into a folder of onnxruntime-genai's builder, and import that"
        )
    steps = list(cutting.steps)
    merges = [merge.split(" ") for merge in file.texts(f"{_KEY}.merges")]
    if any(len(merge) != 2 for merge in merges):
        raise ModelInvalid("a merge of the tokenizer is not of two tokens")
    return {
        "normalizer": {"type": "NFC"} if cutting.is_normalised else None,
        "pre_tokenizer": steps[0]
        if len(steps) == 1
        else {"type": "Sequence", "pretokenizers": steps},
        "decoder": {**_GPT2, "add_prefix_space": True},
        "model": _bpe(vocabulary, merges, ignore_merges=cutting.is_whole_first),
    }


def _sentence_piece(
    file: GgufFile,
    tokens: Sequence[str],
    vocabulary: Mapping[str, int],
    special: SpecialTokens,
) -> dict[str, Any]:
    """Return the parts of a tokenizer of SentencePiece, whose merges follow from its tokens' scores."""
    scores = file.numbers(f"{_KEY}.scores")
    if len(scores) != len(tokens):
        raise ModelInvalid(
            f"the GGUF file has {len(tokens)} tokens and scores of {len(scores)}; it contradicts itself"
        )
    merges: list[tuple[float, int, int, list[str]]] = []
    for token, score in zip(tokens, scores.tolist(), strict=True):
        for cut in range(1, min(len(token), _MAX_PIECE_CHARS)):
            left, right = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if left is not None and right is not None:
                merges.append((-score, left, right, [token[:cut], token[cut:]]))
    merges.sort(key=lambda merge: merge[:3])
    is_prefixed = file.flag(f"{_KEY}.add_space_prefix", default=True)
    prefix = [{"type": "Prepend", "prepend": _SPACE}] if is_prefixed else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if is_prefixed else []
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *prefix,
                {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
            ],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": _bpe(
            vocabulary,
            [merge for *_, merge in merges],
            unk_token=special.texts.get("unk_token"),
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def _bpe(
    vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]], **options: bool | str | None
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **options,
        "vocab": dict(vocabulary),
        "merges": merges,
    }


def _begun(special: SpecialTokens) -> dict[str, Any]:
    """Return the part that puts the first special token before each text."""
    text = special.texts["bos_token"]
    first = {"SpecialToken": {"id": text, "type_id": 0}}
    one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [first, one],
        "pair": [first, one, first, other],
        "special_tokens": {text: {"id": text, "ids": [special.bos_id], "tokens": [text]}},
    }
