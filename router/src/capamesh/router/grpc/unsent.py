"""The answers of a connection that wait for its client's windows, as the budget counts them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.router.http.body_budget import Charge

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.router.http.body_budget import BodyBudget


class UnsentAnswers(Charge):
    """The charge for what waits on one connection."""

    __slots__ = ("_asked_bytes", "_budget", "_end", "_left_bytes", "_moved_bytes")

    def __init__(self, budget: BodyBudget, end: Callable[[], None]) -> None:
        """`end` ends the connection, for others need the room."""
        super().__init__(is_arriving=False)
        self._budget = budget
        self._end = end
        self._left_bytes = 0
        self._moved_bytes = 0
        """All bytes that have been sent after they had waited."""
        self._asked_bytes = -1

    def has(self, left_bytes: int) -> bool:
        """Note how many bytes wait now; False: there is no room for them."""
        self._moved_bytes += max(0, self._left_bytes - left_bytes)
        was_bytes, self._left_bytes = self._left_bytes, left_bytes
        if not left_bytes:
            self.drop()
            return True
        if not was_bytes:
            return self._budget.begin(self, left_bytes)
        return left_bytes <= self.size_bytes or self._budget.grow(
            self, left_bytes - self.size_bytes
        )

    def is_stuck(self) -> bool:
        """Return whether nothing of what waits has been sent since this was asked last."""
        seen_bytes, self._asked_bytes = self._asked_bytes, self._moved_bytes
        if not self._left_bytes:
            self._asked_bytes = -1
            return False
        return seen_bytes == self._moved_bytes

    def drop(self) -> None:
        """Forget it."""
        self._budget.release(self)

    @override
    def go_on(self) -> None:
        """Do nothing: an answer never waits for room."""

    @override
    def give_up(self) -> None:
        self._end()

    @override
    def moved_bytes(self) -> int:
        return self._moved_bytes
