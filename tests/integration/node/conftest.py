"""Figures that a test found, shown once all tests are done."""

from __future__ import annotations

import pytest

_FINDINGS = pytest.StashKey[list[str]]()


@pytest.fixture(scope="module")
def findings(request: pytest.FixtureRequest) -> list[str]:
    """Lines appended here are printed after pytest's own summary."""
    return request.config.stash.setdefault(_FINDINGS, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(_FINDINGS, []):
        terminalreporter.write_line(line)
