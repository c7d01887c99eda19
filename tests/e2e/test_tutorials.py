"""The tutorials that are typed into Python print what they say, against a real cluster."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from capamesh.cli.local_cluster import LocalCluster

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorial"
PAGES = ["python-client.md"]
ROUTER = "http://127.0.0.1:8000"
"""Where the pages have it."""
LEAST_SNIPPETS = 9


def blocks(page: str, language: str) -> list[str]:
    """Return a page's fenced blocks of one language."""
    text = (TUTORIALS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_every_tutorial_with_python_in_fences_is_run() -> None:
    pages = {page.name for page in TUTORIALS.glob("*.md") if blocks(page.name, "python")}
    assert pages == set(PAGES)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("page", PAGES)
async def test_snippets_print_what_the_page_says(cluster: LocalCluster, page: str) -> None:
    snippets = blocks(page, "python")
    assert len(snippets) >= LEAST_SNIPPETS
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", "".join(snippets).replace(ROUTER, cluster.http_url)),
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err.decode()) == (0, "")
    assert out.decode().replace(cluster.http_url, ROUTER) == "".join(blocks(page, "text"))
