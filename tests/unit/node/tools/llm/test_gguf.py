"""GGUF files, their blocks, models and tokenizers are read as they were written, and hostile ones are refused."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_writer
import numpy as np
import pytest
import tiny_llama
from gguf_writer import gguf, text
from hypothesis import given
from hypothesis import strategies as st
from tiny_llama import Variant
from tokenizers import Tokenizer

from capamesh.node.tools.llm.gguf_blocks import FOUR_BIT_TYPES, dequantised, four_bits
from capamesh.node.tools.llm.gguf_file import BLOCKS, GgmlType, GgufFile, parse_gguf, read_gguf
from capamesh.node.tools.llm.gguf_llama import LlamaWeights, read_llama
from capamesh.node.tools.llm.gguf_tokenizer import special_tokens, tokenizer_json
from capamesh.protocol.errors import ConfigError, ModelInvalid

SAID: dict[str, Any] = {
    "general.architecture": "llama",
    "a.whole": 7,
    "a.real": 0.5,
    "a.flag": True,
    "a.texts": ["one", "zwölf", ""],
    "a.numbers": [1, -2, 3],
    "a.reals": [0.5, -1.5],
}


def parsed(raw: bytes) -> GgufFile:
    return parse_gguf(memoryview(raw))


def head(tensors: int, keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def info(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def laid(*infos: bytes, body: int = 64) -> bytes:
    """Return a file of tensors that are described as given, with some bytes for them."""
    raw = head(len(infos), 0) + b"".join(infos)
    return raw + bytes(-len(raw) % 32) + bytes(body)


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_comes_back_as_it_was_written(version: int) -> None:
    file = parsed(gguf(SAID, {}, version))
    assert file.text("general.architecture") == "llama"
    assert file.whole("a.whole", 0, 10) == 7
    assert file.real("a.real", 0, 1) == 0.5
    assert file.flag("a.flag", default=False) is True
    assert file.texts("a.texts") == ("one", "zwölf", "")
    assert file.numbers("a.numbers").tolist() == [1, -2, 3]
    assert file.numbers("a.reals").tolist() == [0.5, -1.5]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda file: file.whole("a.whole", 8, 10), "metadata 'a.whole' of the GGUF file is '7'"),
        (lambda file: file.whole("a.flag", 0, 10), "a whole number from 0 to 10"),
        (lambda file: file.whole("no", 0, 10), "'no' of the GGUF file is missing"),
        (lambda file: file.real("a.flag", 0, 10), "a number from 0 to 10"),
        (lambda file: file.text("a.whole"), "a text"),
        (lambda file: file.texts("a.numbers"), "a list of texts"),
        (lambda file: file.numbers("a.texts"), "a list of numbers"),
    ],
)
def test_metadata_of_another_type_is_refused(ask: Callable[[GgufFile], object], said: str) -> None:
    with pytest.raises(ModelInvalid, match=said):
        ask(parsed(gguf(SAID, {})))


def test_path_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_gguf(tmp_path / "no.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelInvalid, match=r"empty\.gguf is empty"):
        read_gguf(tmp_path / "empty.gguf")


HUGE = struct.pack("<Q", 2**63)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"GGML" + bytes(40), "it is no GGUF file"),
        (b"GG", "the GGUF file is cut off: its first word at byte 0 has 4 bytes, and 2 are left"),
        (head(0, 0, version=1), "a GGUF file of version 1; versions 2 and 3 can be read"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "version 50331648"),
        (head(2**63, 0), "the GGUF file has 9223372036854775808 tensors; at most 65536 are read"),
        (head(0, 2**63), "9223372036854775808 keys of metadata; at most 4096 are read"),
        (head(0, 1) + HUGE, "a key of metadata of 9223372036854775808 bytes at byte 32"),
        (head(0, 1) + text("k") + struct.pack("<I", 8) + HUGE, "'k' of 9223372036854775808 bytes"),
        (head(0, 1) + text("k") + struct.pack("<IQ", 8, 9), "cut off: 'k' at byte .* has 9 bytes"),
        (head(0, 1) + text("k") + struct.pack("<II", 9, 4) + HUGE, "cut off: 'k' at byte"),
        (head(0, 1) + text("k") + struct.pack("<II", 9, 8) + HUGE, "at most 2000000 of all lists"),
        (head(0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "'k' is of type 9"),
        (head(0, 1) + text("k") + struct.pack("<I", 13), "'k' is of type 13"),
        (head(0, 1) + text("k") + struct.pack("<IB", 7, 2), "'k' is 2; true and false are 1 and 0"),
        (head(0, 1) + struct.pack("<Q", 1) + b"\xff", "is not UTF-8"),
        (head(0, 2) + (text("k") + struct.pack("<II", 4, 1)) * 2, "has the key 'k' twice"),
        (gguf({"split.count": 2}, {}), "one of 2 parts of a model"),
        (gguf({"general.alignment": 0}, {}), "'general.alignment' of the GGUF file is '0'"),
        (laid(info("t", ())), "tensor 't' has 0 dimensions"),
        (laid(info("t", (1,) * 5)), "tensor 't' has 5 dimensions"),
        (laid(info("t", (0,))), r"tensor 't' is F32\[0\]"),
        (laid(info("t", (8, 4), kind=2)), r"tensor 't' is Q4_0\[4, 8\]; its rows must have whole"),
        (laid(info("t", (4,), kind=16)), "ggml's type 16; F32, F16"),
        (laid(info("t", (4,), offset=8)), "tensor 't' begins at 8, no multiple of 32"),
        (laid(info("t", (32,))), "tensor 't' has 128 bytes from 0 on, and there are 64 for all"),
        (laid(info("t", (2**62, 2**62, 2**62))), "the GGUF file is cut off: tensor 't'"),
        (laid(info("t", (4,), offset=2**63)), "the GGUF file is cut off: tensor 't'"),
        (laid(info("t", (16,)), info("u", (4,), offset=32)), "tensors 't' and 'u' overlap"),
        (laid(info("t", (4,)), info("t", (4,), offset=32)), "has the tensor 't' twice"),
    ],
)
def test_hostile_file_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(ModelInvalid, match=said):
        parsed(raw)


def test_file_has_no_more_allocated_than_some_times_its_size() -> None:
    """A list may say that it has any number of elements, of which the bytes are not there."""
    lists = [(4, 2**40), (8, 1_999_999), (10, 2**60)]
    for kind, count in lists:
        raw = head(0, 1) + text("k") + struct.pack("<IIQ", 9, kind, count) + bytes(1000)
        tracemalloc.start()
        with pytest.raises(ModelInvalid):
            parsed(raw)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100_000


WHOLE = gguf(
    SAID, {"m": np.ones((2, 4), np.float32), "q": gguf_writer.quantised(np.ones((2, 32)), 2)}
)


def test_file_that_was_cut_off_anywhere_is_refused() -> None:
    for size in range(len(WHOLE) - 12):  # the last tensor is padded by 28 bytes
        if size < len(WHOLE) - 28:
            with pytest.raises(ModelInvalid):
                parsed(WHOLE[:size])
        else:
            parsed(WHOLE[:size])


@given(st.data())
def test_file_with_any_bytes_changed_is_read_or_refused(data: st.DataObject) -> None:
    raw = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        file = parsed(bytes(raw))
    except ModelInvalid:
        return
    assert sum(tensor.rows.nbytes for tensor in file.tensors.values()) <= len(raw)


ROWS, BLOCKS_OF_ROW = 3, 2


def half(raw: bytes, at: int) -> np.float32:
    return np.frombuffer(raw[at : at + 2], "<f2").astype(np.float32)[0]


def q4_0(b: bytes) -> list[float]:
    return [
        ((b[2 + j % 16] >> (j // 16 * 4)) & 15) * half(b, 0) - 8 * half(b, 0) for j in range(32)
    ]


def q4_1(b: bytes) -> list[float]:
    return [((b[4 + j % 16] >> (j // 16 * 4)) & 15) * half(b, 0) + half(b, 2) for j in range(32)]


def q5(b: bytes, qh: int, qs: int, j: int) -> int:
    high = int.from_bytes(b[qh : qh + 4], "little") >> j & 1
    return ((b[qs + j % 16] >> (j // 16 * 4)) & 15) | high << 4


def q5_0(b: bytes) -> list[float]:
    return [(q5(b, 2, 6, j) - 16) * half(b, 0) for j in range(32)]


def q5_1(b: bytes) -> list[float]:
    return [q5(b, 4, 8, j) * half(b, 0) + half(b, 2) for j in range(32)]


def q8_0(b: bytes) -> list[float]:
    return [int(np.int8(np.uint8(b[2 + j]))) * half(b, 0) for j in range(32)]


def scale_min(b: bytes, j: int) -> tuple[int, int]:
    """Return a block's 6 bits of scale and of low, as `get_scale_min_k4` of ggml does."""
    q = b[4:16]
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return (q[j + 4] & 15) | (q[j - 4] >> 6) << 4, (q[j + 4] >> 4) | (q[j] >> 6) << 4


def k_value(b: bytes, code: int, block: int) -> np.float32:
    scale, low = scale_min(b, block)
    return half(b, 0) * np.float32(scale) * np.float32(code) - half(b, 2) * np.float32(low)


def q4_k(b: bytes) -> list[float]:
    return [
        k_value(b, (b[16 + j // 64 * 32 + j % 32] >> (j // 32 % 2 * 4)) & 15, j // 32)
        for j in range(256)
    ]


def q5_k(b: bytes) -> list[float]:
    out = []
    for j in range(256):
        low = (b[48 + j // 64 * 32 + j % 32] >> (j // 32 % 2 * 4)) & 15
        high = b[16 + j % 32] >> (j // 32) & 1
        out.append(k_value(b, low | high << 4, j // 32))
    return out


def q6_k(b: bytes) -> list[float]:
    out = []
    for j in range(256):
        part, group, at = j // 128, j % 128 // 32, j % 32
        low = b[part * 64 + group % 2 * 32 + at] >> (group // 2 * 4) & 15
        high = b[128 + part * 32 + at] >> (group * 2) & 3
        scale = int(np.int8(np.uint8(b[192 + j // 16])))
        out.append(np.float32(scale) * half(b, 208) * np.float32((low | high << 4) - 32))
    return out


READERS: dict[GgmlType, Callable[[bytes], list[float]]] = {
    GgmlType.Q4_0: q4_0,
    GgmlType.Q4_1: q4_1,
    GgmlType.Q5_0: q5_0,
    GgmlType.Q5_1: q5_1,
    GgmlType.Q8_0: q8_0,
    GgmlType.Q4_K: q4_k,
    GgmlType.Q5_K: q5_k,
    GgmlType.Q6_K: q6_k,
}


def blocks(kind: GgmlType) -> np.ndarray:
    """Return any bytes whose scales are numbers, u8 [ROWS, bytes of a row]."""
    size = BLOCKS[kind][1]
    rng = np.random.default_rng(int(kind))
    raw = rng.integers(0, 256, (ROWS * BLOCKS_OF_ROW, size), np.uint8)
    for at in (0, 2) if kind is not GgmlType.Q6_K else (208,):
        scales = rng.standard_normal(len(raw)).astype("<f2")
        raw[:, at : at + 2] = scales[:, None].view(np.uint8)
    return raw.reshape(ROWS, -1)


@pytest.mark.parametrize("kind", READERS)
def test_blocks_stand_for_what_ggml_makes_of_them(kind: GgmlType) -> None:
    rows = blocks(kind)
    size = BLOCKS[kind][1]
    expected = [
        [
            value
            for at in range(0, rows.shape[1], size)
            for value in READERS[kind](row[at : at + size].tobytes())
        ]
        for row in rows
    ]
    found = dequantised(kind, rows)
    assert found.dtype == np.float32
    assert found.shape == (ROWS, BLOCKS_OF_ROW * BLOCKS[kind][0])
    np.testing.assert_allclose(found, np.array(expected, np.float32), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(FOUR_BIT_TYPES))
def test_blocks_of_four_bits_are_codes_scales_and_lows(kind: GgmlType) -> None:
    rows = blocks(kind)
    found = four_bits(kind, rows)
    assert found.codes.shape == (ROWS, BLOCKS_OF_ROW * BLOCKS[kind][0] // 32, 32)
    assert found.codes.max() <= 15
    values = found.codes * found.scales[..., None] + found.lows[..., None]
    np.testing.assert_array_equal(values.reshape(ROWS, -1), dequantised(kind, rows))


def test_floats_are_taken_as_they_are() -> None:
    numbers = np.array([[1.5, -2.25, 65280.0]], np.float32)
    wide = numbers.view(np.uint32)
    forms = {
        GgmlType.F32: numbers.view(np.uint8),
        GgmlType.F16: np.array([[1.5, -2.25, 65280.0]], np.float16).view(np.uint8),
        GgmlType.BF16: (wide >> 16).astype(np.uint16).view(np.uint8),
    }
    for kind, rows in forms.items():
        np.testing.assert_array_equal(dequantised(kind, rows), numbers)


def read(raw: bytes) -> LlamaWeights:
    return read_llama(parse_gguf(memoryview(raw)))


def changed(said: dict[str, Any], **tensors: Any) -> bytes:
    """Return the plain model's file with other metadata, and tensors added."""
    plain = tiny_llama.weights()
    arrays = {name: tiny_llama.turned(name, array) for name, array in plain.items()}
    arrays |= {name.replace("__", "."): array for name, array in tensors.items()}
    return gguf_writer.gguf({**tiny_llama.metadata(), **said}, arrays)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_queries_and_keys_come_back_as_halves_of_heads(architecture: str) -> None:
    variant = Variant(architecture=architecture, has_biases=True)
    weights = read(tiny_llama.gguf(variant=variant))
    for name, array in tiny_llama.weights(variant).items():
        np.testing.assert_array_equal(weights.floats(name), array, name)


def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capamesh.node.tools.llm.gguf_llama._PIECE_NUMBERS", 64 * 7)
    weights = read(tiny_llama.gguf(gguf_writer.Q8_0))
    pieces = list(weights.pieces("blk.0.attn_q.weight"))
    assert [start for start, _ in pieces] == list(range(0, 64, 7))
    whole = np.concatenate([piece for _, piece in pieces])
    np.testing.assert_array_equal(whole, weights.floats("blk.0.attn_q.weight"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"general.architecture": "gemma3"}, "'gemma3'; llama, mistral, qwen2 can be converted"),
        ({"llama.expert_count": 8}, "a mixture of experts"),
        ({"llama.attention.head_count": 3}, "3 heads of 16 numbers and 2 of keys"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8, and a head has 16"),
        ({"llama.attention.value_length": 8}, "attention.value_length is 8, and a head has 16"),
        ({"llama.rope.scaling.type": "yarn"}, "scaled as 'yarn'; none and linear"),
        ({"llama.block_count": 3}, "tensor 'blk.2.attn_norm.weight' is missing"),
        ({"llama.block_count": 10**9}, "a whole number from 1 to 1024"),
        ({"llama.embedding_length": 32}, r"has the shape \[512, 64\]; it must be \[512, 32\]"),
    ],
)
def test_other_model_is_refused_with_a_reason(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelInvalid, match=reason):
        read(changed(said))


def test_tensors_that_no_llama_has_are_refused() -> None:
    with pytest.raises(ModelInvalid, match=r"1 tensors that no plain model .* blk\.0\.attn_q_norm"):
        read(changed({}, blk__0__attn_q_norm__weight=np.ones(16, np.float32)))


def test_factors_of_positions_are_read_and_checked() -> None:
    weights = read(tiny_llama.gguf(variant=Variant(rope_factors=True)))
    assert weights.rope_factors().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    bad = read(changed({}, rope_freqs__weight=np.zeros(8, np.float32)))
    with pytest.raises(ModelInvalid, match="must have 8 numbers over 0"):
        bad.rope_factors()


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
