from __future__ import annotations

import pytest

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.links.calls import DEFAULT_PRIORITY
from capamesh.protocol.links.sequence_mark import SequenceMark
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


@pytest.mark.parametrize(
    ("parameters", "priority"),
    [
        ({}, DEFAULT_PRIORITY),
        ({"priority": 0}, DEFAULT_PRIORITY),
        ({"priority": 1}, 1),
        ({"priority": 255}, 255),
    ],
)
def test_priority_is_the_callers_and_the_middle_without_one(
    parameters: dict[str, object], priority: int
) -> None:
    assert priority_of(parameters) == priority


@pytest.mark.parametrize("wrong", [True, -1, 256, 1.0, "1"])
def test_priority_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidRequest, match="priority"):
        priority_of({"priority": wrong})


@pytest.mark.parametrize(
    ("parameters", "mark"),
    [
        ({}, None),
        ({"sequence_id": 0}, None),
        ({"sequence_id": ""}, None),
        ({"sequence_id": 7}, SequenceMark(7)),
        ({"sequence_id": 2**64 - 1, "sequence_end": True}, SequenceMark(2**64 - 1, False, True)),
        ({"sequence_id": "a", "sequence_start": True}, SequenceMark("a", True, False)),
        ({"sequence_id": 0, "sequence_start": False}, None),
        ({"sequence_id": "x" * 128, "sequence_end": False}, SequenceMark("x" * 128)),
        ({"sequence_id": 1, "sequence_start": False}, SequenceMark(1)),
    ],
)
def test_sequence_is_named_by_its_id_and_its_marks(
    parameters: dict[str, object], mark: SequenceMark | None
) -> None:
    assert sequence_of(parameters) == mark


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
