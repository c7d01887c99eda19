"""Every link in the documents leads to a file, and to a heading where it names one; in the site, to a page of the site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("protocol", "node", "router", "client", "simulation", "cli")
SITE = ROOT / "docs"
OTHERS = ("docs", "benchmarks", "deploy", "examples", "scripts", "tests")
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^()\s]+)\)")
ELSEWHERE = re.compile(r"[a-z]+:")


def documents() -> list[Path]:
    """Return all Markdown files that the repository has."""
    found = sorted(ROOT.glob("*.md"))
    for folder in SOURCES + OTHERS:
        found += sorted((ROOT / folder).rglob("*.md"))
    return found


def prose(text: str) -> str:
    """Return `text` without its code."""
    return CODE.sub("", FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as web pages of Git repositories make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def broken(page: Path, text: str) -> Iterator[str]:
    """Yield what is wrong with each link of `text` that leads nowhere, as if it stood in `page`.

    News become part of `CHANGELOG.md`, so that their links start from there.
    """
    folder = ROOT if page.parent == ROOT / "docs" / "news" else page.parent
    for target in LINK.findall(prose(text)):
        if ELSEWHERE.match(target):
            continue
        path, _, anchor = unquote(target).partition("#")
        leads_to = (folder / path).resolve() if path else page
        if not leads_to.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(leads_to):
            yield f"{target}: no such heading"
        elif folder.is_relative_to(SITE) and not leads_to.is_relative_to(SITE):
            yield f"{target}: not in the site, which has the pages of docs/ alone"


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page: Path) -> None:
    assert list(broken(page, page.read_text())) == []


def test_links_to_nowhere_are_found() -> None:
    text = "[a](nowhere.md) [b](README.md#no-heading) [c](README.md#install) [d](https://x.y) `[e](code.md)`"
    assert list(broken(ROOT / "ARCHITECTURE.md", text)) == [
        "nowhere.md: no such file",
        "README.md#no-heading: no such heading",
    ]
    assert list(broken(SITE / "decisions" / "README.md", "[a](../../README.md)")) == [
        "../../README.md: not in the site, which has the pages of docs/ alone"
    ]
