"""The usage of keys as it is counted, what one process of a router sends of it to the store at a time, and what comes back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Amount(NamedTuple):
    """The amount of something used."""

    requests: int = 0
    rows: int = 0
    bytes: int = 0
    """The bytes of tensors, in requests and answers."""

    def plus(self, other: Amount) -> Amount:
        """Return both together."""
        return Amount(
            self.requests + other.requests, self.rows + other.rows, self.bytes + other.bytes
        )

    def less(self, other: Amount) -> Amount:
        """Return what is left without the other."""
        return Amount(
            self.requests - other.requests, self.rows - other.rows, self.bytes - other.bytes
        )


class UsageRow(NamedTuple):
    """The place where usage is counted."""

    hour: int
    """Hours since 1970."""
    tenant: str
    model: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage that is to be written: by hour, tenant and model, and by key in one month."""

    month: str
    rows: Mapping[UsageRow, Amount]
    keys: Mapping[str, Amount]


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
