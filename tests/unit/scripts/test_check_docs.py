"""The checks of documents that `make docs` runs: each finds what is wrong, in a repository in which one file was changed."""

from __future__ import annotations

import check_docs
import pytest
from check_docs import ROOT, Repository

DOCS, DECISIONS = "docs/how-to/install.md", "docs/decisions/0001-mesh-sidecar-process.md"
REQUESTS, TROUBLES = "docs/reference/requests.md", "docs/how-to/troubleshoot.md"
GLOSSARY, COMPOSE = "docs/explanation/glossary.md", "deploy/compose/postgres.yml"
DASHBOARD = "deploy/observability/dashboards/old.json"
CASES = [
    # the check, the file, what is put there in whose place ("": behind all), and what is found
    ("links", "README.md", "", "[a](nowhere.md)", "nowhere.md leads to no file"),
    ("links", "README.md", "", "[a](CONTRIBUTING.md#nothing)", "#nothing leads to no heading"),
    ("commands", DOCS, "", "`capamesh node halt --data x`", "no command 'halt'; correct the page"),
    ("commands", "README.md", "", "    capamesh node run \\\n      --modles x", "option --modles"),
    ("paths", "CONTRIBUTING.md", "", "`tests/nowhere.py`", "tests/nowhere.py is not there"),
    ("tests", DECISIONS, "", "`test_nowhere.py`", "no test_nowhere.py lies in tests/"),
    ("layers", "pyproject.toml", '  "requests",\n', '  "requests | more",\n', "of router are not"),
    ("modules", "node/README.md", "", "`no_such_module`", "no module or folder no_such_module"),
    ("indexes", "docs/how-to/new.md", None, "# New", "new.md is not in this index: add a line"),
    ("indexes", "docs/decisions/9999-new.md", None, "# New", "is not the folder's: ['9999"),
    ("glossary", GLOSSARY, "", "| a | b | c | `NoSuchName` |", "is called NoSuchName"),
    ("generated", "docs/reference/errors.md", "", "more", "it is not what the code says: run make"),
    ("generated", DASHBOARD, None, "{}", "does not make it: delete it"),
    ("requests", REQUESTS, "`binary_data_output`", "`binary_output`", "not know binary_output"),
    ("requests", REQUESTS, "whole peer ids", "peer ids", "it does not say '1 to"),
    ("requests", REQUESTS, "| 413 | `", "| 414 | `", "too_large has another status"),
    ("troubleshoot", TROUBLES, "`link_lost`", "`link_lots`", "the code says nowhere 'link_lots'"),
    ("troubleshoot", TROUBLES, "`link_lost`", "`link_lots`", "link_lost is not explained here"),
    ("pins", "requirements/router.txt", "\naiohttp==", "\naiohttp==0.", "aiohttp is 0."),
    ("pins", ".dockerignore", "!requirements/tasks.txt\n", "", "here or in .dockerignore alone"),
    ("compose", COMPOSE, "PGPASSWORD: ", "PGPASSWORD: x", "not the password of the"),
]
INDEXES = {"docs/README.md", "docs/decisions/README.md", "ARCHITECTURE.md", "Dockerfile"}


@pytest.mark.full
@pytest.mark.pure  # the generated pages show signatures
@pytest.mark.parametrize(("check", "path", "old", "new", "expected"), CASES)
def test_fault_is_found_with_its_place(
    check: str, path: str, old: str | None, new: str, expected: str
) -> None:
    before = "" if old is None else (ROOT / path).read_text()
    assert (old or "") in before
    text = before.replace(old, new) if old else f"{before}\n{new}\n"
    faults = getattr(check_docs, check)(Repository({path: text}))
    found = [str(fault) for fault in faults if expected in fault.text]
    assert found
    assert found[0].split(":")[0] in {path, *INDEXES}


def test_every_check_has_a_case() -> None:
    assert {check for check, *_ in CASES} == {check.__name__ for check in check_docs.CHECKS}
