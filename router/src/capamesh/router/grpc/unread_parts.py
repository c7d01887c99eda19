"""The parts of one call's answers that were sent, until the client's window has taken them. Does no IO."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from typing_extensions import override

if TYPE_CHECKING:
    from capamesh.router.grpc.call_host import CallHost
    from capamesh.router.requests.call import Part

AHEAD_BYTES: Final = 64 * 1024
"""The bytes of one answer that may wait for the client's window; while more do, none of its parts is released (guess: a window of parts)."""


class UnreadParts:
    """The parts of one call."""

    __slots__ = ("_host", "_parts", "_stream")

    def __init__(self, host: CallHost, stream: int) -> None:
        self._host = host
        self._stream = stream
        self._parts: deque[Part] = deque()

    @override
    def __repr__(self) -> str:
        return f"UnreadParts({len(self._parts)})"

    def sent(self, part: Part) -> None:
        """Take a part that was just sent."""
        self._parts.append(part)
        self.look()

    def look(self) -> None:
        """Release all, for which their node sends more, if the client has taken them or nearly so; else wait."""
        host = self._host
        if host.is_clogged or host.session.unsent_of(self._stream) > AHEAD_BYTES:
            host.await_room(self.look)
            return
        while self._parts:
            self._parts.popleft().release()

    def clear(self) -> None:
        """Forget all: their answer has ended."""
        self._parts.clear()
