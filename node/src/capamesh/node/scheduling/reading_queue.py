"""The calls of a language model that wait to be made into tokens: which is next, and how many bytes may wait. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capamesh.node.generation.shares import TenantShares
from capamesh.protocol.errors import Overloaded

if TYPE_CHECKING:
    from capamesh.node.scheduling.pending_request import PendingRequest

MOST_BYTES: Final = 64 * 2**20
"""The most bytes of calls that are not read yet (guess: some hundred long chats)."""
MOST_CLIENT_BYTES: Final = 16 * 2**20
"""The most of these of one client (guess: a dozen of the longest calls)."""
OLDEST_OF: Final = 4
"""The number of calls taken of which one is its client's oldest, and the others the shortest (guess)."""
AGAIN_S: Final = 1.0


class Reading:
    """A call that is not read yet."""

    __slots__ = ("client", "order", "raw", "request")

    def __init__(self, request: PendingRequest, raw: bytes | memoryview, client: str) -> None:
        self.request = request
        self.raw = raw
        self.client = client
        """The one whose share it uses."""
        self.order = 0


class ReadingQueue:
    """Calls that wait: those of people before those of batches, of these the client's who had the fewest bytes read, of these the shortest."""

    def __init__(
        self, most_bytes: int = MOST_BYTES, most_client_bytes: int = MOST_CLIENT_BYTES
    ) -> None:
        self._most_bytes = most_bytes
        self._most_client_bytes = most_client_bytes
        self._shares = TenantShares()
        """The bytes that clients have had read."""
        self._waiting: list[Reading] = []
        self._held: dict[str, int] = {}
        """The bytes of calls that are not read yet, by client."""
        self._bytes = self._orders = self._taken = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, reading: Reading) -> None:
        """Let a call wait until it is taken; `ended` must follow. Raises `Overloaded`."""
        size, client = len(reading.raw), reading.client
        held = self._held.get(client, 0)
        for whose, has, most in (
            ("this client's calls", held, self._most_client_bytes),
            ("calls", self._bytes, self._most_bytes),
        ):
            if has + size > most:
                raise Overloaded(
                    f"{has} bytes of {whose} are not read yet, and {size} more are over the limit of {most}; ask again later",
                    AGAIN_S,
                )
        self._held[client] = held + size
        self._bytes += size
        self._shares.enter(client, 1)
        reading.order = self._orders
        self._orders += 1
        self._waiting.append(reading)

    def take(self) -> Reading | None:
        """Return the next call, which is read now; None: none waits."""
        if not self._waiting:
            return None
        first = min(self._waiting, key=self._turn)
        self._taken += 1
        if self._taken % OLDEST_OF == 0:
            first = next(
                each
                for each in self._waiting
                if each.client == first.client and each.request.is_bulk == first.request.is_bulk
            )
        self._waiting.remove(first)
        self._shares.charge(first.client, len(first.raw))
        return first

    def ended(self, reading: Reading) -> None:
        """Let go of a call that was read, or that nobody waits for."""
        if reading in self._waiting:
            self._waiting.remove(reading)
        size, client = len(reading.raw), reading.client
        self._bytes -= size
        self._held[client] -= size
        if not self._held[client]:
            del self._held[client]
        self._shares.leave(client)

    def _turn(self, reading: Reading) -> tuple[bool, float, int, int]:
        used = self._shares.used_s(reading.client)
        return reading.request.is_bulk, used, len(reading.raw), reading.order
