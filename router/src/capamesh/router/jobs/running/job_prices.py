"""The prices of jobs: what their rows cost at the nodes that ran them for one router's process, and what of it the store knows. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.inputs.rows import REQUEST_ROWS
from capamesh.router.jobs.values import Paid, Price

if TYPE_CHECKING:
    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.router.jobs.inputs.rows import RowBatch
    from capamesh.router.jobs.values import JobId

MOST_AT_ONCE: Final = 64
"""The most sums that are kept in one operation of the store (guess: some milliseconds of it)."""


def paid_rows(batch: RowBatch, answer: InferAnswer) -> int:
    """Return the rows that the answer to a call is paid for by: tokens, where it is generated."""
    if batch.form is None:
        return batch.rows
    return batch.form.paid_rows(batch.inputs[REQUEST_ROWS].tolist(), answer)


class JobPrices:
    """The sums that one process has paid for jobs, until the store has all of them and no call can come any more."""

    def __init__(self, owner: str) -> None:
        """`owner` is the process's name in the store."""
        self._owner = owner
        self._paid: dict[JobId, Price] = {}
        self._kept_rows: dict[JobId, int] = {}
        """The rows of each sum as it is in the store."""

    def add(self, job: JobId, rows: int, price_per_million: float) -> None:
        """Take in that a node with a price has run rows of a job, or made tokens."""
        before = self._paid.get(job, Price())
        total = before.total + rows * price_per_million / 1e6
        self._paid[job] = Price(before.rows + rows, total)

    def paid(self, job: JobId) -> Paid:
        """Return what was paid for a job so far."""
        return Paid(job, self._owner, self._paid.get(job, Price()))

    def unkept(self) -> list[Paid]:
        """Return sums that the store does not have as they are now, `MOST_AT_ONCE` of them at most."""
        found: list[Paid] = []
        for job, price in self._paid.items():
            if price.rows > self._kept_rows.get(job, 0):
                found.append(Paid(job, self._owner, price))
                if len(found) == MOST_AT_ONCE:
                    break
        return found

    def kept(self, paid: Iterable[Paid]) -> None:
        """Take in that the store has these sums."""
        for each in paid:
            self._kept_rows[each.job] = max(each.price.rows, self._kept_rows.get(each.job, 0))

    def forget_others(self, jobs: Collection[JobId]) -> None:
        """Forget the jobs that are none of these, once the store has all that was paid for them."""
        for job in [job for job in self._paid if job not in jobs]:
            if self._paid[job].rows <= self._kept_rows.get(job, 0):
                del self._paid[job]
        for job in [job for job in self._kept_rows if job not in self._paid]:
            del self._kept_rows[job]
