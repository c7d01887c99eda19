"""The errors of jobs, which are the protocol's: all that jobs raise of their own. Pure."""

from __future__ import annotations

from capamesh.protocol.errors import (
    InputChanged,
    InputInvalid,
    JobConflict,
    JobNotFound,
    JobsUnavailable,
    OutputFailed,
    PlaceUnavailable,
)

__all__ = [
    "InputChanged",
    "InputInvalid",
    "JobConflict",
    "JobNotFound",
    "JobsUnavailable",
    "OutputFailed",
    "PlaceUnavailable",
    "ReaderEnded",
]


class ReaderEnded(InputInvalid):
    """The process that read an input ended over it: what the file says takes more memory or time than is given, or breaks a library."""
