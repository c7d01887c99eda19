"""Properties are tried on the same examples in every run, whatever tests a process has run before."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def examples() -> list[tuple[str, int, float]]:
    """Return the examples that a property is tried on."""
    found: list[tuple[str, int, float]] = []

    @settings(max_examples=300)
    @given(st.text(), st.integers(), st.floats(allow_nan=False))
    def try_on(text: str, number: int, size: float) -> None:
        found.append((text, number, size))

    try_on()
    return found


@pytest.mark.hypothesis  # it has properties, though none of them is a test
@pytest.mark.skipif(not settings().derandomize, reason="other examples were asked for")
def test_examples_are_the_same_after_a_module_was_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = examples()
    constants = [f"TEXT_{at}, NUMBER_{at} = 'text {at}', 123_456_{at:03}" for at in range(500)]
    (tmp_path / "read_in_late.py").write_text("\n".join(constants))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("read_in_late")
    assert examples() == before
