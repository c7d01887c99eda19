from __future__ import annotations

import random

import pytest
import tiny_llama
from tokenizers import Tokenizer, decoders, models

from capamesh.node.runtime.text_generation import tokens
from capamesh.node.runtime.text_generation.tokens import MOST_HELD, GenerationTokenizer
from capamesh.protocol.errors import ContextExceeded, ModelInvalid

TEXTS = [
    "The ferry left the harbour at six.",
    "Emoji 😀👩‍👩‍👧, accents éü, 日本語 and code:\n\tdef f(): pass",
    "  spaces   and\ttabs ",
    "",
]


@pytest.fixture(scope="module")
def tokenizer() -> GenerationTokenizer:
    return GenerationTokenizer(tiny_llama.tokenizer().to_str().encode())


def by_bytes() -> GenerationTokenizer:
    """Return a tokenizer with words that begin with a space mark, and bytes for all else, as Llama's is."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "▁b", "c"]
    numbered = {name: at for at, name in enumerate(names)}
    made = Tokenizer(models.BPE(numbered, [], byte_fallback=True))
    words = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*words, decoders.Strip(" ", 1, 0)])
    return GenerationTokenizer(made.to_str().encode())


def streamed(tokenizer: GenerationTokenizer, ids: list[int]) -> list[str]:
    text = tokenizer.new_text()
    return [*(text.push(token) for token in ids), text.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters(tokenizer: GenerationTokenizer, text: str) -> None:
    ids = tokenizer.encode(text, adds_special=False)
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_are_no_text_are_not_held_back_for_ever() -> None:
    tokenizer = by_bytes()
    pieces = streamed(tokenizer, [1 + 0xE6] * 50)
    waits = [at for at, piece in enumerate(pieces) if piece]
    assert waits[0] == MOST_HELD
    assert len("".join(pieces)) == 50


def test_random_tokens_make_their_text(tokenizer: GenerationTokenizer) -> None:
    rng = random.Random(4)
    for _ in range(200):
        ids = [rng.randrange(4, 472) for _ in range(40)]
        whole = "".join(streamed(tokenizer, ids))
        assert whole.replace("\ufffd", "") == tokenizer.decode(ids).replace("\ufffd", "")


# over the longest tokens there are, or its beginning is enough to know
@pytest.mark.parametrize("text", ["x" * 1_000_000, "7 " * 5_000])
def test_prompt_that_cannot_fit_is_refused_without_its_tokens(
    tokenizer: GenerationTokenizer, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    encoded: list[int] = []
    encode = tokens._encoded

    def counted(by: Tokenizer, part: str, *, adds_special: bool) -> list[int]:
        encoded.append(len(part))
        return encode(by, part, adds_special=adds_special)

    monkeypatch.setattr(tokens, "_encoded", counted)
    with pytest.raises(ContextExceeded, match=r"at least [0-9]+: shorten"):
        tokenizer.check_length(text, 100)
    assert sum(encoded) <= tokens.HEAD * 100
    tokenizer.check_length("The ferry left the harbour. " * 20, 100)  # 180: the whole says so


def test_file_that_is_no_tokenizer_is_the_models_fault() -> None:
    for raw in (b"", b"{}", b"\xff\xff", b"[1]"):
        with pytest.raises(ModelInvalid, match="cannot be used"):
            GenerationTokenizer(raw)
