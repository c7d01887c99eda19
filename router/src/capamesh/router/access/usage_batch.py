"""The usage that one process of a router sends to the store at a time, and what comes back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from capamesh.router.access.quotas import Amount, Usage


@dataclass(frozen=True, slots=True)
class UsageBatch:
    """Usage under a number of its process's own: the store counts it once, however often it is sent."""

    usage: Usage
    writer: str = ""
    """The process; empty: the batch is not known again."""
    number: int = 0
    """The number, above that of the batch before."""
    at_s: float = 0.0
    """The time by the store's clock, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class WrittenUsage:
    """The usage of all processes of a store, once a batch is in it."""

    totals: Mapping[str, Amount]
    """The amounts of the batch's month, by key."""
    others: Mapping[str, int]
    """The number of other processes that have used a key of late, by key; one that none has used is not there."""
