"""Inputs with mistakes are rows or are refused. `tests/support/job_input_fuzz.py` goes on for longer."""

from __future__ import annotations

import pytest
from job_input_fuzz import FORMS, try_cases

from capamesh.router.jobs.spec import InputFormat

CASES = 400


def test_inputs_with_mistakes_are_rows_or_are_refused() -> None:
    pytest.importorskip("pyarrow")
    done = try_cases(0, CASES)
    assert sum(done.values()) == CASES
    for form in FORMS.keys() - {InputFormat.JSONL}:  # of which each mistake is one row's
        assert done[f"{form} refused"] > 5, done
    assert sum(done[f"{form} read"] for form in FORMS) > CASES // 5, done
