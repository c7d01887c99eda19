"""The files for Prometheus and Grafana: they are what the script says, and what they point to is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import generate_observability
import pytest
from observability_alerts import ALERTS, Alert
from observability_dashboards import DASHBOARDS
from observability_panels import WIDTH
from observability_queries import callers_codes

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "how-to" / "monitor.md").read_text()
HEADINGS = {
    re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
    for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
}


def test_files_are_up_to_date() -> None:
    files = generate_observability.files()
    assert len(files) == 3 + len(DASHBOARDS)
    for file, text in files.items():
        assert file.read_text() == text, "run: make observability"


def test_no_dashboard_is_there_that_the_script_does_not_make() -> None:
    made = {file for file in generate_observability.files() if file.suffix == ".json"}
    assert set(generate_observability.FOLDER.rglob("*.json")) == made


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alert_says_what_to_do_and_where_to_read_more(alert: Alert) -> None:
    assert re.fullmatch(r".+: .+\.", alert.summary)
    assert alert.heading in HEADINGS
    assert alert.severity in {"critical", "warning"}


def test_panels_lie_side_by_side_and_their_queries_have_letters_of_their_own() -> None:
    for file, text in generate_observability.files().items():
        if file.suffix != ".json":
            continue
        panels = json.loads(text)["panels"]
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= WIDTH
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken
            taken |= cells
            letters = [target["refId"] for target in panel["targets"]]
            assert len(set(letters)) == len(letters)


def test_faults_are_not_those_of_callers_nor_of_clients_that_leave() -> None:
    codes = callers_codes()
    assert {"cancelled", "invalid_request", "model_not_found"} <= set(codes)
    assert not {"overloaded", "link_lost", "run_failed"} & set(codes)
