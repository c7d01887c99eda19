"""The rest of an answer that is read as it comes: what the clients' connections give, and streams take. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod


class SyncRest(ABC):
    """The bytes of an answer behind its head, for one thread."""

    @abstractmethod
    def read(self) -> bytes:
        """Return the bytes that come next, empty at the end. Raises `CutOff`, `DeadlineExceeded`."""

    @abstractmethod
    def close(self) -> None:
        """Give the connection back where all was read, and else hang up. May be called again."""


class AsyncRest(ABC):
    """The bytes of an answer behind its head, for one event loop."""

    @abstractmethod
    async def read(self) -> bytes:
        """Return the bytes that come next, empty at the end. Raises `CutOff`, `DeadlineExceeded`."""

    @abstractmethod
    def close(self) -> None:
        """Give the connection back where all was read, and else hang up. May be called again."""
