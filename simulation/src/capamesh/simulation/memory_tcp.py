# ruff: noqa: SLF001 - the two ends of a connection, and an end and its listener, are of one class
"""TCP between machines that exist in one event loop only: sockets as the kernel shows them, wires that can be slow or cut. Pure but for asyncio and the texts of errors.

A socket does what a non-blocking one of Linux does, as far as asyncio and its users see: bounded buffers, half-close, RST by
`SO_LINGER` and by data for a closed socket, refused connections. What is sent arrives at once where a wire has no delay.

Code runs on the machine on which it was started: `with machine.here():` starts it, and its tasks and callbacks inherit that. To all code
127.0.0.1 is its own machine.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import socket
import struct
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any, Final

from typing_extensions import override

LOOPBACK: Final = "127.0.0.1"
BUFFER_BYTES: Final = 256 * 1024
"""The bytes that the kernel holds at each end of a direction, unless a socket option says otherwise (Linux begins with about that)."""
FIRST_DESCRIPTOR: Final = 1_000_000
"""The first descriptor of a socket in memory; no process has so many of the kernel's."""
_FIRST_PORT: Final = 49152
_ANY: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - names that are compared
_SELF: Final = _ANY | {"localhost", "::1"}
_ESTABLISHED: Final = 1
_CLOSED: Final = 7
_CLOSE_WAIT: Final = 8
"""States of `TCP_INFO`."""
_PARTLY: Final = 0.25
"""The share of reads and writes that end early under a seed (guess)."""


class Machine:
    """A process that has an address to itself, until it is killed; the next process at the address is another machine."""

    def __init__(self, address: str) -> None:
        """Have code run at an address of IPv4 or IPv6 that no packet will ever be sent to."""
        self.address = address
        self.is_halted = False
        """True while its code does not run: it is frozen, or killed."""

    @override
    def __repr__(self) -> str:
        return f"Machine({self.address})"

    @contextmanager
    def here(self) -> Generator[None]:
        """Start on this machine what is started meanwhile."""
        token = MACHINE.set(self)
        try:
            yield
        finally:
            MACHINE.reset(token)


HERE: Final = Machine(LOOPBACK)
"""The machine of code that is started on no other."""
MACHINE: Final[ContextVar[Machine]] = ContextVar("machine", default=HERE)
"""The machine whose code runs."""


class MemoryNetwork:
    """The machines of one loop and the wires between them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random | None) -> None:
        """Begin whole and without delay; with `rng` some reads and writes take less than they could, as TCP's may."""
        self.loop = loop
        self.rng = rng
        self.delay_s: Callable[[str, str], float] = lambda _source, _target: 0.0
        """The seconds that a segment takes from one machine to another; a hook for faults."""
        self.awake: dict[int, MemorySocket] = {}
        """The sockets that may have become ready, by descriptor."""
        self.flying: dict[MemorySocket, None] = {}
        """The sockets that have sent what has not arrived."""
        self._cut: set[tuple[str, str]] = set()
        self._open: dict[int, MemorySocket] = {}
        self._listening: dict[tuple[str, int], MemorySocket] = {}
        self._descriptors = itertools.count(FIRST_DESCRIPTOR)
        self._ports = itertools.count(_FIRST_PORT)

    def socket(self, family: int = socket.AF_INET) -> MemorySocket:
        """Return a new socket of the machine whose code runs."""
        made = MemorySocket(self, next(self._descriptors), family, MACHINE.get())
        self._open[made.fileno()] = made
        return made

    def pair(self, other: Machine) -> tuple[MemorySocket, MemorySocket]:
        """Return the ends of a connection between the machine whose code runs and another."""
        ours = self.socket()
        with other.here():
            theirs = self.socket()
        ours.join(theirs)
        return ours, theirs

    def open_socket(self, descriptor: int) -> MemorySocket:
        """Return the open socket of a number."""
        return self._open[descriptor]

    def sockets(self, machine: Machine) -> list[MemorySocket]:
        """Return the open sockets of a machine."""
        return [each for each in self._open.values() if each.machine is machine]

    def wake(self, descriptor: int) -> None:
        """Look whether a socket is ready, at the next turn."""
        found = self._open.get(descriptor)
        if found is not None:
            self.awake[descriptor] = found

    def cut(self, source: str, target: str) -> None:
        """Let nothing that `source` sends arrive at `target`, until `heal`: then it arrives late."""
        self._cut.add((source, target))

    def heal(self, source: str, target: str) -> None:
        """Let what was held up arrive."""
        self._cut.discard((source, target))
        for each in list(self.flying):
            each.pump()

    def is_cut(self, source: str, target: str) -> bool:
        """Return whether nothing arrives."""
        return (source, target) in self._cut

    def reset(self, address: str, other: str) -> None:
        """Break the connections between two addresses; each end sees RST."""
        for each in list(self._open.values()):
            if each.peer is not None and (each.address, each.peer.address) == (address, other):
                each.peer.reset_arrived()
                each.reset_arrived()

    def listen(self, listener: MemorySocket) -> None:
        """Accept connections to where it is bound."""
        self._listening[listener.address, listener.port] = listener

    def bind(self, asked: MemorySocket, host: str, port: int) -> tuple[str, int]:
        """Return what a socket is bound to: an address of the network and the port, a free one for 0. Raises `OSError`."""
        address = asked.address if _is_self(host) else host
        if port and (address, port) in self._listening:
            raise _error(errno.EADDRINUSE)
        return address, port or self.free_port()

    def free_port(self) -> int:
        """Return a port that nothing has used."""
        return next(self._ports)

    def listener(self, address: str, host: str, port: int) -> MemorySocket | None:
        """Return what listens at an address that is dialled as `host`; None: connections are refused."""
        found = self._listening.get((address, port))
        if found is None or (found.host not in _ANY and found.host != host):
            return None
        return found

    def forget(self, closed: MemorySocket) -> None:
        """Let go of a closed socket."""
        self._open.pop(closed.fileno(), None)
        if self._listening.get((closed.address, closed.port)) is closed:
            del self._listening[closed.address, closed.port]
            for other in closed.sharers:
                self.listen(other)
                break


class MemorySocket(socket.socket):
    """One end of a connection, or what accepts them."""

    def __init__(  # pyright: ignore[reportMissingSuperCall] - no descriptor of the kernel's
        self, network: MemoryNetwork, descriptor: int, family: int, machine: Machine
    ) -> None:
        self.machine = machine
        self.address = machine.address
        """The address at which wires end."""
        self.host = machine.address
        """The name that those who use the socket call it by."""
        self.port = 0
        self.peer: MemorySocket | None = None
        self.receive_bytes = BUFFER_BYTES
        self.send_bytes = BUFFER_BYTES
        self._network = network
        self._descriptor = descriptor
        self._family = socket.AddressFamily(family)
        self._peer_address = ""
        self._peer_name: tuple[str, int] | None = None
        self._backlog: deque[MemorySocket] | None = None
        self.sharers: dict[MemorySocket, None] = {}
        """The sockets that accept from one backlog, each in its process; of those that listen."""
        self._is_connected = False
        self._is_shut = False
        self._is_gone = False
        self._is_reset = False
        self._has_ended = False
        self._lingers = True
        self._error = 0
        self._inbox: deque[bytes] = deque()
        self._unread = 0
        self._unacknowledged = 0
        self._flight: deque[tuple[float, Callable[..., None], tuple[Any, ...]]] = deque()
        self._due_s = 0.0
        self._arrival: asyncio.TimerHandle | None = None

    @override
    def __repr__(self) -> str:
        return f"MemorySocket({self.host}:{self.port} to {self._peer_name})"

    @property
    @override
    def family(self) -> socket.AddressFamily:
        return self._family

    @property
    @override
    def type(self) -> socket.SocketKind:
        return socket.SOCK_STREAM

    @property
    @override
    def proto(self) -> int:
        return socket.IPPROTO_TCP

    @property
    @override
    def timeout(self) -> float:
        return 0.0

    @override
    def gettimeout(self) -> float:
        return 0.0

    @override
    def setblocking(self, flag: bool, /) -> None:
        """Do nothing: a socket in memory never blocks."""

    @override
    def fileno(self) -> int:
        return self._descriptor

    @override
    def getsockname(self) -> tuple[Any, ...]:
        return self._name(self.host, self.port)

    @override
    def getpeername(self) -> tuple[Any, ...]:
        if self._peer_name is None:
            raise _error(errno.ENOTCONN)
        return self._name(*self._peer_name)

    def _name(self, host: str, port: int) -> tuple[Any, ...]:
        return (host, port, 0, 0) if self._family == socket.AF_INET6 else (host, port)

    @override
    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - one of its forms
        if level != socket.SOL_SOCKET:
            return
        if optname == socket.SO_LINGER:
            is_on, seconds = struct.unpack("ii", value)
            self._lingers = not is_on or seconds > 0
        elif optname == socket.SO_RCVBUF:
            self.receive_bytes = value
        elif optname == socket.SO_SNDBUF:
            self.send_bytes = value

    @override
    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> Any:
        if level == socket.SOL_SOCKET and optname == socket.SO_ERROR:
            error, self._error = self._error, 0
            return error
        if level == socket.IPPROTO_TCP and optname == socket.TCP_INFO:
            return bytes([self._state]).ljust(buflen, b"\0")
        sizes = {socket.SO_RCVBUF: self.receive_bytes, socket.SO_SNDBUF: self.send_bytes}
        value = sizes.get(optname, 0) if level == socket.SOL_SOCKET else 0
        return value.to_bytes(buflen, "little") if buflen else value

    @property
    def _state(self) -> int:
        if self._is_gone or self._is_reset or not self._is_connected:
            return _CLOSED
        return _CLOSE_WAIT if self._has_ended else _ESTABLISHED

    # What the machine's code asks for.

    @override
    def bind(self, address: Any, /) -> None:
        self.address, self.port = self._network.bind(self, address[0], address[1])
        self.host = address[0]

    @override
    def listen(self, backlog: int = 0, /) -> None:
        if self._backlog is None:
            self._backlog = deque()
            self.sharers[self] = None
            self._network.listen(self)

    def join(self, other: MemorySocket) -> None:
        """Be connected with another socket."""
        for one, two in ((self, other), (other, self)):
            one.peer, one._is_connected = two, True
            one._peer_address, one._peer_name = two.address, (two.host, two.port)

    def shared(self) -> MemorySocket:
        """Return the same listening socket as a process has it that inherits it."""
        made = self._network.socket(self._family)
        made.address, made.host, made.port = self.address, self.host, self.port
        made._backlog, made.sharers = self._backlog, self.sharers
        made.sharers[made] = None
        return made

    @override
    def accept(self) -> tuple[socket.socket, Any]:
        if not self._backlog:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        accepted = self._backlog.popleft()
        accepted.machine = self.machine
        return accepted, accepted.getpeername()

    @override
    def connect(self, address: Any, /) -> None:
        host, port = address[0], address[1]
        if not self.port:
            self.host = host if _is_self(host) and host not in _ANY else self.address
            self.port = self._network.free_port()
        self._peer_name = (host, port)
        other = self.peer = self._network.socket(self._family)
        other.address = self._peer_address = self.address if _is_self(host) else host
        other._peer_address = self.address
        other.host, other.port = host, port
        other.peer, other._peer_name = self, (self.host, self.port)
        self._send(other._connection_arrived)
        raise BlockingIOError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))

    @override
    def send(self, data: Any, flags: int = 0, /) -> int:
        self._raise_error()
        peer = self.peer
        if self._is_shut or self._is_reset or self._is_gone:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if peer is None or not self._is_connected:
            raise _error(errno.ENOTCONN)
        view = memoryview(data).cast("B")
        count = self._some(min(len(view), self._room(peer)))
        if not count and len(view):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self._unacknowledged += count
        self._send(peer.data_arrived, bytes(view[:count]))
        return count

    @override
    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if not self._inbox:
            self._raise_error()
            if self._has_ended or self._is_reset:
                return b""
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        taken = bytearray()
        wanted = self._some(min(bufsize, self._unread))
        while len(taken) < wanted:
            piece = self._inbox.popleft()
            rest = wanted - len(taken)
            taken += piece[:rest]
            if len(piece) > rest:
                self._inbox.appendleft(piece[rest:])
        self._unread -= len(taken)
        if self.peer is not None:
            self.peer._unacknowledged -= len(taken)
            self.peer._wake()
        return bytes(taken)

    @override
    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        view = memoryview(buffer).cast("B")
        data = self.recv(nbytes or len(view))
        view[: len(data)] = data
        return len(data)

    @override
    def shutdown(self, how: int, /) -> None:
        if not self._is_connected or self._is_reset:
            raise _error(errno.ENOTCONN)
        if how != socket.SHUT_RD:
            self._end()

    @override
    def close(self) -> None:
        if self._is_gone:
            return
        self._is_gone = True
        self.sharers.pop(self, None)
        self._network.forget(self)
        for waiting in (not self.sharers and self._backlog) or ():
            waiting.abort()
        if not self._is_reset and self.peer is not None:
            if self._inbox or not self._lingers:
                self.abort()
            elif self._is_connected:
                self._end()

    @override
    def detach(self) -> int:
        raise NotImplementedError("a socket in memory is not the kernel's")

    def abort(self) -> None:
        """Send RST; what has not arrived is gone."""
        self._is_gone = self._is_reset = True
        self._network.forget(self)
        self._drop()
        if self.peer is not None:
            self._send(self.peer.reset_arrived)

    def vanish(self, *, is_silent: bool) -> None:
        """End as a killed process's socket does, or as one of a machine without power."""
        if is_silent:
            self._is_gone = self._is_reset = True
            self._network.forget(self)
            self._drop()
        else:
            self._lingers = False
            self.close()

    # What the selector sees.

    @property
    def is_readable(self) -> bool:
        """Return whether a read, or an accept, would not block."""
        return bool(
            self._backlog or self._inbox or self._has_ended or self._is_reset or self._error
        )

    @property
    def is_writable(self) -> bool:
        """Return whether a write would not block, or a connect has ended."""
        if self._is_reset or self._error:
            return True
        return self._is_connected and self.peer is not None and self._room(self.peer) > 0

    # What arrives.

    def _connection_arrived(self) -> None:
        listener = self._network.listener(self.address, self.host, self.port)
        client = self.peer
        if client is None or client._is_gone or listener is None or listener._backlog is None:
            self.abort()
        else:
            self.machine = listener.machine
            self.receive_bytes, self.send_bytes = listener.receive_bytes, listener.send_bytes
            self._is_connected = True
            listener._backlog.append(self)
            for each in listener.sharers:
                each._wake()
            self._send(client._accepted)

    def _accepted(self) -> None:
        self._is_connected = True
        self._wake()
        if self._is_gone and self.peer is not None:
            self._send(self.peer.reset_arrived)

    def data_arrived(self, data: bytes) -> None:
        """Hold it until it is read; a closed socket answers with RST."""
        if self._is_gone:
            if self.peer is not None and not self.peer._is_gone:
                self._send(self.peer.reset_arrived)
            return
        self._inbox.append(data)
        self._unread += len(data)
        self._wake()

    def _end_arrived(self) -> None:
        self._has_ended = True
        self._wake()

    def reset_arrived(self) -> None:
        """End, at once; what has come can still be read."""
        if self._is_reset:
            return
        if not self._is_connected:
            self._error = errno.ECONNREFUSED
        else:
            self._error = errno.EPIPE if self._has_ended else errno.ECONNRESET
        self._is_reset = True
        self._drop()
        self._wake()

    def pump(self) -> None:
        """Let arrive what is due."""
        network = self._network
        self._arrival = None
        while self._flight:
            if network.is_cut(self.address, self._peer_address):
                return
            due_s, arrive, values = self._flight[0]
            if due_s > network.loop.time():
                self._arrival = network.loop.call_at(due_s, self.pump, context=Context())
                return
            self._flight.popleft()
            arrive(*values)
        network.flying.pop(self, None)

    def _send(self, arrive: Callable[..., None], *values: object) -> None:
        network, target = self._network, self._peer_address
        now_s = network.loop.time()
        self._due_s = max(self._due_s, now_s + network.delay_s(self.address, target))
        if not self._flight and self._due_s <= now_s and not network.is_cut(self.address, target):
            arrive(*values)
            return
        self._flight.append((self._due_s, arrive, values))
        network.flying[self] = None
        if self._arrival is None:
            self.pump()

    def _end(self) -> None:
        if not self._is_shut and self.peer is not None:
            self._is_shut = True
            self._send(self.peer._end_arrived)

    def _drop(self) -> None:
        self._flight.clear()
        self._network.flying.pop(self, None)
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _room(self, peer: MemorySocket) -> int:
        return max(0, self.send_bytes + peer.receive_bytes - self._unacknowledged)

    def _some(self, most: int) -> int:
        rng = self._network.rng
        if rng is not None and most > 1 and rng.random() < _PARTLY:
            return rng.randint(1, most)
        return most

    def _wake(self) -> None:
        self._network.awake[self._descriptor] = self

    def _raise_error(self) -> None:
        error, self._error = self._error, 0
        if error:
            raise _error(error)


def _is_self(host: str) -> bool:
    return host in _SELF or host.startswith("127.")


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
