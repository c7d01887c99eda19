"""Whether a client that ended its half of a connection is still there. IO: asks the kernel.

Who closes a connection and who only ends its half send the same. What is sent back to the first is refused by its
kernel, and then ours knows the connection as closed; the second reads it, as any client must: an interim answer.
"""

from __future__ import annotations

import socket
from typing import Final, Protocol

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""RFC 9110, 15.2: a client must be able to parse interim answers that it did not ask for."""
_CLOSED: Final = 7
"""TCP_CLOSE of the kernel's states, `tcp_states.h`."""
_OPTION: Final[int | None] = getattr(socket, "TCP_INFO", None)


class _Socket(Protocol):
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def has_left(sock: _Socket | None) -> bool:
    """Return whether its kernel has refused what was sent; where that cannot be told: True, as most clients have."""
    if _OPTION is None or sock is None:
        return True
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _OPTION, 1)
    except OSError:
        return True
    return len(info) == 0 or info[0] == _CLOSED
