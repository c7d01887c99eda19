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
from capamesh.router.jobs.running.verdict import Verdict, judge

INVALID = "invalid_request"


class Fleet:
    """Two nodes, of which each knows the rows that it refuses, the first some more, and rows that end any worker."""

    def __init__(self, refused: set[int], deadly: set[int], only_first: set[int]) -> None:
        self.refused, self.deadly, self.only_first = refused, deadly, only_first
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

    def searched(self, rows: int, *, has_other: bool = True) -> Bisection:
        search = Bisection(rows, has_other_node=has_other)
        if self.deadly:
            search.begin_died()
        else:
            search.begin_refused(INVALID, "no", "A")
        while (trial := search.next()) is not None:
            self.run(search, trial)
        return search


def test_word_of_the_only_node_is_enough() -> None:
    search = Fleet({7}, set(), set()).searched(64, has_other=False)
    assert [(each.row, each.node) for each in search.bad] == [(7, "A")]


@given(st.data())
def test_every_row_has_a_result_or_a_verdict_and_never_both(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 200))
    some = st.sets(st.integers(0, rows - 1), max_size=8)
    refused, deadly, only_first = (data.draw(some) for _ in range(3))
    fleet = Fleet(refused, deadly, only_first)
    search = fleet.searched(rows)
    if not (refused | only_first | deadly):
        return
    bad = [each.row for each in search.bad]
    assert sorted(bad) == sorted(refused | deadly)
    assert fleet.good == set(range(rows)) - set(bad)
    assert all(count == 1 for count in fleet.deaths.values())


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
    for shape, rows, verdict in (
        ((4, 2), 4, Verdict.ANSWERED),
        ((4, 2), 5, Verdict.AGAIN),
        ((), 1, Verdict.AGAIN),
    ):
        output = Tensor.from_numpy("y", np.zeros(shape, np.float32))
        answer = InferAnswer(ModelVersion("1"), (output,), 0, 0, LoadReport())
        assert judge(Ended(answer, None, "a", "A"), rows) is verdict
