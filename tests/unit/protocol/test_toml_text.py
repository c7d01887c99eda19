"""TOML of any content is read, or refused with its file and line, in bounded time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.schema import Mismatch, Table
from capamesh.protocol.toml_text import MAX_KEY_PARTS, read_toml


class Inner(Table, frozen=True):
    size: int = 0


class Outer(Table, frozen=True):
    inner: Inner = Inner()
    text: str = ""


def test_document_becomes_a_struct() -> None:
    assert read_toml("inner.size = 2\ntext = 'é'".encode(), Outer, "f") == Outer(Inner(2), "é")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"text = 1", "f.toml: text is 1, expected text"),
        (b"texts = 1", "f.toml: unknown key texts (did you mean text?); allowed keys are inner, text"),
        (b"inner.siz = 1", "f.toml: unknown key inner.siz (did you mean size?); allowed keys are size"),
        (b"text = 'a'\ntext = 'b'", "f.toml is not TOML: Cannot overwrite a value"),
        (b"\xff", "f.toml is not TOML: 'utf-8' codec can't decode"),
        (b"text = " + b"[" * 10_000, "f.toml is not TOML: "),
        (b"size = " + b"9" * 5_000, "f.toml is not TOML: "),
    ],
)  # fmt: skip
def test_document_that_does_not_fit_is_refused_with_its_file(raw: bytes, said: str) -> None:
    with pytest.raises(Mismatch) as caught:
        read_toml(raw, Outer, "f.toml")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("part", ["a.", '"a b" . ', "'\u00e9'.", "a-1\t."])
def test_key_of_many_parts_is_refused_with_its_line(part: str) -> None:
    most = f"\n{part * (MAX_KEY_PARTS - 1)}a = 1"
    with pytest.raises(Mismatch, match="unknown key"):
        read_toml(most.encode(), Outer, "f")
    with pytest.raises(Mismatch, match="f: line 2 has a key of over 16 parts; shorten it"):
        read_toml(f"\n[{part * MAX_KEY_PARTS}a]".encode(), Outer, "f")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_junk_is_refused_or_read_and_raises_nothing_else(raw: bytes) -> None:
    said = "f"
    try:
        read_toml(raw, Outer, "f")
    except Mismatch as exc:
        said = str(exc)
    assert said.startswith("f")
