"""Inputs with mistakes are rows or are refused, in bounded memory."""

from __future__ import annotations

from collections import Counter

import pytest
from fuzz_cases import seeds
from job_input_fuzz import FORMS, try_cases

from capamesh.router.jobs.spec import InputFormat

BATCH = 400
"""The cases of one process."""


def test_inputs_with_mistakes_are_rows_or_are_refused() -> None:
    pytest.importorskip("pyarrow")
    cases = seeds(BATCH)
    done: Counter[str] = Counter()
    for first in cases[::BATCH]:
        done += try_cases(first, min(BATCH, cases.stop - first))
    assert sum(done.values()) == len(cases)
    for form in FORMS.keys() - {InputFormat.JSONL}:  # of which each mistake is one row's
        assert done[f"{form} refused"] > 5, done
    assert sum(done[f"{form} read"] for form in FORMS) > len(cases) // 5, done
