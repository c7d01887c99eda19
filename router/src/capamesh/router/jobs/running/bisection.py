"""Finds the rows that are at fault in a batch that failed, in few runs. Pure.

A batch that a node refuses as invalid is halved until single rows are left: log2 of its rows for one bad row. A single row is bad
once a second node says so, too. A batch that ended a worker is not halved, for each run of it may end another: its rows run alone,
each once, and one that ends its worker is bad and is never run again. One that a node refuses is asked of a second node all the same: a
node refuses also what it only remembers, which is that workers ended. A row that ended one in a trial of another kind runs alone, too:
what else was at the worker may have ended it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

ENDS_WORKERS: Final = "request_kills"
"""The code of a row that ended the worker that ran it alone."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Rows that are to be run by themselves."""

    first: int
    """The first row, counted from 0 in the batch."""
    rows: int
    not_at: str = ""
    """The node that must not run it, having said that it is bad; "": any may."""
    is_single_try: bool = False
    """Whatever comes of its run, it is not run again: no retry, no second attempt."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row that is bad, and who says why."""

    row: int
    code: str
    text: str
    node: str


class Bisection:
    """The search in one batch. Each trial that `next` gives is told once: `answered`, `refused`, `died`, `unanswered` or `alone`."""

    def __init__(self, rows: int, *, has_other_node: bool) -> None:
        """Take how many rows the batch has, and whether there is a node besides the one that refused: if not, its word is enough."""
        self._rows = rows
        self._has_other_node = has_other_node
        self._trials: deque[Trial] = deque()
        self._rests: dict[Trial, tuple[Trial, Verdict]] = {}
        """The second half of what was halved, by the first, and what was said of both: it is at fault if the first is not."""
        self._words: dict[Trial, Verdict] = {}
        """The word of the first node on a row of which a second one is asked."""
        self.bad: list[Verdict] = []
        """The rows that are at fault."""
        self.runs = 0
        """The trials that were given."""

    def begin_refused(self, code: str, text: str, node: str) -> None:
        """Begin with a batch that a node refused as invalid."""
        self._blame(Trial(0, self._rows), Verdict(0, code, text, node))

    def begin_died(self) -> None:
        """Begin with a batch that ended a worker."""
        self._run_alone(Trial(0, self._rows))

    def next(self) -> Trial | None:
        """Return the next trial; None: there is none until another is told, or the search is over."""
        if not self._trials:
            return None
        self.runs += 1
        return self._trials.popleft()

    def answered(self, trial: Trial) -> None:
        """Take in that the rows of a trial have results."""
        rest = self._rests.pop(trial, None)
        if rest is not None:
            self._blame(*rest)

    def refused(self, trial: Trial, code: str, text: str, node: str) -> None:
        """Take in that a node refused a trial as invalid."""
        said = Verdict(trial.first, code, text, node)
        if trial.not_at:
            self.bad.append(said)
            return
        rest = self._rests.pop(trial, None)
        if rest is not None:  # it may be bad as well: nobody has run it by itself
            self._trials.append(rest[0])
        self._blame(trial, said)

    def died(self, trial: Trial, text: str, node: str) -> None:
        """Take in that a trial ended its worker."""
        rest = self._rests.pop(trial, None)
        if rest is not None:
            self._run_alone(rest[0])
        if trial.is_single_try:
            self.bad.append(Verdict(trial.first, ENDS_WORKERS, text, node))
        else:
            self._run_alone(trial)

    def unanswered(self, trial: Trial, code: str, text: str, node: str) -> None:
        """Take in that a row which runs alone is given up: no node has a word on it."""
        self.bad.append(Verdict(trial.first, code, text, node))

    def alone(self, trial: Trial) -> None:
        """Take in that no second node can be asked about a row: the word of the first is enough."""
        self.bad.append(self._words[trial])

    def _blame(self, rows: Trial, said: Verdict) -> None:
        """Go on with rows among which one is at fault, as a node said."""
        if rows.rows > 1:
            half = rows.rows // 2
            first = Trial(rows.first, half)
            self._rests[first] = Trial(rows.first + half, rows.rows - half), said
            self._trials.append(first)
        elif self._has_other_node:
            trial = Trial(rows.first, 1, said.node, rows.is_single_try)
            self._words[trial] = Verdict(rows.first, said.code, said.text, said.node)
            self._trials.append(trial)
        else:
            self.bad.append(Verdict(rows.first, said.code, said.text, said.node))

    def _run_alone(self, rows: Trial) -> None:
        self._trials.extend(
            Trial(rows.first + at, 1, is_single_try=True) for at in range(rows.rows)
        )
