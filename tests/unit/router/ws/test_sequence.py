"""The sequence that a stream is: its marks, and when it begins anew."""

from __future__ import annotations

from itertools import count

import pytest

from capamesh.protocol.oip import InferRequest
from capamesh.router.http.replies import Reply
from capamesh.router.ws.sequence import StreamSequence

OK = Reply(200, {}, ())


@pytest.fixture
def sequence() -> StreamSequence:
    ids = count(1)
    return StreamSequence(lambda _: f"id{next(ids)}")


def marks(sequence: StreamSequence, **parameters: str | int | bool) -> dict[str, object]:
    return dict(sequence.marked(InferRequest("m", "", "", (), parameters=parameters)).parameters)


def failed(status: int, code: str = "") -> Reply:
    return Reply(status, {"X-Capamesh-Error": code}, ())


def test_request_may_end_it_and_the_next_begins_another(sequence: StreamSequence) -> None:
    marks(sequence)
    sequence.replied(OK)
    assert marks(sequence, sequence_end=True)["sequence_end"] is True
    sequence.replied(OK)
    assert marks(sequence) == {"sequence_id": "id2", "sequence_start": True}


def test_request_that_names_its_own_is_left_as_it_is(sequence: StreamSequence) -> None:
    assert marks(sequence, sequence_id=7) == {"sequence_id": 7}


@pytest.mark.parametrize("status", [400, 413, 429, 503])
def test_request_that_was_not_run_leaves_it_as_it_is(sequence: StreamSequence, status: int) -> None:
    marks(sequence)
    sequence.replied(failed(status))
    assert marks(sequence)["sequence_start"] is True
    sequence.replied(OK)
    marks(sequence)
    sequence.replied(failed(status, "invalid_request"))
    assert marks(sequence) == {"sequence_id": "id1", "sequence_start": False}


@pytest.mark.parametrize(
    ("status", "code"),
    [(410, "sequence_lost"), (502, "link_lost"), (504, "late"), (400, "sequence_unknown")],
)
def test_state_that_is_gone_begins_anew(sequence: StreamSequence, status: int, code: str) -> None:
    marks(sequence)
    sequence.replied(OK)
    marks(sequence)
    sequence.replied(failed(status, code))
    assert marks(sequence) == {"sequence_id": "id2", "sequence_start": True}


def test_sequence_begins_anew_where_no_gap_may_be(sequence: StreamSequence) -> None:
    marks(sequence)
    sequence.replied(OK)
    marks(sequence)
    sequence.replied(failed(503), may_go_on=False)
    assert marks(sequence)["sequence_start"] is True
