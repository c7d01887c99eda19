"""The counts behind the page's history, added up."""

from __future__ import annotations

from capamesh.protocol.ids import ModelName
from capamesh.router.page.history import Totals
from capamesh.router.process.workers.histories import added, ended, totals_values

ONE = Totals({ModelName("m"): [1, 2]}, {("m", "late"): 3}, 4, 5, 5)
OTHER = Totals({ModelName("m"): [10, 0], ModelName("n"): [7, 0]}, {("", "x"): 1}, 2, 6, 3)


def test_counts_add_up_and_nodes_are_those_of_who_knows_most() -> None:
    assert added(map(totals_values, (ONE, OTHER))) == Totals(
        {ModelName("m"): [11, 2], ModelName("n"): [7, 0]}, {("m", "late"): 3, ("", "x"): 1}, 6, 6, 5
    )


def test_worker_that_is_gone_leaves_what_it_has_counted() -> None:
    assert added([ended(totals_values(ONE))]) == Totals(
        {ModelName("m"): [1, 2]}, {("m", "late"): 3}, 0, 0, 0
    )
