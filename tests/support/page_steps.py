"""The steps that a page of the documents has its reader take."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the blocks that a page shows, in order: `sh` for lines of shell, or another language, and the text."""
    found: list[tuple[str, str]] = []
    fence = re.compile(r"^```(\w*)\n(.*?)^```$|((?:^ {4}[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
    for match in fence.finditer((ROOT / page).read_text() + "\n"):
        if match[3]:
            found.append(("sh", re.sub(r"^ {4}", "", match[3], flags=re.MULTILINE)))
        else:
            found.append((match[1] or "sh", match[2]))
    return found


def steps(page: str) -> list[tuple[str, str]]:
    """Return what a page has its reader run: lines of shell, one by one, and programs in Python."""
    return [
        (language, step)
        for language, text in blocks(page)
        if language in {"sh", "python"}
        for step in (text.replace("\\\n", " ").splitlines() if language == "sh" else [text])
        if step.strip()
    ]


def environment(folder: Path, home: Path, router: str) -> dict[str, str]:
    """Return the environment of a reader, who has the commands that pages name, a home of his own, and a router."""
    programs = folder / "bin"
    programs.mkdir()
    for name, words in (("capamesh", " -P -m capamesh.cli"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable}{words} "$@"\n')
        (programs / name).chmod(0o700)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(home),
        "CAPAMESH_ROUTER": router,
    }
