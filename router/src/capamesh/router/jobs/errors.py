"""The errors of jobs, which no wire carries: who adds routes makes them the protocol's, with a status and a place in its pages. Pure."""

from __future__ import annotations

from capamesh.protocol.errors import ClientError, InvalidRequest, PeerError


class JobNotFound(ClientError):
    """There is no such job, or it is another tenant's."""

    code = "job_not_found"


class JobConflict(ClientError):
    """The job is in a state in which it cannot do what was asked."""

    code = "job_conflict"


class InputInvalid(InvalidRequest):
    """The input of a job cannot be read, or does not fit the model."""

    code = "input_invalid"


class InputChanged(ClientError):
    """The input of a job is not what it was when the job was planned."""

    code = "input_changed"


class JobsUnavailable(PeerError):
    """The store of jobs cannot be used now; what was asked may be done or not, and may be asked again."""

    code = "jobs_unavailable"


class OutputFailed(PeerError):
    """A part cannot be written; another router, or this one later, may do better."""

    code = "output_failed"
