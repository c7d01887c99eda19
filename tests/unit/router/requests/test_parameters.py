"""The time, the priority and the sequence that a request's parameters ask for."""

from __future__ import annotations

from collections.abc import Callable

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


def allowed_s(parameters: dict[str, object]) -> float:
    return time_allowed_s(parameters, 30.0)


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        *((allowed_s, {"timeout": wrong}) for wrong in (True, -1, 1.5, "1", [])),
        *((priority_of, {"priority": wrong}) for wrong in (True, -1, 256, 1.0, "1")),
        *((sequence_of, {"sequence_id": wrong}) for wrong in (-1, 2**64, 1.5, True, "x" * 129)),
        (sequence_of, {"sequence_start": True}),
        (sequence_of, {"sequence_end": True, "sequence_id": 0}),
        (sequence_of, {"sequence_id": 1, "sequence_start": 1}),
        (sequence_of, {"sequence_id": 1, "sequence_end": "true"}),
    ],
)
def test_parameter_that_is_none_is_refused(
    read: Callable[[dict[str, object]], object], wrong: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong)).partition("_")[0]):
        read(wrong)
