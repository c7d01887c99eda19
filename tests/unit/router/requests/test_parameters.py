from __future__ import annotations

import pytest

from capamesh.protocol.errors import InvalidRequest
from capamesh.router.requests.parameters import priority_of, sequence_of, time_allowed_s


@pytest.mark.parametrize(
    ("parameters", "seconds"),
    [
        ({}, 30.0),
        ({"timeout": 0}, 30.0),
        ({"timeout": 1_500_000}, 1.5),
        ({"timeout": 90_000_000}, 30.0),
    ],
)
def test_time_allowed_is_the_callers_but_no_longer_than_the_routers(
    parameters: dict[str, object], seconds: float
) -> None:
    assert time_allowed_s(parameters, 30.0) == seconds


@pytest.mark.parametrize("wrong", [True, -1, 1.5, "1", []])
def test_time_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidRequest, match="timeout"):
        time_allowed_s({"timeout": wrong}, 30.0)


@pytest.mark.parametrize("wrong", [True, -1, 256, 1.0, "1"])
def test_priority_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidRequest, match="priority"):
        priority_of({"priority": wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequence_start": True},
        {"sequence_end": True, "sequence_id": 0},
        {"sequence_id": -1},
        {"sequence_id": 2**64},
        {"sequence_id": 1.5},
        {"sequence_id": True},
        {"sequence_id": "x" * 129},
        {"sequence_id": 1, "sequence_start": 1},
        {"sequence_id": 1, "sequence_end": "true"},
    ],
)
def test_sequence_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="sequence"):
        sequence_of(wrong)
