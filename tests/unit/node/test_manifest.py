"""What `capamesh.toml` may say, and how it complains."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.store.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from capamesh.protocol.errors import ModelInvalid

FILE = "models/digits/capamesh.toml"


def test_every_key_is_read() -> None:
    raw = b"""
description = "Handwritten digits \xc3\xa9"
providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
allow_cpu_fallback = true
max_queue = 7
"""
    assert parse_manifest(raw, FILE) == Manifest(
        description="Handwritten digits é",
        providers=("TensorrtExecutionProvider", "CUDAExecutionProvider"),
        allow_cpu_fallback=True,
        max_queue=7,
    )


def test_an_empty_manifest_is_the_default_one() -> None:
    assert parse_manifest(b"", FILE) == Manifest("", (), allow_cpu_fallback=False, max_queue=None)


def test_an_unknown_key_is_named_with_the_file_and_the_allowed_keys() -> None:
    with pytest.raises(ModelInvalid) as caught:
        parse_manifest(b"max_qeue = 7", FILE)
    assert caught.value.message == (
        "models/digits/capamesh.toml: unknown key 'max_qeue'; allowed keys are "
        "description, providers, allow_cpu_fallback, max_queue"
    )


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"description = 3", "description is 3, expected a text of at most 1024 characters"),
        (b"description = '" + b"x" * 1025 + b"'", "expected a text of at most 1024 characters"),
        (b"providers = 'CUDAExecutionProvider'", "expected a list of at most 8 names"),
        (b"providers = ['cuda']", "providers is 'cuda', expected a list of at most 8 names"),
        (b"providers = [1]", "providers is 1, expected"),
        (b"providers = [" + b"'AExecutionProvider'," * 9 + b"]", "expected a list of at most 8"),
        (b"allow_cpu_fallback = 1", "allow_cpu_fallback is 1, expected true or false"),
        (b"max_queue = true", "max_queue is True, expected a whole number from 1 to 1000000"),
        (b"max_queue = 0", "max_queue is 0, expected a whole number from 1 to 1000000"),
        (b"max_queue = 1000001", "max_queue is 1000001, expected"),
        (b"max_queue = 1.5", "max_queue is 1.5, expected"),
        (b"max_queue = 1\nmax_queue = 2", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b"description = ", "is not TOML"),
        (b"a = " + b"[" * 8000, "is not TOML"),
        (b"#" * (MAX_MANIFEST_BYTES + 1), "has 16385 bytes, at most 16384 are allowed"),
    ],
)
def test_a_wrong_value_is_refused_with_the_file_the_value_and_the_limit(
    raw: bytes, complaint: str
) -> None:
    with pytest.raises(ModelInvalid) as caught:
        parse_manifest(raw, FILE)
    assert caught.value.message.startswith(FILE)
    assert complaint in caught.value.message


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_junk_is_refused_or_read_and_raises_nothing_else(raw: bytes) -> None:
    try:
        parsed = parse_manifest(raw, FILE)
    except ModelInvalid as exc:
        assert FILE in exc.message  # noqa: PT017  # either outcome is right
    else:
        assert isinstance(parsed, Manifest)
