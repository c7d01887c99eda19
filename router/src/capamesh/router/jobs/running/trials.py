"""Runs the search for the rows at fault in one batch: each trial is one call. IO: what sends them.

A trial of `Bisection` is told exactly once. What kept it from being run is no word on its rows: it is sent again, and a search that
cannot go on for that gives the shard back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from capamesh.router.jobs.inputs.rows import RowBatch
from capamesh.router.jobs.running.bisection import Bisection, Trial
from capamesh.router.jobs.running.errors import ShardFailed, ShardGivenBack
from capamesh.router.jobs.running.nodes import NOT_SENT, Ended
from capamesh.router.jobs.running.packing import part_of
from capamesh.router.jobs.running.verdict import Verdict, judge, rest_s, told
from capamesh.router.jobs.values import BadRow, short

TRIES: Final = 12
"""The times that a batch or a trial is sent before its shard is given back as failed (guess: with rests some 40 s, in which a node
is back)."""

_WORDS: Final = frozenset({Verdict.ANSWERED, Verdict.REFUSED, Verdict.FAILED, Verdict.DIED})
"""The verdicts that say something of the rows."""

ENOUGH: Final = 2
"""The ends of whole nodes in which a row was running alone, from which on the row is taken to be the reason."""

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
            case Verdict.NOBODY:
                bisection.alone(trial)
            case _:
                code = "peer_error" if ended.error is None else ended.error.code
                bisection.refused(trial, code, told(ended), ended.node)
    return [
        BadRow(batch.numbers[each.row], batch.ids[each.row], each.code, short(each.text), each.node)
        for each in bisection.bad
    ]


async def _ended(rows: RowBatch, trial: Trial, run: RunTrial) -> tuple[Ended, Verdict]:
    """Run a trial until there is a word on its rows, and return its end."""
    verdict, last, deaths = Verdict.UNSENT, NOT_SENT, 0
    for failures in range(TRIES):
        ended, is_suspect = await run(rows, trial, failures)
        verdict = judge(ended, rows.rows)
        if verdict is Verdict.DIED:
            deaths += 1
            if not is_suspect and not (trial.is_single_try and deaths >= ENOUGH):
                last = ended
                continue  # another call was run at the worker, or the whole node has ended
        if verdict in _WORDS or (verdict is Verdict.NOBODY and trial.not_at):
            return ended, verdict
        if verdict is Verdict.AGAIN and trial.is_single_try:
            return ended, verdict  # it may have been run, and is not run again, whatever it was
        last = ended
        await asyncio.sleep(rest_s(failures + 1))
    words = f"row {rows.numbers[0]} could not be run by itself: {told(last)}"
    raise ShardFailed(words) if verdict is Verdict.AGAIN else ShardGivenBack(words)
