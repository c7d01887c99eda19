"""Settings of the tests of whole fleets."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let processes that are killed leave their sockets and tasks as they were: they run no line any more that would close them."""
    for item in items:
        if HERE in item.path.parents:
            for name in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{name}"))
