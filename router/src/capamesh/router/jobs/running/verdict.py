"""Judges what the end of a bulk call says of its rows: done, to be sent again, or at fault. Pure."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import (
    Cancelled,
    ClientError,
    DeadlineExceeded,
    LinkLost,
    ModelNotFound,
    Overloaded,
    ProtocolViolation,
    RequestKills,
    RunFailed,
    Unsatisfiable,
    is_refusal,
)

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.router.jobs.running.nodes import Ended

FIRST_REST_S: Final = 0.25
"""Seconds of rest before a call that failed is sent again; they double with each further failure (guess)."""
MOST_REST_S: Final = 5.0
"""The longest such rest (guess: as long as a node takes to be back)."""
LEAST_WAIT_S: Final = 0.02
"""The shortest wait for room (guess: a few runs)."""
MOST_WAIT_S: Final = 2.0
"""The longest wait for room before it is asked for anew: what nodes tell of it changes."""


class Verdict(Enum):
    """The verdicts on a call that has ended."""

    ANSWERED = "answered"
    FULL = "full"
    """No node had room: it was not run, and that is no failure."""
    AGAIN = "again"
    """The call failed, or may have, for a reason that is not known to be its rows'."""
    FAILED = "failed"
    """The model's run failed on it."""
    UNSENT = "unsent"
    """The call was not run, for nobody could be asked."""
    REFUSED = "refused"
    """A node says that its rows are wrong."""
    DIED = "died"
    """The worker that ran it has ended."""
    NOBODY = "nobody"
    """No node may have it, as it or the operator asks: waiting does not help."""
    OVER_QUOTA = "over quota"
    """The job's tenant has used up its month."""


def judge(ended: Ended, rows: int) -> Verdict:
    """Return what the end of a call of so many rows says of them."""
    if ended.is_over_quota:
        return Verdict.OVER_QUOTA
    if ended.error is not None:
        return _judged(ended.error, was_sent=bool(ended.node))
    return Verdict.ANSWERED if misfit(ended, rows) is None else Verdict.AGAIN


def _judged(error: CapameshError, *, was_sent: bool) -> Verdict:
    match error:
        case Overloaded():
            found = Verdict.FULL
        case RequestKills():
            found = Verdict.DIED
        case RunFailed():
            found = Verdict.FAILED
        case LinkLost(is_sudden=True) if was_sent:
            found = Verdict.DIED
        case Unsatisfiable():
            found = Verdict.NOBODY
        case ModelNotFound():
            found = Verdict.UNSENT
        case DeadlineExceeded() | Cancelled():
            found = Verdict.AGAIN if was_sent else Verdict.UNSENT
        case ClientError():
            found = Verdict.REFUSED
        case _:
            found = Verdict.UNSENT if not was_sent or is_refusal(error) else Verdict.AGAIN
    return found


def is_proven_death(ended: Ended) -> bool:
    """Return whether the pipeline itself says that a call ends workers."""
    return isinstance(ended.error, RequestKills)


def misfit(ended: Ended, rows: int) -> CapameshError | None:
    """Return what is wrong with an answer to so many rows, which is its node's fault; None: nothing."""
    answer = ended.answer
    if answer is None:
        return None
    for tensor in answer.outputs:
        if not tensor.shape or tensor.shape[0] != rows:
            return ProtocolViolation(
                f"output {tensor.name!r} of {ended.name} has the shape {list(tensor.shape)}, for {rows} rows"
            )
    return None


def rest_s(failures: int) -> float:
    """Return how long to wait before a call is sent again that has failed so often, 1 or more."""
    return min(MOST_REST_S, FIRST_REST_S * 2.0 ** min(failures - 1, 10))


def wait_s(error: CapameshError | None) -> float:
    """Return how long to wait for room after a refusal, which may say so itself."""
    told = 0.0 if error is None else error.retry_after_s
    return min(MOST_WAIT_S, max(LEAST_WAIT_S, told))


def told(ended: Ended) -> str:
    """Return what a failure was, for a person."""
    error = ended.error
    if error is None:
        return "the node's answer did not fit"
    where = f" at {ended.name}" if ended.name else ""
    return f"{error.code}{where}: {error.message}"
