"""The verdicts on replicas that stand out, and the part of a replica that is looked at for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from capamesh.router.resilience.health import Health


class Watched(Protocol):
    """The part of a `Replica` that is watched here."""

    __slots__ = ()

    health: Health
    is_gone: bool


H = TypeVar("H", bound=Watched)


@dataclass(frozen=True, slots=True)
class Outlier(Generic[H]):
    """`replica` should be ejected (`replica.health.eject`)."""

    replica: H
    reason: str


@dataclass(frozen=True, slots=True)
class Slow(Generic[H]):
    """`replica` has become slow beside the others: for the log. Told once until it is so no more."""

    replica: H
    reason: str
