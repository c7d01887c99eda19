"""What a policy sees and what it returns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from capamesh.protocol.ids import ModelName, ModelVersion


class Loaded(Protocol):
    """A candidate as policies see it."""

    @property
    def rif(self) -> int:
        """This router's requests in flight there."""
        ...


@dataclass(frozen=True, slots=True)
class RequestShape:
    """What of a request may matter for where it goes."""

    model: ModelName
    version: ModelVersion
    size_bytes: int


LoadedT = TypeVar("LoadedT", bound=Loaded)


class Policy(Protocol):
    """Picks where a request goes. Holds no clock, no socket, no global state."""

    name: ClassVar[str]

    def pick(self, candidates: Sequence[LoadedT], request: RequestShape) -> LoadedT:
        """Return one of `candidates`, which is never empty."""
        ...
