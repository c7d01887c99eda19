"""The actions of a request's attempts, which whoever drives them carries out. Pure values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.protocol.values import Value

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.router.fleet.replica import Replica


class Send(Value):
    """Ask `replica`. Attempts count from 0; the replica has `budget_ms` milliseconds, at least 1."""

    __slots__ = ("attempt", "budget_ms", "replica")

    def __init__(self, attempt: int, replica: Replica, budget_ms: int) -> None:
        self.attempt = attempt
        self.replica = replica
        self.budget_ms = budget_ms


class Probe(Value):
    """Ask `replica` for a sign of life, and call `linked` when it has given one."""

    __slots__ = ("replica",)

    def __init__(self, replica: Replica) -> None:
        self.replica = replica


class Withdraw(Value):
    """Cancel an attempt that is under way: its result is not wanted, what still comes of it is ignored."""

    __slots__ = ("attempt",)

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt


class Answered(Value):
    """Deliver the attempt's answer. Final."""

    __slots__ = ("attempt",)

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt


class Failed(Value):
    """Deliver the error. Final."""

    __slots__ = ("error",)

    def __init__(self, error: CapameshError) -> None:
        self.error = error


Action = Send | Probe | Withdraw | Answered | Failed
