"""The dashboards and alerts for Grafana and Prometheus."""

from __future__ import annotations

import itertools
import json

import generate_observability
from observability_panels import WIDTH
from observability_queries import callers_codes


def test_panels_lie_side_by_side_and_their_queries_have_letters_of_their_own() -> None:
    for file, text in generate_observability.files().items():
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(text)["panels"] if file.suffix == ".json" else ():
            x, y, w, h = (panel["gridPos"][name] for name in "xywh")
            assert x + w <= WIDTH
            cells = set(itertools.product(range(x, x + w), range(y, y + h)))
            assert not cells & taken
            taken |= cells
            letters = [target["refId"] for target in panel["targets"]]
            assert len(set(letters)) == len(letters)


def test_faults_are_not_those_of_callers_nor_of_clients_that_leave() -> None:
    codes = callers_codes()
    assert {"cancelled", "invalid_request", "model_not_found"} <= set(codes)
    assert not {"overloaded", "link_lost", "run_failed"} & set(codes)
