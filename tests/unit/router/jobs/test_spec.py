"""What a client may ask of a job."""

from __future__ import annotations

from typing import Any

import pytest

from capamesh.protocol.schema import Mismatch, read
from capamesh.router.jobs.spec import JobSpec

LEAST: dict[str, Any] = {
    "model": "digits",
    "input": {"url": "/in.jsonl", "format": "jsonl", "columns": {"x": ["pixels"]}},
    "output": {"url": "/out"},
}


def spec(**changes: object) -> JobSpec:
    return read({**LEAST, **changes}, JobSpec)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ""}, "model"),
        ({"input": {**LEAST["input"], "columns": {}}}, "input.columns"),
        ({"input": {**LEAST["input"], "format": "xls"}}, "one of jsonl, csv"),
        (
            {"input": {**LEAST["input"], "encoding": {"y": "path"}}},
            "encoding has 'y', which is none of the columns",
        ),
        ({"input": {**LEAST["input"], "encoding": {"pixels": "hex"}}}, "one of base64, path"),
        (
            {"input": {**LEAST["input"], "format": "folder", "encoding": {"pixels": "path"}}},
            "as they are",
        ),
        ({"priority": 0}, "priority"),
        ({"deadline_s": 3600}, "in 1970"),
        ({"failure": {"most_failures": 0}}, "failure.most_failures"),
        ({"callback": "x"}, "unknown key callback"),
        ({"client_key": "a\x1b[2J"}, "client_key"),
        (
            {"input": {**LEAST["input"], "columns": {f"i{at}": ["c"] for at in range(65)}}},
            "columns",
        ),
    ],
)
def test_field_that_does_not_fit_is_refused_with_its_name(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(Mismatch) as refused:
        spec(**changes)
    assert words in str(refused.value)
