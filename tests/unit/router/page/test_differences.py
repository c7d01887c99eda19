from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.steps import run_through
from capamesh.router.page.differences import differences
from capamesh.router.page.overview import Overview

BEFORE = Overview({"state": "ready"}, {"a": {"x": 1, "y": 2}, "b": {"x": 1}}, {"m/1": {"n": 1}})
ROWS = st.dictionaries(
    st.text(max_size=2),
    st.fixed_dictionaries({"x": st.integers(0, 2), "y": st.text(max_size=2)}),
    max_size=5,
)


def applied(overview: Overview, changes: dict[str, Any]) -> Overview:
    """Do what the page's own script does."""
    tables: list[dict[str, Any]] = [dict(overview.nodes), dict(overview.models)]
    for rows, name in zip(tables, ("nodes", "models"), strict=True):
        for key, row in changes.get(name, {}).items():
            if row is None:
                del rows[key]
            else:
                rows[key] = {**rows.get(key, {}), **row}
    return Overview({**overview.router, **changes.get("router", {})}, *tables)


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (BEFORE, None),
        (
            Overview({"state": "waiting"}, BEFORE.nodes, BEFORE.models),
            {"router": {"state": "waiting"}},
        ),
        (
            Overview(BEFORE.router, {"a": {"x": 1, "y": 3}, "c": {"x": 7}}, {}),
            {"nodes": {"a": {"y": 3}, "c": {"x": 7}, "b": None}, "models": {"m/1": None}},
        ),
    ],
)
def test_differences_are_the_values_that_differ(
    after: Overview, told: dict[str, Any] | None
) -> None:
    text = run_through(differences(BEFORE, after))
    assert (json.loads(text) if text else None) == told


@given(ROWS, ROWS)
def test_differences_lead_from_one_overview_to_the_other(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    before, after = Overview({}, one, other), Overview({}, other, one)
    text = run_through(differences(before, after))
    assert applied(before, json.loads(text or b"{}")) == after
