"""The store's operations on the prices of jobs: each router's process has one sum a job, and they are added up when the job is read. IO: the turn's connection.

A process writes all that it has paid for a job over what it wrote before. So it may write it again, whatever came of the last time, and
late: also for a job that has ended, for its calls may have ended after it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import BigInteger, Double, Text, bindparam, exists, insert, select, update

from capamesh.router.jobs.store.group_commit import Turn
from capamesh.router.jobs.store.tables import JOBS, PRICES
from capamesh.router.jobs.values import Paid

_JOB: Final = bindparam("the_job", type_=Text)
_OWNER: Final = bindparam("the_owner", type_=Text)
_ROWS: Final = bindparam("the_rows", type_=BigInteger)
_TOTAL: Final = bindparam("the_total", type_=Double)
_IS_ITS: Final = (PRICES.c.job == _JOB, PRICES.c.owner == _OWNER)
_WRITE: Final = (
    update(PRICES)
    .where(*_IS_ITS, PRICES.c.rows < _ROWS)
    .values(rows=_ROWS, total=_TOTAL)
    .returning(PRICES.c.rows)
)
# not for a job that was forgotten meanwhile
_BEGIN: Final = insert(PRICES).from_select(
    ["job", "owner", "rows", "total"],
    select(JOBS.c.id, _OWNER, _ROWS, _TOTAL).where(JOBS.c.id == _JOB, ~exists().where(*_IS_ITS)),
)


def keep_price(turn: Turn, paid: Paid) -> None:
    """Keep what a process has paid for a job in all; nothing happens if there is no such job, or more was kept before."""
    asked = {
        "the_job": paid.job,
        "the_owner": paid.owner,
        "the_rows": paid.price.rows,
        "the_total": paid.price.total,
    }
    if turn.connection.execute(_WRITE, asked).first() is None:
        turn.connection.execute(_BEGIN, asked)


def keep_prices(turn: Turn, paid: Sequence[Paid]) -> None:
    """Keep what a process has paid for jobs, as `keep_price` does."""
    for each in paid:
        keep_price(turn, each)
