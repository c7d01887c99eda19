"""Digests as text: the form that is used, and the forms of other versions."""

from __future__ import annotations

import pytest

from capamesh.protocol.model_digest import (
    digest_of,
    is_digest,
    is_other_digest,
    other_form,
    short_digest,
)

GOOD = "sha256-chunks:" + "0a" * 32
OLD = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    "text",
    ["", GOOD[:-1], GOOD + "0", GOOD.upper(), GOOD + "\n", "sha256:0"],
)
def test_junk_is_no_digest_of_any_form(text: str) -> None:
    assert not is_digest(text)
    assert not is_other_digest(text)
    assert other_form(text) == ""


@pytest.mark.parametrize("text", [OLD, "sha512:" + "0" * 128, "blake3+tree.v2:" + "Zz-_=" * 10])
def test_digest_of_another_version_is_known_as_such(text: str) -> None:
    assert not is_digest(text)
    assert is_other_digest(text)
    assert other_form(text) == (
        f"{short_digest(text)} is a digest of another version of Capamesh; this one names files by"
        " sha256-chunks:…"
    )


def test_digest_is_its_form_and_hexadecimal_digits() -> None:
    assert digest_of(b"\n" * 32) == GOOD
    assert is_digest(GOOD)
    assert not is_other_digest(GOOD)
    assert [short_digest(each) for each in (GOOD, "")] == ["sha256-chunks:0a0a0a0a0a0a", ""]
