"""What the troubleshooting page quotes is what the code says, and it leaves no error out that a client may meet."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from capamesh.protocol.errors import CapameshError, ClientError, PeerError

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "how-to" / "troubleshoot.md").read_text()
SOURCES = [
    *ROOT.glob("*/src/capamesh/**/*.py"),
    *(ROOT / "scripts").glob("*.py"),
]
FAMILIES = {"client_error", "peer_error"}
"""Roots, which no answer carries by themselves but for what is unknown."""
UNMET = {"cancelled"}
"""Nobody is there any more to read it."""


def quoted() -> set[str]:
    """Return what stands as code in the first column of a table, but for that of what is run."""
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return {text for cells in rows if len(cells) > 2 for text in re.findall("`([^`]+)`", cells[0])}


def errors(root: type[CapameshError]) -> set[str]:
    """Return the codes of a family of errors, as far as they travel."""
    below = [kind for kind in root.__subclasses__() if kind.__module__ == root.__module__]
    return {root.code}.union(*map(errors, below))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return the texts in the sources, those with gaps in pieces."""
    return [
        node.value
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


@pytest.mark.parametrize("text", sorted(quoted()))
def test_quoted_text_is_one_of_the_code(text: str, texts: list[str]) -> None:
    is_name = re.fullmatch("[a-z_]+", text) is not None
    found = (each == text if is_name else text in each for each in texts)
    assert text == "408" or any(found)


def test_every_error_that_a_client_may_meet_is_on_the_page() -> None:
    codes = errors(ClientError) | errors(PeerError) | {"local_error", "not_in_json"}
    assert codes - FAMILIES - UNMET - quoted() == set()
