"""The dashboards and alerts for Grafana and Prometheus."""

from __future__ import annotations

import json

import generate_observability
from observability_panels import WIDTH
from observability_queries import callers_codes


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
