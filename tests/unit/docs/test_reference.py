"""The pages of the reference that are made from the code are what the code says now."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from capamesh.node.agent.metrics.exporter import NodeTelemetry
from capamesh.node.agent.metrics.totals import Histogram, LoopFigures

ROOT = Path(__file__).resolve().parents[3]
LOOP = LoopFigures(delay_s=Histogram({math.inf: 1}, 0.1), busy_s=Histogram({math.inf: 1}, 0.1))
SCRIPT = ROOT / "scripts" / "generate_reference.py"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("generate_reference", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    """Return the text of each page by the name of its file."""
    return {path.name: text for path, text in reference.pages().items()}


@pytest.mark.parametrize("name", ["http.md", "metrics.md", "command.md", "settings.md"])
def test_page_is_up_to_date(pages: dict[str, str], name: str) -> None:
    page = ROOT / "docs" / "reference" / name
    assert page.read_text() == pages[name], "run: make reference"


def test_routes_and_errors_of_each_kind_are_on_the_page(pages: dict[str, str]) -> None:
    page = pages["http.md"]
    assert (
        "| `POST /v2/models/{model}/infer` | Open Inference Protocol v2 | Run one inference. |"
        in page
    )
    assert "| `POST /v2/repository/index` | Triton's extensions |" in page
    assert "| `PUT /v1/nodes/{peer}/circuit` | Capamesh |" in page
    assert "| `overloaded` | 503 | node |" in page


def test_metrics_have_their_labels_and_those_made_in_a_loop_are_found(
    pages: dict[str, str],
) -> None:
    page = pages["metrics.md"]
    assert "| `capamesh_requests_total` | counter | `model`, `code` |" in page
    assert (
        "| `capamesh_node_dropped_total` | counter | `model`, `version`, `device`, `reason` |"
        in page
    )
    assert "| `capamesh_http_connections` | gauge |  | HTTP connections of clients |" in page
    assert "| `capamesh_event_loop_delay_seconds` | histogram |" in page


def test_options_have_their_variables_and_hidden_ones_are_left_out(pages: dict[str, str]) -> None:
    page = pages["command.md"]
    assert "| `--http HOST:PORT` | `CAPAMESH_HTTP` | `127.0.0.1:8000` |" in page
    assert "| `CAPAMESH_THREADS` | `capamesh node run` `--threads` |" in page
    assert "--owner-fd" not in page


def test_settings_say_all_that_their_source_says(pages: dict[str, str]) -> None:
    tables = [line for line in pages["settings.md"].splitlines() if line.startswith("| `")]
    assert tables
    assert [line for line in tables if line.endswith("|  |")] == []


def test_all_that_a_node_exports_is_on_the_page(pages: dict[str, str]) -> None:
    telemetry = NodeTelemetry(list, lambda: 1.0, lambda: LOOP)
    exported = re.findall(r"^# TYPE (capamesh_\S+)", telemetry.exposition().decode(), re.MULTILINE)
    assert exported
    assert [name for name in exported if f"| `{name}` |" not in pages["metrics.md"]] == []
