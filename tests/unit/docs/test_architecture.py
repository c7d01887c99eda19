"""The map of the code is that of the code: its layers are the contracts, its paths exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs" / "how-to").glob("add-*.md")),
]
PARTS = ("protocol", "router", "node", "client", "simulation", "cli")
MADE_UP = {
    "router/src/capamesh/router/policies/nearest.py",
    "router/src/capamesh/router/http/rows.py",
    "cli/src/capamesh/cli/ping.py",
    "node/src/capamesh/node/runtime/reference.py",
}
"""What a reader of a how-to writes."""
NO_MODULES = {
    *("capamesh", "capamesh.toml", "config.pbtxt", "/metrics", "benchmarks/"),
    *(path.stem for path in (ROOT / "simulation").rglob("scenarios/*.toml")),
}
"""What the pages of the parts name beside their modules."""


def layers_of(part: str) -> list[set[str]]:
    """Return the layers of a part's contract, the highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (contract,) = [each for each in contracts if each.get("containers") == [f"capamesh.{part}"]]
    return [{name.strip() for name in layer.split("|")} for layer in contract["layers"]]


def shown_layers(part: str) -> list[set[str]]:
    """Return the layers of a part as the page has them."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text[text.index(f"| {part} | holds |") :].split("\n\n")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return [{name.strip("/") for name in re.findall(r"`([^`]+)`", cell)} for cell in first_cells]


@pytest.mark.parametrize("part", ["router", "node"])
def test_layers_are_those_of_the_contract(part: str) -> None:
    assert shown_layers(part) == layers_of(part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_lead_to_what_is_there(page: Path) -> None:
    named = re.findall(r"`((?:[\w.-]+/)+(?:…/)?[\w./-]*)`", page.read_text())
    inside = [path for path in named if path.split("/")[0] in {*PARTS, "docs", "tests", "scripts"}]
    written = [path for path in inside if path not in MADE_UP]
    lost = [
        path
        for path in written
        if not (ROOT / path.replace("…", f"src/capamesh/{path.split('/')[0]}")).exists()
    ]
    assert lost == []


def test_every_part_of_the_repository_is_in_the_map() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    parts = {path.parent.name for path in ROOT.glob("[a-z]*/README.md")}
    assert [part for part in sorted(parts) if f"`{part}/`" not in text] == []


@pytest.mark.parametrize("part", PARTS)
def test_modules_that_the_page_of_a_part_names_are_there(part: str) -> None:
    sources = list(ROOT.glob("*/src/capamesh/*"))
    modules = {path.stem for source in sources for path in source.rglob("*.py")}
    folders = {path.name for source in sources for path in (source, *source.rglob("*/"))}
    text = re.sub(
        r"^```.*?^```$", "", (ROOT / part / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL
    )
    named = set(re.findall(r"`([a-z_./]+)`", text)) - NO_MODULES
    lost = [
        name
        for name in named
        if re.split(r"[./]", name.removesuffix(".py").strip("/"))[-1] not in modules | folders
    ]
    assert lost == []


def test_every_page_is_in_the_index_and_in_the_menu_of_the_site() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^()#]+\.md)\)", index))
    folders = ("tutorial", "how-to", "reference", "explanation")
    pages = {
        page.relative_to(ROOT / "docs").as_posix()
        for folder in folders
        for page in (ROOT / "docs" / folder).rglob("*.md")
    }
    assert pages - linked == set()
    menu = set(re.findall(r"[\w-]+/[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert menu - {"decisions/README.md"} == pages


def test_every_decision_is_in_their_index() -> None:
    folder = ROOT / "docs" / "decisions"
    linked = re.findall(r"\]\((\d{4}-[^()]+\.md)\)", (folder / "README.md").read_text())
    assert linked == sorted(page.name for page in folder.glob("[0-9]*.md"))
