"""The page on requests names the headers, parameters, bounds and errors that the code has, no more and no fewer."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from capamesh.protocol.errors import CapameshError, from_wire
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, MAX_PRIORITY
from capamesh.protocol.links.sequence_mark import MAX_SEQUENCE_CHARS
from capamesh.protocol.tensors import MAX_CLASSES
from capamesh.protocol.tensors.classification import MAX_SCORES
from capamesh.router.http import options
from capamesh.router.http.errors import status_of
from capamesh.router.requests import parameters

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reference" / "requests.md").read_text()
OIP_PARAMETERS = {"binary_data_output", "non_finite_output"}
"""Those of the protocol's bodies, which `protocol.oip` reads."""
LOCAL = {"local_error", "not_in_json"}
"""Errors of the router itself, which `from_wire` believes of no peer."""


def section(title: str) -> str:
    """Return what stands below one heading of the page."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(title: str) -> set[str]:
    """Return what stands as code in the first column of a section's tables."""
    rows = [line.split(" | ")[0] for line in section(title).splitlines() if line.startswith("| ")]
    return {name for row in rows for name in re.findall("`([^`]+)`", row)}


def texts_of(folder: Path) -> set[str]:
    """Return the texts in the sources of a folder."""
    return {
        node.value
        for source in folder.rglob("*.py")
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_headers_are_those_that_the_router_reads_and_writes() -> None:
    texts = texts_of(ROOT / "router" / "src")
    known = {text for text in texts if re.fullmatch(r"X-Capamesh-[A-Z][A-Za-z-]+", text)}
    shown = first_cells("Headers of a request") | first_cells("Headers of an answer")
    assert {name for name in shown if name.startswith("X-Capamesh-")} == known
    standard = {name for name in shown if not name.startswith("X-Capamesh-")}
    assert standard <= texts | texts_of(ROOT / "protocol" / "src")


def test_parameters_are_those_that_the_router_reads() -> None:
    known = {getattr(parameters, name) for name in vars(parameters) if name.isupper()}
    names = {name for name in known if isinstance(name, str)}
    assert first_cells("Parameters of a request") == names | OIP_PARAMETERS
    assert texts_of(ROOT / "protocol" / "src" / "capamesh" / "protocol" / "oip") >= OIP_PARAMETERS


def test_parameters_of_outputs_are_those_that_the_decoder_reads() -> None:
    names = first_cells("Parameters of an output")
    assert names == {"classification", "binary_data"}
    assert texts_of(ROOT / "protocol" / "src" / "capamesh" / "protocol" / "oip") >= names


def test_bounds_are_those_of_the_code() -> None:
    assert f"at most {options.MAX_CHARS:,} characters" in section("Headers of a request")
    assert f"1 to {options.MAX_NAMES} whole peer ids" in section("Headers of a request")
    told = section("Parameters of a request")
    assert f"to {MAX_PRIORITY} (last)" in told
    assert f"| {DEFAULT_PRIORITY} |" in told
    assert f"a text of at most {MAX_SEQUENCE_CHARS} characters" in told
    of_outputs = section("Parameters of an output")
    assert f"a whole number from 0 to {MAX_CLASSES:,};" in of_outputs
    assert (
        f"At most {MAX_SCORES:,} scores are classified and {MAX_CLASSES:,} texts given for a"
        in of_outputs
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (int(status), code)
        for status, codes in re.findall(r"^\| (\d+) \| (`.*?`) \|", section("Errors"), re.MULTILINE)
        for code in re.findall("`([^`]+)`", codes)
    ],
)
def test_status_of_each_error_is_that_of_the_code(status: int, code: str) -> None:
    if code in LOCAL:
        (kind,) = [one for one in errors() if one.code == code]
        error: CapameshError = kind("")
    else:
        error = from_wire(code, "")
    assert (error.code, status_of(error)) == (code, status)


def errors(root: type[CapameshError] = CapameshError) -> list[type[CapameshError]]:
    """Return the errors below `root` that have a code of their own."""
    return [each for kind in root.__subclasses__() for each in (kind, *errors(kind))]
