"""What the end of a trial says of its row, and what it says of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
import virtual_time

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    LinkLost,
)
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.router.jobs.inputs.rows import RowBatch
from capamesh.router.jobs.running.bisection import Bisection, Trial
from capamesh.router.jobs.running.nodes import Ended
from capamesh.router.jobs.running.trials import LOST_REST_S, MOST_LOST, UNANSWERED, search
from capamesh.router.jobs.values import BadRow

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
