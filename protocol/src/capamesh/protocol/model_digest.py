"""The name of a model version by its content: the digest as text. Pure.

`sha256-chunks:` and 64 lower-case hexadecimal digits, in the grammar of OCI's digests. The digits are the SHA-256 of the
version's chunk list (docs/decisions/0034), from which every 4 MiB of every file can be verified alone.
"""

from __future__ import annotations

import re
from typing import Final

ALGORITHM: Final = "sha256-chunks"
DIGEST_CHARS: Final = len(ALGORITHM) + 1 + 64
MAX_DIGEST_CHARS: Final = 160
"""The longest digest of any form that is read (guess: OCI's longest is 135)."""
EXPECTED: Final = f'"{ALGORITHM}:" and 64 lower-case hexadecimal digits'

DIGEST_PATTERN: Final = rf"^{ALGORITHM}:[0-9a-f]{{64}}$(?!\n)"
"""The pattern for schemas, whose `$` would let a line's end pass."""

_DIGEST: Final = re.compile(DIGEST_PATTERN)
_ANY_FORM: Final = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9A-Za-z=_-]{32,128}\Z")
_SHOWN_DIGITS: Final = 12
"""The digits that are shown (guess: as many as git and Docker show)."""


def digest_of(sha256: bytes) -> str:
    """Return the digest whose digits are `sha256`, of 32 bytes."""
    return f"{ALGORITHM}:{sha256.hex()}"


def is_digest(text: str) -> bool:
    """Return whether `text` is a digest of the form that this version uses."""
    return _DIGEST.match(text) is not None


def is_other_digest(text: str) -> bool:
    """Return whether `text` is a digest of another form, such as that of earlier or later versions."""
    return not text.startswith(f"{ALGORITHM}:") and _ANY_FORM.match(text) is not None


def other_form(text: str) -> str:
    """Return why a digest of another form is of no use, for people; "" where `text` is none."""
    if not is_other_digest(text):
        return ""
    return (
        f"{short_digest(text)} is a digest of another version of Capamesh; this one names files by"
        f" {ALGORITHM}:…"
    )


def short_digest(text: str) -> str:
    """Return a digest as people are shown it: its form and its first digits."""
    algorithm, colon, digits = text.partition(":")
    return f"{algorithm}{colon}{digits[:_SHOWN_DIGITS]}"
