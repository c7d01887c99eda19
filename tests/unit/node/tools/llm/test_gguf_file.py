"""GGUF files are read as a writer of the tests' own wrote them, and hostile ones are refused before anything is made of them."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_writer
import numpy as np
import pytest
from gguf_writer import gguf, text
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.tools.llm.gguf_file import GgufFile, parse_gguf, read_gguf
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
