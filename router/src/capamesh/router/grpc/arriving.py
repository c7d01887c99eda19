"""A long message on its way into the memory it stays in, as far as the budget has room. No IO of its own.

While there is no room the client's window stays shut, so that it waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.memory import body_memory
from capamesh.router.http.body_budget import Charge

if TYPE_CHECKING:
    from capamesh.router.http.body_budget import BodyBudget


class ArrivingMessage(Charge):
    """One message."""

    __slots__ = (
        "_budget",
        "_filled_bytes",
        "_on_no_room",
        "_on_taken",
        "_room_bytes",
        "memory",
        "owed_bytes",
    )

    def __init__(
        self,
        budget: BodyBudget,
        size_bytes: int,
        on_taken: Callable[[int], None],
        on_no_room: Callable[[], None],
        site: str = "",
    ) -> None:
        """`on_taken` lets the client, of that `site`, send so many bytes more; `on_no_room` is told when others need the room."""
        super().__init__(site=site)
        self._budget = budget
        self._on_taken = on_taken
        self._on_no_room = on_no_room
        self.memory = body_memory(size_bytes)
        self._filled_bytes = 0
        self._room_bytes = 0
        self.owed_bytes = 0
        """The bytes that have come and for which the client's window is still shut."""

    @property
    def left_bytes(self) -> int:
        """Return how many bytes are still to come."""
        return len(self.memory) - self._filled_bytes

    @property
    def filled_bytes(self) -> int:
        """Return how many bytes have come."""
        return self._filled_bytes

    def begin(self) -> bool:
        """Begin to take room; False: there is none."""
        return self._budget.begin(self, 0)

    def put(self, data: memoryview) -> int:
        """Copy what has come, no more than is left, and return how many bytes that are; `settle` is due then."""
        begin = self._filled_bytes
        size_bytes = min(len(data), len(self.memory) - begin)
        end = begin + size_bytes
        self.memory[begin:end] = data if size_bytes == len(data) else data[:size_bytes]
        self._filled_bytes = end
        self.owed_bytes += size_bytes
        return size_bytes

    def arrived(self) -> bool:
        """Hold the room of the message, which is here whole; False: there is none."""
        return self._budget.arrived(self, len(self.memory))

    def drop(self) -> None:
        """Forget it."""
        self._budget.release(self)
        self.memory = memoryview(b"")

    @override
    def go_on(self) -> None:
        self.settle()

    @override
    def give_up(self) -> None:
        self._on_no_room()

    @override
    def moved_bytes(self) -> int:
        return self._filled_bytes

    def settle(self) -> None:
        """Take room for what is here and the next step, and let the client send as much as has room."""
        if self.is_waiting:
            return
        size_bytes = len(self.memory)
        while self._room_bytes < self._filled_bytes:
            more_bytes = self._budget.step_bytes(size_bytes, size_bytes - self._room_bytes)
            if not self._budget.grow(self, more_bytes):
                return
            self._room_bytes += more_bytes
        owed_bytes, self.owed_bytes = self.owed_bytes, 0
        if owed_bytes:
            self._on_taken(owed_bytes)


def no_room_in(budget: BodyBudget) -> Overloaded:
    """Return the error for a message that a budget has no room for."""
    return Overloaded(budget.words_of_no_room(), 1.0)
