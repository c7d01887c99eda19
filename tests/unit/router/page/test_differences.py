from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.steps import run_through
from capamesh.router.page.differences import differences
from capamesh.router.page.overview import Overview

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


@given(ROWS, ROWS)
def test_differences_lead_from_one_overview_to_the_other(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    before, after = Overview({}, one, other), Overview({}, other, one)
    text = run_through(differences(before, after))
    assert applied(before, json.loads(text or b"{}")) == after
