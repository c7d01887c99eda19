"""A batch: a job over a file of requests, as OpenAI's clients see it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType, cast

from capamesh.protocol.errors import JobNotFound
from capamesh.router.jobs.spec import MAX_WAIT_S
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.values import JobId, job_id_of
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    from capamesh.router.jobs.stored_files import FileId
    from capamesh.router.jobs.values import Job

BatchId = NewType("BatchId", str)
"""The name of a batch: that of its job, with `batch_` instead of `job-`."""

_OF_JOB, _OF_BATCH = "job-", "batch_"
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,4})h", re.ASCII)
HOUR_S: Final = 3600.0
MAX_METADATA: Final = 16
"""The most entries of a client's own about a batch: OpenAI's limit, as the next two."""
MAX_KEY_CHARS: Final = 64
MAX_VALUE_CHARS: Final = 512


class BatchState(StrEnum):
    """The state of a batch, in OpenAI's words."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    """The files of the batch are being made."""
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    """The batch was cancelled, and the files of what was done are being made."""
    CANCELLED = "cancelled"


_BEFORE_FILES: Final = {
    JobState.PLANNING: BatchState.VALIDATING,
    JobState.RUNNING: BatchState.IN_PROGRESS,
    JobState.BLOCKED: BatchState.IN_PROGRESS,
    JobState.PAUSED: BatchState.IN_PROGRESS,
    JobState.COMPLETED: BatchState.FINALIZING,
    JobState.FAILED: BatchState.FINALIZING,
    JobState.EXPIRED: BatchState.FINALIZING,
    JobState.CANCELLED: BatchState.CANCELLING,
}
_AFTER: Final = {
    JobState.COMPLETED: BatchState.COMPLETED,
    JobState.FAILED: BatchState.FAILED,
    JobState.EXPIRED: BatchState.EXPIRED,
    JobState.CANCELLED: BatchState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class BatchAsked:
    """The things that a client asked for, beside the job that the batch is."""

    endpoint: str
    input_file: FileId
    window: str
    """The time that it may take, as the client wrote it."""
    keep_s: float
    """Seconds for which its files are kept."""
    metadata: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it is now."""

    job: Job
    asked: BatchAsked
    made_s: float | None = None
    """The time when its files were made, in seconds since 1970; None: they are not."""
    output_file: FileId | None = None
    """The answers; None: there are none, or not yet."""
    error_file: FileId | None = None
    """The requests without one, and why; None: there are none, or not yet."""
    trouble: str = ""
    """The reason why its files could not be made when that was tried last."""

    @property
    def id(self) -> BatchId:
        """Return its name."""
        return BatchId(_OF_BATCH + self.job.id.removeprefix(_OF_JOB))

    @property
    def state(self) -> BatchState:
        """Return its state, which is that of its job until its files are made."""
        state = self.job.state
        return _AFTER[state] if self.made_s is not None else _BEFORE_FILES[state]


def job_of(batch: str) -> JobId:
    """Return the job of a batch that a client names; raises `JobNotFound` for what no batch is called."""
    if not batch.startswith(_OF_BATCH):
        raise no_batch(batch)
    try:
        return job_id_of(_OF_JOB + batch.removeprefix(_OF_BATCH))
    except JobNotFound as exc:
        raise no_batch(batch) from exc


def no_batch(batch: str) -> JobNotFound:
    """Return the error for a batch that is not there, or is another tenant's."""
    return JobNotFound(f"there is no batch {batch[:80]!r}; GET /v1/batches lists them")


def batch_id_of(job: JobId) -> BatchId:
    """Return the name of a job's batch."""
    return BatchId(_OF_BATCH + job.removeprefix(_OF_JOB))


def window_s(window: object) -> float:
    """Return the seconds of a time such as 24h. Raises `InvalidParameter`."""
    found = _WINDOW.fullmatch(window) if isinstance(window, str) else None
    if found is None or int(found[1]) * HOUR_S > MAX_WAIT_S:
        raise InvalidParameter(
            "completion_window",
            f"completion_window is {window!r:.80}; hours such as 24h are expected, {MAX_WAIT_S // HOUR_S:.0f}h at most",
        )
    return int(found[1]) * HOUR_S


def check_metadata(metadata: object) -> dict[str, str]:
    """Return a client's own entries about a batch; None: there are none. Raises `InvalidParameter`."""
    if metadata is None:
        return {}
    found = cast("dict[str, object]", metadata) if isinstance(metadata, dict) else None
    if found is None or len(found) > MAX_METADATA:
        raise InvalidParameter(
            "metadata", f"metadata must be an object of at most {MAX_METADATA} texts"
        )
    texts: dict[str, str] = {}
    for key, value in found.items():
        if (
            isinstance(value, str)
            and len(value) <= MAX_VALUE_CHARS
            and 0 < len(key) <= MAX_KEY_CHARS
        ):
            texts[key] = value
        else:
            raise InvalidParameter(
                "metadata",
                f"metadata has {key[:80]!r}: names of 1 to {MAX_KEY_CHARS} characters and texts of {MAX_VALUE_CHARS} at most are"
                " taken",
            )
    return texts
