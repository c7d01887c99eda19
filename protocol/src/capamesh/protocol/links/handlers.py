"""The interfaces to what a link tells whoever asked on it. Pure.

A module of its own, because it is not compiled: compiled code would not know the classes that are derived from these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.links.events import Answer


class ResponseHandler(Protocol):
    """The receiver of an answer. Told once, in the event loop, unless it withdraws; must not raise.

    An answer in parts is an error to it (`PeerError`), and the request is withdrawn: its first part would pass for all.
    """

    __slots__ = ()

    def answered(self, answer: Answer) -> None:
        """The answer is here."""

    def failed(self, error: CapameshError) -> None:
        """The peer answered with an error, or the link has ended (`LinkLost`)."""


class PartsHandler(ResponseHandler, ABC):
    """The receiver of an answer in parts: none or more of them, then its end, which `answered` or `failed` tells once.

    The peer sends more of them as those before are released: see `Link.release`.
    """

    __slots__ = ()

    @abstractmethod
    def part_answered(self, part: Answer) -> None:
        """One more part of the answer is here; others follow."""


class LoadHandler(Protocol):
    """The receiver of a peer's load. Told once, in the event loop, unless it withdraws; must not raise."""

    __slots__ = ()

    def reported(self, meta: bytes) -> None:
        """The load is here."""

    def failed(self, error: CapameshError) -> None:
        """The peer answered with an error, or the link has ended (`LinkLost`)."""
