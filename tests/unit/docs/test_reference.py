"""The pages of the reference that are made from the code are what the code says now."""

from __future__ import annotations

import json
import re
from pathlib import Path

import generate_reference
import pytest

import capamesh.client
from capamesh.protocol.errors import CapameshError

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Return the text of each page by the name of its file."""
    return {path.name: text for path, text in generate_reference.pages().items()}


def test_pages_and_schemas_are_up_to_date() -> None:
    pages = generate_reference.pages()
    assert {path.name for path in pages} == {
        *("http.md", "errors.md", "sdk.md", "metrics.md", "command.md", "settings.md"),
        *("manifest.schema.json", "rules.schema.json", "openapi.json"),
    }
    for path, text in pages.items():
        assert path.read_text() == text, "run: make reference"


@pytest.mark.parametrize("name", ["manifest.schema.json", "rules.schema.json"])
def test_schema_describes_every_key_and_knows_no_null(pages: dict[str, str], name: str) -> None:
    tables = json.loads(pages[name])["$defs"].values()
    keys = [key for table in tables for key in table["properties"].values()]
    assert len(keys) > 10
    assert [key for key in keys if not key["description"]] == []
    assert "null" not in pages[name]


def test_schema_has_limits_defaults_and_what_excludes_each_other(pages: dict[str, str]) -> None:
    tables = json.loads(pages["manifest.schema.json"])["$defs"]
    keys = tables["ManifestTable"]["properties"]
    assert {"minimum": 1, "maximum": 64}.items() <= keys["instances"].items()
    assert keys["pinned"]["default"] is False
    assert keys["providers"]["uniqueItems"]
    assert keys["versions"]["maxProperties"] == 1
    assert tables["StepTable"]["required"] == ["model", "inputs", "outputs"]
    assert not tables["StepTable"]["additionalProperties"]


def test_routes_of_each_kind_are_on_the_page(pages: dict[str, str]) -> None:
    page = pages["http.md"]
    assert (
        "| `POST /v2/models/{model}/infer` | Open Inference Protocol v2 | `infer` | Run one inference. |"
        in page
    )
    assert "| `POST /v2/repository/index` | Triton's extensions |" in page
    assert "| `PUT /v1/nodes/{peer}/circuit` | Capamesh |" in page


def test_errors_are_with_those_whose_fault_they_are(pages: dict[str, str]) -> None:
    _, callers, peers, own = pages["errors.md"].split("\n## ")
    assert "| `too_large` | `TooLarge` | 413 | no |" in callers
    assert "| `overloaded` | `Overloaded` | 503 | yes |" in peers
    assert "| `nobody_fits` | `Unsatisfiable` | 503 | no |" in peers
    assert "| `not_in_json` | `NotInJson` | 500 | no |" in own


def test_client_has_its_signatures_arguments_and_errors(pages: dict[str, str]) -> None:
    sections = {
        section.partition("\n")[0]: section for section in re.split("\n##+ ", pages["sdk.md"])
    }
    assert (
        "client.infer(\n    model: str,\n    inputs: Mapping[str, InputValue] | InputValue,\n    *,\n"
        in sections["Client.infer"]
    )
    assert (
        "\n- `timeout_s`: the deadline, which router and node keep too, and which retries do not make longer.\n"
        in sections["Client.infer"]
    )
    assert "\n- `Overloaded`, `NoEndpoint`, `ModelUnavailable`: " in sections["Client.infer"]
    assert "await client.close() -> None" in sections["AsyncClient.close"]
    assert "await model_sequence.infer(" in sections["AsyncModelSequence.infer"]
    assert "\nmodel_sequence.infer_each(" in sections["AsyncModelSequence.infer_each"]
    assert "\nTensor.from_numpy(" in sections["Tensor.from_numpy"]
    assert "| `max_price` | <code>float &#124; None</code> | `None` |" in sections["RoutingOptions"]
    assert "| `node` | `str` |  | The peer id" in sections["Outputs"]
    assert "`BF16`" in sections["Datatype"]


def test_all_that_the_client_exports_is_on_the_page_and_explained(pages: dict[str, str]) -> None:
    headings = re.findall("^## (.+)$", pages["sdk.md"], re.MULTILINE)
    exported = {name: getattr(capamesh.client, name) for name in capamesh.client.__all__}
    errors = {
        name
        for name, each in exported.items()
        if isinstance(each, type) and issubclass(each, CapameshError)
    }
    assert exported.keys() - errors <= set(headings)
    told = pages["errors.md"] + pages["sdk.md"].partition("\n## ")[0]
    assert [name for name in errors if f"`{name}`" not in told] == []
    tables = [line for line in pages["sdk.md"].splitlines() if line.startswith("| `")]
    assert [line for line in tables if line.endswith("|  |")] == []
    assert re.findall("```\n\n(?=#)", pages["sdk.md"]) == []


def test_metrics_have_their_labels_and_units(pages: dict[str, str]) -> None:
    page = pages["metrics.md"]
    of_router, of_node, of_both = page.split("\n## ")[1:]
    assert "| `capamesh_requests_total` | counter | `model`, `code` |  |" in of_router
    assert "| `capamesh_http_connections` | gauge |  |  | HTTP connections of" in of_router
    dropped = "| `capamesh_node_dropped_total` | counter | `model`, `version`, `device`, `reason` |"
    assert dropped in of_node
    assert "| `capamesh_event_loop_delay_seconds` | histogram |  | seconds |" in of_both


def test_options_have_their_variables_and_hidden_ones_are_left_out(pages: dict[str, str]) -> None:
    page = pages["command.md"]
    assert "| `--http HOST:PORT` | `CAPAMESH_HTTP` | `127.0.0.1:8000` |" in page
    assert "| `CAPAMESH_THREADS` | `capamesh node run` `--threads` |" in page
    assert "--owner-fd" not in page


def test_settings_say_all_that_their_source_says(pages: dict[str, str]) -> None:
    tables = [line for line in pages["settings.md"].splitlines() if line.startswith("| `")]
    assert tables
    assert [line for line in tables if line.endswith("|  |")] == []
