"""Bad rows are found in few runs, and a row that ends workers is run once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LinkLost,
    ModelNotFound,
    NoEndpoint,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RequestKills,
    RunFailed,
    TooLarge,
    TooManyRequests,
    Unsatisfiable,
)
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.tensors import Tensor
from capamesh.router.jobs.running.bisection import Bisection, Trial
from capamesh.router.jobs.running.nodes import Ended
from capamesh.router.jobs.running.verdict import (
    Verdict,
    judge,
)

INVALID = "invalid_request"


class Fleet:
    """Two nodes, of which each knows the rows that it refuses, and rows that end any worker."""

    def __init__(self, refused: set[int], deadly: set[int], only_first: set[int]) -> None:
        self.refused = refused
        self.deadly = deadly
        self.only_first = only_first
        """The rows that the first node alone refuses."""
        self.deaths = Counter[int]()
        self.good: set[int] = set()

    def run(self, search: Bisection, trial: Trial) -> None:
        node = "B" if trial.not_at == "A" else "A"
        rows = set(range(trial.first, trial.first + trial.rows))
        if rows & self.deadly:
            self.deaths.update(rows & self.deadly)
            search.died(trial, "its worker ended", node)
        elif rows & (self.refused | (self.only_first if node == "A" else set())):
            search.refused(trial, INVALID, "no", node)
        else:
            assert not rows & self.good  # nobody runs a row twice that has a result
            self.good |= rows
            search.answered(trial)


def searched(
    rows: int,
    refused: set[int],
    *,
    deadly: set[int] | None = None,
    only_first: set[int] | None = None,
    has_other: bool = True,
) -> tuple[Bisection, Fleet]:
    fleet = Fleet(refused, deadly or set(), only_first or set())
    search = Bisection(rows, has_other_node=has_other)
    if fleet.deadly:
        search.begin_died()
    else:
        search.begin_refused(INVALID, "no", "A")
    while (trial := search.next()) is not None:
        fleet.run(search, trial)
    return search, fleet


def test_word_of_the_only_node_is_enough() -> None:
    search, _ = searched(64, {7}, has_other=False)
    assert [(each.row, each.node) for each in search.bad] == [(7, "A")]


def test_death_in_the_search_stops_the_halving() -> None:
    search = Bisection(8, has_other_node=True)
    search.begin_refused(INVALID, "no", "A")
    trial = search.next()
    assert trial == Trial(0, 4)
    search.died(trial, "ended", "A")
    rest = []
    while (each := search.next()) is not None:
        rest.append(each)
        search.answered(each)
    assert sorted(each.first for each in rest) == list(range(8))
    assert all(each.is_single_try and each.rows == 1 for each in rest)


@given(st.data())
def test_every_row_has_a_result_or_a_verdict_and_never_both(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 200))
    some = st.sets(st.integers(0, rows - 1), max_size=8)
    refused = data.draw(some)
    only_first = data.draw(some)
    deadly = data.draw(some)
    search, fleet = searched(rows, refused, deadly=deadly, only_first=only_first)
    if not (refused | only_first | deadly):
        return
    bad = [each.row for each in search.bad]
    assert len(bad) == len(set(bad))
    assert fleet.good | set(bad) == set(range(rows))
    assert not fleet.good & set(bad)
    assert all(count == 1 for count in fleet.deaths.values())
    assert set(bad) == refused | deadly


def sudden() -> LinkLost:
    error = LinkLost("it ended")
    error.is_sudden = True
    return error


@pytest.mark.parametrize(
    ("error", "at_node", "unsent"),
    [
        (Overloaded("full"), Verdict.FULL, Verdict.FULL),
        (TooManyRequests("full"), Verdict.FULL, Verdict.FULL),
        (RequestKills("it ends workers"), Verdict.DIED, Verdict.DIED),
        (sudden(), Verdict.DIED, Verdict.UNSENT),
        (LinkLost("silent"), Verdict.AGAIN, Verdict.UNSENT),
        (RunFailed("no"), Verdict.FAILED, Verdict.FAILED),
        (DeadlineExceeded("late"), Verdict.AGAIN, Verdict.UNSENT),
        (InvalidRequest("wrong"), Verdict.REFUSED, Verdict.REFUSED),
        (TooLarge("long"), Verdict.REFUSED, Verdict.REFUSED),
        (Unsatisfiable("nobody may"), Verdict.NOBODY, Verdict.NOBODY),
        (ModelNotFound("none"), Verdict.UNSENT, Verdict.UNSENT),
        (NoEndpoint("none"), Verdict.AGAIN, Verdict.UNSENT),
        (Draining("it leaves"), Verdict.UNSENT, Verdict.UNSENT),
        (PeerError("?"), Verdict.AGAIN, Verdict.UNSENT),
        (ProtocolViolation("?"), Verdict.AGAIN, Verdict.UNSENT),
    ],
    ids=lambda each: each.code if isinstance(each, CapameshError) else str(each.value),
)
def test_errors_are_judged_by_whether_a_node_had_the_call(
    error: CapameshError, at_node: Verdict, unsent: Verdict
) -> None:
    assert judge(Ended(None, error, "a", "A"), 8) is at_node
    assert judge(Ended(None, error), 8) is unsent


def test_answer_has_a_row_for_each() -> None:
    output = Tensor.from_numpy("y", np.zeros((4, 2), np.float32))
    answer = InferAnswer(ModelVersion("1"), (output,), 0, 0, LoadReport())
    assert judge(Ended(answer, None, "a", "A"), 4) is Verdict.ANSWERED
    assert judge(Ended(answer, None, "a", "A"), 5) is Verdict.AGAIN
    scalar = InferAnswer(
        ModelVersion("1"), (Tensor("y", output.datatype, (), b"\0" * 4),), 0, 0, LoadReport()
    )
    assert judge(Ended(scalar, None, "a", "A"), 1) is Verdict.AGAIN
