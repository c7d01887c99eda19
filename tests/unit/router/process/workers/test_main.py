"""The messages in which a main process tells a new worker what it knows."""

from __future__ import annotations

import pytest

from capamesh.router.process.workers import main
from capamesh.router.process.workers.main import chunks


def test_envelopes_are_cut_into_messages_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "KNOWN_BYTES", 4)
    assert list(chunks([b"aa", b"bb", b"ccccc", b"d"])) == [(b"aa", b"bb"), (b"ccccc",), (b"d",)]
    assert list(chunks([])) == []
