"""Stands between a client and a server of TCP, and does what networks and dying servers do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PIECE = 16 * 1024


class FaultyProxy:
    """Passes connections on, as long as it is told to."""

    def __init__(self, port: int) -> None:
        """`port` is that of the server, on this machine."""
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.requests: list[bytes] = []
        """The first line and the headers of each request, as far as they came at once."""
        self.is_refusing = False
        """True: connections are closed at once, and those that are open."""
        self.is_silent = False
        """True: what the client sends is taken, and nothing is answered."""
        self.cut_after: int | None = None
        """The bytes of answers after which one connection is closed, once; None: none is."""
        self.answers: Callable[[bytes], bytes | None] = lambda _head: None
        """Returns an answer of the proxy's own to a request, or None to pass it on."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_all()

    def break_all(self) -> None:
        """Break all connections that are open, as a server that dies does."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.is_refusing:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._server_port))
            with self._lock:
                self._sockets += [client, server]
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._back, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(PIECE):
                if self.is_refusing:
                    break
                if b" HTTP/1.1\r\n" in data:
                    self.requests.append(data.partition(b"\r\n\r\n")[0])
                    own = self.answers(data)
                    if own is not None:
                        client.sendall(own)
                        continue
                if not self.is_silent:
                    server.sendall(data)
        self._end(client, server)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(PIECE):
                with self._lock:
                    left = self.cut_after
                    if left is not None:
                        self.cut_after = left - len(data) if left > len(data) else None
                if left is not None and left <= len(data):
                    client.sendall(data[:left])
                    break
                if not self.is_silent:
                    client.sendall(data)
        self._end(client, server)

    def _end(self, *ends: socket.socket) -> None:
        for each in ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def faulty_proxy(port: int) -> Iterator[FaultyProxy]:
    """Run a proxy before a server."""
    proxy = FaultyProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
