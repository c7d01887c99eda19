"""The actions of a request's attempts, which whoever drives them carries out. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.router.fleet.replica import Replica


@dataclass(slots=True)  # not frozen: one is made for every request
class Send:
    """Ask `replica`. Attempts count from 0; the replica has `budget_ms` milliseconds, at least 1."""

    attempt: int
    replica: Replica
    budget_ms: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask `replica` for a sign of life, and call `linked` when it has given one."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Cancel an attempt that is under way: its result is not wanted, what still comes of it is ignored."""

    attempt: int


@dataclass(slots=True)  # not frozen: one is made for every request
class Answered:
    """Deliver the attempt's answer. Final."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Deliver the error. Final."""

    error: CapameshError


Action = Send | Probe | Withdraw | Answered | Failed
