"""Attacks on real processes, each bounded in load and time: what strangers and single members may not do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from clusters import built_models
from hostile import Figures

__all__ = ["built_models", "figures", "sample_models"]
HOSTILE = Path(__file__).parent
_FIGURES = Figures()


@pytest.fixture(scope="session")
def sample_models(built_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with digits alone, which is what well-behaved clients ask for: a node has it ready in a moment."""
    folder = tmp_path_factory.mktemp("sample") / "models"
    shutil.copytree(built_models / "digits", folder / "digits")
    return folder


@pytest.fixture(scope="session")
def figures() -> Figures:
    """Return where figures are kept, to be printed at the end: `figures.at_most("router, MB", 213, 300)`."""
    return _FIGURES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the attacks came to."""
    if _FIGURES.lines:
        terminalreporter.section("what the attacks came to")
        for line in _FIGURES.lines:
            terminalreporter.line(line)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all that is in this folder, before marks decide what is run."""
    for item in items:
        if HOSTILE in item.path.parents:
            item.add_marker(pytest.mark.hostile)
