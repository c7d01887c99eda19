"""The checks of documents that `make docs` runs: each finds what is wrong, in a repository in which one file was changed."""

from __future__ import annotations

import check_docs
import pytest
from check_docs import ROOT, Repository


def replaced(path: str, old: str, new: str) -> dict[str, str]:
    text = (ROOT / path).read_text()
    assert old in text
    return {path: text.replace(old, new)}


def appended(path: str, more: str) -> dict[str, str]:
    return {path: (ROOT / path).read_text() + more}


CASES = {
    "link to no file": (
        check_docs.links,
        appended("README.md", "\n[a](nowhere.md)\n"),
        "nowhere.md leads to no file",
    ),
    "link to no heading": (
        check_docs.links,
        appended("README.md", "\n[a](CONTRIBUTING.md#nothing)\n"),
        "CONTRIBUTING.md#nothing leads to no heading",
    ),
    "no such command": (
        check_docs.commands,
        appended("docs/how-to/install.md", "\n`capamesh node halt --data x`\n"),
        "`capamesh node halt --data x`: no command 'halt'; correct the page",
    ),
    "no such option": (
        check_docs.commands,
        appended("README.md", "\n    capamesh node run \\\n      --modles x\n"),
        "no option --modles; correct the page",
    ),
    "no such path": (
        check_docs.paths,
        appended("CONTRIBUTING.md", "\n`tests/nowhere.py`\n"),
        "tests/nowhere.py is not there",
    ),
    "no such file of tests": (
        check_docs.tests,
        appended("docs/decisions/0001-mesh-sidecar-process.md", "\n`test_nowhere.py`\n"),
        "no test_nowhere.py lies in tests/",
    ),
    "another layer": (
        check_docs.layers,
        replaced("pyproject.toml", '  "requests",\n', '  "requests | more",\n'),
        "the layers of router are not those of its contract",
    ),
    "no such module": (
        check_docs.modules,
        appended("node/README.md", "\n`no_such_module`\n"),
        "there is no module or folder no_such_module",
    ),
    "page without a line in the index": (
        check_docs.indexes,
        {"docs/how-to/new.md": "# New\n"},
        "docs/how-to/new.md is not in this index: add a line",
    ),
    "decision without a line in the index": (
        check_docs.indexes,
        {"docs/decisions/9999-new.md": "# New\n"},
        "the index is not the folder's: ['9999-new.md']",
    ),
    "word of nothing": (
        check_docs.glossary,
        appended("docs/explanation/glossary.md", "\n| a | b | c | `NoSuchName` |\n"),
        "nothing in the code is called NoSuchName",
    ),
    "old page": (
        check_docs.generated,
        appended("docs/reference/errors.md", "more\n"),
        "it is not what the code says: run make reference",
    ),
    "dashboard of nobody": (
        check_docs.generated,
        {"deploy/observability/dashboards/old.json": "{}"},
        "scripts/generate_observability.py does not make it: delete it",
    ),
    "unknown parameter": (
        check_docs.requests,
        replaced("docs/reference/requests.md", "`binary_data_output`", "`binary_output`"),
        "Parameters of a request: the code does not know binary_output",
    ),
    "another bound": (
        check_docs.requests,
        replaced("docs/reference/requests.md", "whole peer ids", "peer ids"),
        "it does not say '1 to",
    ),
    "another status": (
        check_docs.requests,
        replaced("docs/reference/requests.md", "| 413 | `", "| 414 | `"),
        "too_large has another status",
    ),
    "text that the code does not say": (
        check_docs.troubleshoot,
        replaced("docs/how-to/troubleshoot.md", "`link_lost`", "`link_lots`"),
        "the code says nowhere 'link_lots'",
    ),
    "error that is not explained": (
        check_docs.troubleshoot,
        replaced("docs/how-to/troubleshoot.md", "`link_lost`", "`link_lots`"),
        "link_lost is not explained here: add a row",
    ),
    "pins that disagree": (
        check_docs.pins,
        replaced("requirements/router.txt", "\naiohttp==", "\naiohttp==0."),
        "aiohttp is 0.",
    ),
    "pins that the builder lacks": (
        check_docs.pins,
        replaced(".dockerignore", "!requirements/tasks.txt\n", ""),
        "requirements/tasks.txt: here or in .dockerignore alone",
    ),
    "another password": (
        check_docs.compose,
        replaced("deploy/compose/postgres.yml", "PGPASSWORD: ", "PGPASSWORD: x"),
        "it is not the password of the database",
    ),
}


@pytest.mark.full
@pytest.mark.pure  # the generated pages show signatures
@pytest.mark.parametrize("case", CASES)
def test_fault_is_found_with_its_place(case: str) -> None:
    check, changes, expected = CASES[case]
    found = [str(fault) for fault in check(Repository(changes)) if expected in fault.text]
    assert found
    assert found[0].split(":")[0] in {
        *changes,
        "docs/README.md",
        "docs/decisions/README.md",
        "ARCHITECTURE.md",
        "Dockerfile",
    }


def test_every_check_has_a_case() -> None:
    assert {check for check, _, _ in CASES.values()} == set(check_docs.CHECKS)
