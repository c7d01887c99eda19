"""Runs the search for the rows at fault in one batch: each trial is one call. IO: what sends them.

A trial of `Bisection` is told exactly once. What kept it from being run is no word on its rows: it is sent again, and a search that
cannot go on for that gives the shard back. That a node was lost, or said nothing, while a row ran there by itself is a word on the
node: nodes end and freeze for reasons of their own. Such a row is tried again after rests that grow, and is left without an answer
after some such nodes, which is told as that, so that a row which takes whole nodes down does not go on to do so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from capamesh.router.jobs.inputs.rows import RowBatch, part_of
from capamesh.router.jobs.running.bisection import Bisection, Trial
from capamesh.router.jobs.running.errors import ShardFailed, ShardGivenBack
from capamesh.router.jobs.running.nodes import NOT_SENT, Ended
from capamesh.router.jobs.running.verdict import Verdict, judge, rest_s, told
from capamesh.router.jobs.values import BadRow, short

TRIES: Final = 12
"""The times that a batch or a trial is sent before its shard is given back as failed (guess: with rests some 40 s, in which a node
is back)."""

_WORDS: Final = frozenset({Verdict.ANSWERED, Verdict.REFUSED, Verdict.FAILED})
"""The verdicts that say something of the rows, whoever runs them."""

UNANSWERED: Final = "unanswered"
"""The code of a row that was running by itself at so many nodes that were lost or silent, one after the other."""
MOST_LOST: Final = 5
"""The most nodes that are asked for such a row (guess: a node that restarts every minute is lost under one row in thousands, and under
the same row five times in none)."""
LOST_REST_S: Final = 2.0
"""Seconds of rest after the first node that was lost under a row; they double with each further one (guess: half a minute in all, in
which whoever restarts nodes or mends a network has done so)."""

RunTrial: TypeAlias = Callable[[RowBatch, Trial, int], Awaitable[tuple[Ended, bool]]]
"""Runs the rows of a trial as one call, which has failed so often before, once there is room for it, and returns its end and
whether the rows are suspected of the worker's, if that has ended."""


async def search(
    batch: RowBatch,
    bisection: Bisection,
    run: RunTrial,
    keep: Callable[[RowBatch, Ended], None],
) -> list[BadRow]:
    """Run the trials of a search that has begun, hand what was answered to `keep`, and return the rows at fault.

    Raises `ShardFailed` or `ShardGivenBack` if a trial cannot be run.
    """
    while (trial := bisection.next()) is not None:
        rows = part_of(batch, trial.first, trial.first + trial.rows)
        ended, verdict = await _ended(rows, trial, run)
        match verdict:
            case Verdict.ANSWERED:
                keep(rows, ended)
                bisection.answered(trial)
            case Verdict.DIED:
                bisection.died(trial, told(ended), ended.node)
            case Verdict.AGAIN:
                bisection.unanswered(trial, UNANSWERED, _unanswered(ended), ended.node)
            case Verdict.NOBODY:
                bisection.alone(trial)
            case _:
                code = "peer_error" if ended.error is None else ended.error.code
                bisection.refused(trial, code, told(ended), ended.node)
    return [
        BadRow(batch.numbers[each.row], batch.ids[each.row], each.code, short(each.text), each.node)
        for each in bisection.bad
    ]


def _unanswered(last: Ended) -> str:
    """Return what became of a row that nobody answered, for a person."""
    return (
        f"it is not answered: {MOST_LOST} nodes, one after the other, were lost or silent while it ran there by itself, which says nothing"
        f" certain of the row; submit it again once nodes are well; the last: {told(last)}"
    )


async def _ended(rows: RowBatch, trial: Trial, run: RunTrial) -> tuple[Ended, Verdict]:
    """Run a trial until there is a word on its rows, and return its end; AGAIN: enough nodes were lost under a single row, or silent."""
    verdict, last, lost = Verdict.UNSENT, NOT_SENT, 0
    for failures in range(TRIES):
        ended, is_suspect = await run(rows, trial, failures)
        verdict = judge(ended, rows.rows)
        is_word = verdict in _WORDS or (verdict is Verdict.DIED and is_suspect)
        if is_word or (verdict is Verdict.NOBODY and trial.not_at):
            return ended, verdict
        last, after_s = ended, rest_s(failures + 1)
        if trial.is_single_try and verdict in {Verdict.DIED, Verdict.AGAIN}:
            lost += 1
            if lost >= MOST_LOST:
                return ended, Verdict.AGAIN
            after_s = LOST_REST_S * 2.0 ** (lost - 1)
        await asyncio.sleep(after_s)
    words = f"row {rows.numbers[0]} could not be run by itself: {told(last)}"
    raise ShardFailed(words) if verdict is Verdict.AGAIN else ShardGivenBack(words)
