"""A body on its way into the memory it stays in, and an answer on its way out, as far as a budget has room. IO: asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from mypy_extensions import mypyc_attr
from typing_extensions import override

from capamesh.protocol.memory import body_memory
from capamesh.router.http.body_budget import BodyBudget, Charge

if TYPE_CHECKING:
    from collections.abc import Callable


READ_BYTES: Final = 256 * 1024
"""The bytes of one read. The event loop reads up to 32 times before others have their turn, and the system goes on with a
read for as long as its client sends: 60 MiB in one read took 0.2 s of CPU time, on new memory (measured)."""
TURN_BYTES: Final = 2**20
"""The bytes of one body that are read before others have their turn: less than a huge page, so that one is touched at most.
A page that a virtual machine itself has to ask for first may take 50 ms (measured); 32 reads would touch five."""


@mypyc_attr(native_class=False)
class Receiver(Protocol):
    """The owner of a body that arrives."""

    __slots__ = ()

    def no_room(self) -> None:
        """Others need the room: end."""
        ...


class ArrivingBody(Charge):
    """A body that is read straight into its memory. The system gives the memory as it is written, the budget ahead of it."""

    __slots__ = (
        "_budget",
        "_receiver",
        "_room_bytes",
        "_transport",
        "_turn_bytes",
        "filled_bytes",
        "memory",
    )

    def __init__(
        self,
        budget: BodyBudget,
        receiver: Receiver,
        transport: asyncio.Transport,
        size_bytes: int,
        here: memoryview,
        site: str,
    ) -> None:
        """Take what is `here` already of a body of `size_bytes`, which a client of that `site` sends."""
        super().__init__(site=site)
        self._budget = budget
        self._receiver = receiver
        self._transport = transport
        self.memory = body_memory(size_bytes)
        self.filled_bytes = len(here)
        self._room_bytes = len(here)
        self._turn_bytes = 0
        """The bytes read since others had their turn."""
        self.memory[: len(here)] = here

    def begin(self) -> bool:
        """Take room for what is here; False: there is none."""
        if not self._budget.begin(self, self.filled_bytes):
            return False
        self._take_room()
        return True

    def buffer(self) -> memoryview:
        """Return where to read."""
        end = min(self._room_bytes, self.filled_bytes + READ_BYTES)
        return self.memory[self.filled_bytes : end]

    def took(self, size_bytes: int) -> bool:
        """Note how much was read; return whether it is all."""
        self.filled_bytes += size_bytes
        if self.filled_bytes == len(self.memory):
            return True
        if self.filled_bytes == self._room_bytes:
            self._take_room()
        self._turn_bytes += size_bytes
        if self._turn_bytes >= TURN_BYTES and not self._transport.is_closing():
            self._turn_bytes = 0
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)
        return False

    def arrived(self, held_bytes: int) -> bool:
        """Hold `held_bytes` for the body, which is here whole; False: there is no room."""
        return self._budget.arrived(self, held_bytes)

    def drop(self) -> None:
        """Forget it."""
        self._budget.release(self)
        self.memory = memoryview(b"")
        self._room_bytes = 0

    @override
    def go_on(self) -> None:
        self._take_room()
        self._read_on()

    @override
    def give_up(self) -> None:
        self._receiver.no_room()

    @override
    def moved_bytes(self) -> int:
        return self.filled_bytes

    def _read_on(self) -> None:
        if self._room_bytes > self.filled_bytes and not self._transport.is_closing():
            self._transport.resume_reading()

    def _take_room(self) -> None:
        size_bytes = len(self.memory)
        more = self._budget.step_bytes(size_bytes, size_bytes - self._room_bytes)
        if self._budget.grow(self, more):
            self._room_bytes += more
        elif not self._transport.is_closing():
            self._transport.pause_reading()


class UnreadAnswer(Charge):
    """The bytes of answers that a client has not read yet."""

    __slots__ = ("_end", "_transport", "size_at_first_bytes")

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        super().__init__(is_arriving=False)
        self._transport = transport
        self._end = end
        self.size_at_first_bytes = transport.get_write_buffer_size()

    @override
    def go_on(self) -> None:
        """Do nothing: an answer never waits for room."""

    @override
    def give_up(self) -> None:
        self._end()

    @override
    def moved_bytes(self) -> int:
        return self.size_at_first_bytes - self._transport.get_write_buffer_size()
