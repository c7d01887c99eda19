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
]
