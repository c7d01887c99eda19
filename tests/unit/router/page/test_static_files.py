from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest

from capamesh.router.page.static_files import FOLDER, StaticFiles

FILES = StaticFiles()
SCRIPTS = sorted(FOLDER.glob("*.js"))


def test_file_is_found_by_digest_and_name_alone(tmp_path: Path) -> None:
    for page in ("index.html", "docs.html"):
        (tmp_path / page).write_text('<script src="{{files}}/a.js"></script>')
    (tmp_path / "a.js").write_text("one")
    files = StaticFiles(tmp_path)
    found = files.file(files.digest, "a.js")
    assert found is not None
    assert (found.content, zlib.decompress(found.packed, 31)) == (b"one", b"one")
    assert found.content_type == "text/javascript; charset=utf-8"
    for digest, name in (
        ("0" * 16, "a.js"),
        (files.digest, "../a.js"),
        (files.digest, "index.html"),
    ):
        assert files.file(digest, name) is None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_imports_what_is_there_and_makes_no_html(script: Path) -> None:
    text = script.read_text()
    for name in re.findall(r'from "([^"]+)"', text):
        assert name.startswith("./"), "nothing from elsewhere"
        assert FILES.file(FILES.digest, name.removeprefix("./")) is not None
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|srcdoc", text
    )
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_index_has_no_script_or_style_of_its_own() -> None:
    text = FILES.index.decode()
    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
    assert not re.search(r"<style|style=|\son\w+=", text)
    names = re.findall(r'(?:src|href)="page/[0-9a-f]{16}/([^"]+)"', text)
    assert len(names) == 4
    assert all(FILES.file(FILES.digest, name) for name in names)
