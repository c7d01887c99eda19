"""Bad rows are found in few runs, and a row that ends workers is run once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import virtual_time
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
from capamesh.router.jobs.inputs.rows import RowBatch
from capamesh.router.jobs.running.bisection import Bisection, Trial
from capamesh.router.jobs.running.nodes import Ended
from capamesh.router.jobs.running.trials import LOST_REST_S, MOST_LOST, UNANSWERED, search
from capamesh.router.jobs.running.verdict import (
    Verdict,
    judge,
)
from capamesh.router.jobs.values import BadRow

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


SILENT = LinkLost("nothing is heard")
LATE = DeadlineExceeded("too late")
ANSWER = InferAnswer(ModelVersion("1"), (), 0, 0, LoadReport())


def lost() -> LinkLost:
    error = LinkLost("the link has ended")
    error.is_sudden = True
    return error


class Searched:
    """The search for one row that is suspected of its worker's end, where its trials end so, one after the other."""

    def __init__(self, ends: Sequence[CapameshError | None], *, is_suspect: bool = False) -> None:
        """The last of `ends` is that of all further trials; None is an answer."""
        self._ends = ends
        self._is_suspect = is_suspect
        self.asked_s: list[float] = []
        self.kept = 0
        self.bad: list[BadRow] = []
        virtual_time.run(self._search())

    async def _search(self) -> None:
        bisection = Bisection(1, has_other_node=False)
        bisection.begin_died()
        batch = RowBatch(range(7, 8), ["seven"], {"x": np.zeros((1, 1))})
        self.bad = await search(batch, bisection, self._run, self._keep)

    async def _run(self, rows: RowBatch, trial: Trial, _failures: int) -> tuple[Ended, bool]:
        assert trial.is_single_try
        assert rows.rows == 1
        end = self._ends[min(len(self.asked_s), len(self._ends) - 1)]
        self.asked_s.append(asyncio.get_running_loop().time())
        if end is None:
            return Ended(ANSWER, None, "a", "A"), False
        return Ended(None, end, "a", "A"), self._is_suspect

    def _keep(self, rows: RowBatch, _ended: Ended) -> None:
        self.kept += rows.rows


@pytest.mark.parametrize("end", [lost(), SILENT, LATE], ids=["lost", "silent", "late"])
def test_row_is_left_unanswered_once_so_many_nodes_were_lost_or_silent(end: CapameshError) -> None:
    seen = Searched([end])
    (bad,) = seen.bad
    assert (bad.row, bad.row_id, bad.code) == (7, "seven", UNANSWERED)
    assert "nothing certain of the row" in bad.text
    assert len(seen.asked_s) == MOST_LOST
    rests = [later - each for each, later in zip(seen.asked_s, seen.asked_s[1:], strict=False)]
    assert rests == pytest.approx([LOST_REST_S * 2**at for at in range(MOST_LOST - 1)])


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
