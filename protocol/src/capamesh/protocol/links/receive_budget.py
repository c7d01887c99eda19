"""Bounds the bytes of bodies that all links of a process may be receiving at once, and says who has to wait. Pure.

A body within the initial credit flows at once: it is counted if it does not come in one frame, and refused where such
bodies have all that they may have. Of a larger one the peer sends as much, and the rest when there is room for the whole
of it: it waits, and with it the peer. Who came first is served first, but one link has half of the room at most (or one
body, if that is larger), so that a peer that announces much and sends nothing leaves room for others.
"""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override


class Claim:
    """The part of a budget that one body has."""

    __slots__ = ("first_bytes", "is_granted", "room", "size_bytes", "stream")

    def __init__(self, room: LinkRoom, stream: int, size_bytes: int, first_bytes: int) -> None:
        self.room = room
        self.stream = stream
        self.size_bytes = size_bytes
        self.first_bytes = first_bytes
        """The bytes of it that may come before there is room for all."""
        self.is_granted = False
        """True if there is room for the whole of it."""


class LinkRoom:
    """One link's share of a budget."""

    __slots__ = ("_budget", "_claims", "first_bytes", "granted_bytes", "on_granted")

    def __init__(self, budget: ReceiveBudget, on_granted: Callable[[int, int], None]) -> None:
        self._budget = budget
        self._claims: set[Claim] = set()
        self.on_granted = on_granted
        """The callback that is told the stream whose body may come, and how much of it had not been allowed before."""
        self.granted_bytes = 0
        self.first_bytes = 0

    def take(self, stream: int, size_bytes: int, credit_bytes: int) -> Claim | None:
        """Begin to receive a body of which `credit_bytes` may come at once; None: there is no room even for that.

        For a body that is larger `on_granted` is told once, maybe before this returns.
        """
        first_bytes = min(size_bytes, credit_bytes)
        if not self._budget.begin(self, first_bytes):
            return None
        claim = Claim(self, stream, size_bytes, first_bytes)
        self._claims.add(claim)
        if size_bytes > credit_bytes:
            self._budget.wait(claim)
        return claim

    def give_back(self, claim: Claim) -> None:
        """Give back what a body has; a second time does nothing."""
        if claim in self._claims:
            self._claims.discard(claim)
            self._budget.end(claim)

    def close(self) -> None:
        """Give back all that the link has."""
        claims, self._claims = self._claims, set()
        self._budget.end(*claims)


class ReceiveBudget:
    """The room for bodies that are being received on any of a process's links.

    Bodies with room for the whole of them have `most_bytes` together, and what flows without asking has as much again.
    """

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes` is at least the largest body."""
        self.most_bytes = most_bytes
        self.granted_bytes = 0
        """The bytes of large bodies that may come whole."""
        self.first_bytes = 0
        """The bytes of small bodies, and of the beginnings of large ones that wait."""
        self._waiting: dict[Claim, None] = {}
        """The claims that wait, by age."""
        self._is_granting = False

    @override
    def __repr__(self) -> str:
        return (
            f"ReceiveBudget({self.granted_bytes} of {self.most_bytes}, {self.first_bytes} at once,"
            f" {len(self._waiting)} waiting)"
        )

    @property
    def waiting(self) -> int:
        """Return the number of bodies that wait for room."""
        return len(self._waiting)

    def link(self, on_granted: Callable[[int, int], None]) -> LinkRoom:
        """Return the share of a new link."""
        return LinkRoom(self, on_granted)

    # told by shares

    def begin(self, room: LinkRoom, size_bytes: int) -> bool:
        """Count what comes without asking; False: no room."""
        if (
            self.first_bytes + size_bytes > self.most_bytes
            or room.first_bytes + size_bytes > self.most_bytes // 2
        ):
            return False
        self.first_bytes += size_bytes
        room.first_bytes += size_bytes
        return True

    def wait(self, claim: Claim) -> None:
        """Let a large body come when it is its turn, maybe at once."""
        self._waiting[claim] = None
        self._grant()

    def end(self, *claims: Claim) -> None:
        """Forget bodies, each counted till now."""
        for claim in claims:
            self._waiting.pop(claim, None)
            if claim.is_granted:
                self.granted_bytes -= claim.size_bytes
                claim.room.granted_bytes -= claim.size_bytes
            else:
                self.first_bytes -= claim.first_bytes
                claim.room.first_bytes -= claim.first_bytes
        if self._waiting:
            self._grant()

    # inside

    def _grant(self) -> None:
        """Let those come for whom there is room, in their order; only a link that has its share is passed over."""
        if self._is_granting:
            return
        self._is_granting = True
        try:
            while (claim := self._next()) is not None:
                del self._waiting[claim]
                room, size_bytes = claim.room, claim.size_bytes
                self.first_bytes -= claim.first_bytes
                room.first_bytes -= claim.first_bytes
                self.granted_bytes += size_bytes
                room.granted_bytes += size_bytes
                claim.is_granted = True
                room.on_granted(claim.stream, size_bytes - claim.first_bytes)
        finally:
            self._is_granting = False

    def _next(self) -> Claim | None:
        for claim in self._waiting:
            has_bytes = claim.room.granted_bytes
            if has_bytes and has_bytes + claim.size_bytes > self.most_bytes // 2:
                continue
            is_fitting = self.granted_bytes + claim.size_bytes <= self.most_bytes
            return claim if is_fitting else None
        return None
