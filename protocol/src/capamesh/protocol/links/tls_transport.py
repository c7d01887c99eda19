"""The transport of a link: OpenSSL reads and writes the socket itself. IO: sockets, the event loop.

The TLS of event loops goes by buffers in memory: each byte sent is copied four times before the system has it, each one
received three times. Here OpenSSL has the socket: it takes a record of 16 KiB from a body where the body is, encrypts it in a
buffer that stays in the cache, and sends that; of what comes it decrypts each record straight into the body's memory.
For 600 KB that is 150 µs of CPU time to send instead of 340 (measured), and as much as before to receive.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, cast

from capamesh.protocol.links.outgoing import RECORD_BYTES, Buffer

TURN_BYTES: Final = 1024 * 1024
"""The bytes that are read before other sockets have their turn (guess: 0.5 ms)."""
DISCARD_BYTES: Final = 64 * 1024
"""The bytes of one read of what nobody wants any more (guess)."""


async def open_tls(
    connection: socket.socket,
    context: ssl.SSLContext,
    protocol: asyncio.BufferedProtocol,
    *,
    server_side: bool,
    patience_s: float,
    on_refused: Callable[[ssl.SSLError], None] | None = None,
    peername: object = None,
    linger_s: float | None = None,
) -> None:
    """Shake hands on a connected socket, which is taken over, and give `protocol` its transport.

    `on_refused` is told what this side had against the peer, while the socket is still open. `peername` and `linger_s` are
    those of `TlsTransport`. Raises `OSError`, also where the peer takes longer than `patience_s`.
    """
    loop = asyncio.get_running_loop()
    tls = context.wrap_socket(connection, server_side=server_side, do_handshake_on_connect=False)
    try:
        async with asyncio.timeout(patience_s):
            await _shake_hands(loop, tls)
        tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        TlsTransport(loop, tls, protocol, peername, linger_s)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        tls.close()
        raise
    except ssl.SSLError as error:
        if on_refused is not None:
            on_refused(error)
        tls.close()
        raise
    except BaseException:
        tls.close()
        raise


async def _shake_hands(loop: asyncio.AbstractEventLoop, tls: ssl.SSLSocket) -> None:
    descriptor = tls.fileno()
    while True:
        ready = loop.create_future()
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            loop.add_reader(descriptor, _settle, ready)
        except ssl.SSLWantWriteError:
            loop.add_writer(descriptor, _settle, ready)
        else:
            return
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)
            loop.remove_writer(descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class TlsTransport:
    """A socket on which hands were shaken, as the `asyncio.Transport` of a protocol that has buffers.

    What is written is kept by reference until it is sent. The protocol is paused while the socket takes nothing.
    """

    __slots__ = (
        "_descriptor",
        "_has_said_goodbye",
        "_is_closed",
        "_is_closing",
        "_is_full",
        "_is_over",
        "_is_peer_gone",
        "_is_read_blocked",
        "_is_reading_paused",
        "_is_watching_for_room",
        "_linger_s",
        "_loop",
        "_peername",
        "_piece",
        "_protocol",
        "_queue",
        "_tls",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tls: ssl.SSLSocket,
        protocol: asyncio.BufferedProtocol,
        peername: object = None,
        linger_s: float | None = None,
    ) -> None:
        """Tell `protocol` that the connection is made, and read from now on.

        `peername` is the peer's address, for who asks. A peer that does not hang up within `linger_s` seconds after `close`
        and the last byte is hung up on; None: it is waited for.
        """
        self._loop = loop
        self._tls = tls
        self._descriptor = tls.fileno()
        self._protocol = protocol
        self._queue: deque[Buffer] = deque()
        self._piece: memoryview = memoryview(b"")
        """The buffer of which a part is sent."""
        self._is_full = False
        """The socket takes nothing, and the protocol knows."""
        self._peername = peername
        self._linger_s = linger_s
        self._is_reading_paused = False
        self._is_read_blocked = False
        """OpenSSL has something to send before it can read on."""
        self._is_watching_for_room = False
        self._is_closed = False
        """Nobody on this side needs it any more."""
        self._is_closing = False
        """Nothing is read or written any more, but for what was written before."""
        self._has_said_goodbye = False
        self._is_peer_gone = False
        """The peer sends nothing any more; it may still read what is on its way."""
        self._is_over = False
        protocol.connection_made(cast("asyncio.Transport", self))
        if not (self._is_over or self._is_reading_paused):
            loop.add_reader(self._descriptor, self._on_readable)

    # asyncio.Transport

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return the `socket`, which knows the peer's certificate as well (`ssl_object`), the `sslcontext` or the `peername`."""
        if name in {"socket", "ssl_object"}:
            return self._tls
        if name == "sslcontext":
            return self._tls.context
        if name == "peername":
            return self._peername
        return default

    def get_write_buffer_size(self) -> int:
        """Return the bytes that were written and are not sent."""
        return len(self._piece) + sum(map(len, self._queue))

    def is_closing(self) -> bool:
        """Return whether nothing is read or written any more."""
        return self._is_closing

    def write(self, data: Buffer) -> None:
        """Send one buffer."""
        self.writelines((data,))

    def writelines(self, buffers: Sequence[Buffer]) -> None:
        """Send buffers of bytes, at once as far as the socket takes them."""
        if self._is_closing:
            return
        self._queue.extend(buffers)
        if not self._is_full:
            self._send()

    def can_write_eof(self) -> bool:
        """Return True: the peer can be told that nothing follows."""
        return True

    def write_eof(self) -> None:
        """Send what was written and say goodbye; what still comes is read and dropped until `close`."""
        if not self._is_closing:
            self.resume_reading()  # only who reads learns that the peer has hung up
            self._is_closing = True
            if not self._is_full:
                self._say_goodbye()

    def pause_reading(self) -> None:
        """Read no more until told; what OpenSSL has decrypted already stays there."""
        if not self._is_closing and not self._is_reading_paused:
            self._is_reading_paused = True
            self._loop.remove_reader(self._descriptor)

    def resume_reading(self) -> None:
        """Read again, in the loop's next turn what OpenSSL has: of that the system does not tell."""
        if self._is_reading_paused and not self._is_over:
            self._is_reading_paused = False
            self._loop.add_reader(self._descriptor, self._on_readable)
            self._loop.call_soon(self._on_resumed)

    def close(self) -> None:
        """Send what was written, say goodbye, and wait until the peer has hung up, no longer than it may linger."""
        if not self._is_closed:
            self._is_closed = True
            if self._has_said_goodbye:
                self._linger()
            else:
                self.write_eof()

    def abort(self) -> None:
        """Hang up."""
        self._lose(None)

    # reading

    def _on_resumed(self) -> None:
        if not (self._is_reading_paused or self._is_over):
            self._on_readable()

    def _on_readable(self) -> None:
        if self._is_closing:
            self._discard()
            return
        tls, protocol = self._tls, self._protocol
        left_bytes = TURN_BYTES
        while (left_bytes > 0 or tls.pending()) and not (
            self._is_closing or self._is_reading_paused
        ):
            memory = cast("memoryview", protocol.get_buffer(-1))
            size, filled = len(memory), 0
            is_more, is_end = True, False
            error: Exception | None = None
            try:
                while filled < size:
                    count = tls.recv_into(memory[filled:] if filled else memory, size - filled)
                    if not count:
                        is_end = True
                        break
                    filled += count
                    # Behind a short record there mostly is none: the loop says so at less cost than the system.
                    if count < RECORD_BYTES and not tls.pending():
                        is_more = False
                        break
            except ssl.SSLWantReadError:
                is_more = False
            except ssl.SSLWantWriteError:
                is_more = False
                self._is_read_blocked = True
                self._watch_for_room()
            except OSError as exc:
                is_end, error = True, exc
            if filled:
                try:
                    protocol.buffer_updated(filled)
                except Exception as exc:  # noqa: BLE001 - a defect of the protocol's
                    is_end, error = True, exc
                    self._loop.call_exception_handler(
                        {"message": "a protocol failed on what came", "exception": exc}
                    )
            if is_end:
                self._lose(error)
            if is_end or not is_more:
                return
            left_bytes -= filled

    def _discard(self) -> None:
        """Read what still comes after this side's goodbye: closing on it would destroy what the peer has yet to read."""
        try:
            if os.read(self._descriptor, DISCARD_BYTES):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._is_peer_gone = True
        self._loop.remove_reader(self._descriptor)
        if self._has_said_goodbye:
            self._lose(None)

    # writing

    def _send(self) -> None:
        queue, piece, send = self._queue, self._piece, self._tls.send
        try:
            while True:
                if len(piece) < RECORD_BYTES:
                    if queue:
                        piece = self._next(piece)
                    elif not piece:
                        break
                sent_bytes = send(piece)  # a record
                piece = piece[sent_bytes:]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._watch_for_room()
            self._piece = piece
            if not self._is_full:
                self._is_full = True
                self._protocol.pause_writing()
            return
        except OSError as error:
            self._lose(error)
            return
        self._piece = piece
        if self._is_closing:
            self._say_goodbye()

    def _next(self, piece: memoryview) -> memoryview:
        """Return the next buffer, with `piece` before it; what is short is copied together into one record."""
        queue = self._queue
        if not piece and (len(queue) == 1 or len(queue[0]) >= RECORD_BYTES):
            return memoryview(queue.popleft())
        parts: list[Buffer] = [piece]
        room = RECORD_BYTES - len(piece)
        while queue and room:
            first = memoryview(queue[0])
            if len(first) <= room:
                queue.popleft()
            else:
                queue[0] = first[room:]
                first = first[:room]
            parts.append(first)
            room -= len(first)
        return memoryview(b"".join(parts))

    def _watch_for_room(self) -> None:
        if not self._is_watching_for_room:
            self._is_watching_for_room = True
            self._loop.add_writer(self._descriptor, self._on_room)

    def _on_room(self) -> None:
        if self._is_read_blocked:
            self._is_read_blocked = False
            self._on_readable()
        if self._is_over:
            return
        self._send()
        if self._piece or self._queue or self._is_over:
            return
        if self._is_full:
            self._is_full = False
            self._protocol.resume_writing()
        if not (self._is_full or self._is_over or self._is_read_blocked):
            self._is_watching_for_room = False
            self._loop.remove_writer(self._descriptor)

    # the end

    def _say_goodbye(self) -> None:
        """Send TLS's goodbye and TCP's: the peer knows that nothing is missing."""
        if self._has_said_goodbye:
            return
        self._has_said_goodbye = True
        with suppress(OSError):  # what the peer sent before is not read any more, or it has no room
            self._tls.unwrap()
        try:
            self._tls.shutdown(socket.SHUT_WR)
        except OSError:
            self._is_peer_gone = True
        if self._is_peer_gone:
            self._lose(None)
        elif self._is_closed:
            self._linger()

    def _linger(self) -> None:
        if self._linger_s is not None:
            self._loop.call_later(self._linger_s, self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        """Forget the socket, and tell the protocol in the loop's next turn."""
        if self._is_over:
            return
        self._is_over = self._is_closing = True
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        self._queue.clear()
        self._piece = memoryview(b"")
        self._loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._tls.close()
