"""A message on its way, in the parts that are here, as far as the budget has room. No IO of its own.

How long it becomes nobody has said. While there is no room for a part the connection is not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import Overloaded
from capamesh.router.http.body_budget import Charge

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.router.http.body_budget import BodyBudget


class ArrivingMessage(Charge):
    """One message."""

    __slots__ = (
        "_budget",
        "_on_no_room",
        "_on_room",
        "_parts",
        "filled_bytes",
        "is_text",
        "since_s",
    )

    def __init__(
        self,
        budget: BodyBudget,
        on_room: Callable[[], None],
        on_no_room: Callable[[], None],
        *,
        is_text: bool,
        since_s: float,
        site: str = "",
    ) -> None:
        """A client of the `site` sends it. `on_room` is told when more may be read; `on_no_room` when others need the room."""
        super().__init__(site=site)
        self._budget = budget
        self._on_room = on_room
        self._on_no_room = on_no_room
        self._parts: list[bytes] = []
        self.filled_bytes = 0
        self.is_text = is_text
        self.since_s = since_s
        """The time when it began, on the loop's clock."""

    def begin(self) -> bool:
        """Begin to take room; False: there is none."""
        return self._budget.begin(self, 0)

    def add(self, part: bytes) -> None:
        """Take a part; then `is_waiting` tells whether there was no room for it."""
        self._parts.append(part)
        self.filled_bytes += len(part)
        self._settle()

    def pad(self, size_bytes: int) -> None:
        """Take zeros up to a size, for nothing more comes."""
        self._parts.append(bytes(size_bytes - self.filled_bytes))
        self.filled_bytes = size_bytes

    def arrived(self, held_bytes: int) -> memoryview | None:
        """Return the message, which is here whole, and hold `held_bytes` for it; None: there is no room."""
        if not self._budget.arrived(self, held_bytes):
            return None
        parts, self._parts = self._parts, []
        return memoryview(parts[0] if len(parts) == 1 else b"".join(parts))

    def drop(self) -> None:
        """Forget it."""
        self._budget.release(self)
        self._parts.clear()

    @override
    def go_on(self) -> None:
        self._settle()
        if not self.is_waiting:
            self._on_room()

    @override
    def give_up(self) -> None:
        self._on_no_room()

    @override
    def moved_bytes(self) -> int:
        return self.filled_bytes

    def _settle(self) -> None:
        more_bytes = self.filled_bytes - self.size_bytes
        if more_bytes and not self.is_waiting:
            self._budget.grow(self, more_bytes)


def no_room(budget: BodyBudget) -> Overloaded:
    """Return the error for a client whose message has no room."""
    return Overloaded(budget.words_of_no_room(), 1.0)
