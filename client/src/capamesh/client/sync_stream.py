"""A stream of the synchronous client. IO: one socket, which no thread but the caller's reads.

It sends one thing, reads the answers that are due, and only then looks for the next thing to send.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from typing_extensions import override

from capamesh.client import asks
from capamesh.client.access import Access
from capamesh.client.address import RouterAddress
from capamesh.client.answers import Outputs
from capamesh.client.failover import Failover
from capamesh.client.retries import Retries
from capamesh.client.stream_course import (
    NOTHING,
    Await,
    Connect,
    Give,
    HangUp,
    Look,
    Pause,
    Send,
    course,
)
from capamesh.client.stream_wire import StreamWire
from capamesh.client.streams import StreamPlan
from capamesh.protocol.errors import CapameshError

T = TypeVar("T")

_READ_BYTES = 64 * 1024


class SyncStream:
    """The connection of one stream."""

    def __init__(self, access: Access, plan: StreamPlan[Any]) -> None:
        self._access = access
        self._plan = plan
        self._sock: socket.socket | None = None
        self._wire: StreamWire

    @override
    def __repr__(self) -> str:
        return f"SyncStream({self._plan.path!r})"

    def connect(self, router: RouterAddress, wire: StreamWire) -> None:
        """Connect to a router, whose bytes are `wire`'s from now on."""
        self._wire = wire
        self._sock = _connected(router, self._access)

    def send(self, data: bytes) -> None:
        """Send bytes that the wire has made."""
        try:
            sock = self._socket
            sock.settimeout(self._plan.wait_s)
            # A router that refuses the client's certificate may have said so before it closed: reading tells.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                sock.sendall(data)
        except TimeoutError as exc:
            raise self._plan.too_late(self._wire.url) from exc
        except OSError as exc:
            raise asks.cut_off(self._wire.url, exc.strerror or repr(exc)) from exc

    def until(self, is_there: Callable[[], bool]) -> None:
        """Read until `is_there` says so."""
        deadline_s = time.monotonic() + self._plan.wait_s
        while not is_there():
            self._receive(deadline_s)

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        sock, self._sock = self._sock, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.sendall(self._wire.close())
            sock.close()

    @property
    def _socket(self) -> socket.socket:
        assert self._sock is not None  # noqa: S101 - a course connects before all else
        return self._sock

    def _receive(self, deadline_s: float) -> None:
        wire, sock = self._wire, self._socket
        try:
            sock.settimeout(max(0.001, deadline_s - time.monotonic()))
            data = sock.recv(_READ_BYTES)
        except TimeoutError as exc:
            raise self._plan.too_late(wire.url) from exc
        except OSError as exc:
            raise asks.cut_off(wire.url, exc.strerror or repr(exc)) from exc
        wire.receive(data)
        to_send, wire.to_send = wire.to_send, b""
        if to_send:
            with contextlib.suppress(OSError):  # what is lost with it shows when it is read
                sock.sendall(to_send)


def _connected(router: RouterAddress, access: Access) -> socket.socket:
    try:
        sock = socket.create_connection((router.host, router.port), asks.CONNECT_LIMIT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if router.scheme == "https":
            return access.tls.wrap_socket(sock, server_hostname=router.host)
    except TimeoutError as exc:
        why = f"no connection within {asks.CONNECT_LIMIT_S:g} s"
        raise asks.unreachable(router.url, why) from exc
    except OSError as exc:
        raise asks.unreachable(router.url, asks.why_not(exc)) from exc
    return sock


def streamed(
    failover: Failover, retries: Retries, access: Access, plan: StreamPlan[T], items: Iterable[T]
) -> Iterator[Outputs]:
    """Yield what is answered to `items`, and look for the next only when all answers are read that are due."""
    steps = course(failover, retries, access, plan, time.monotonic)
    stream, left = SyncStream(access, plan), iter(items)
    try:
        step = next(steps, None)
        while step is not None:
            came: object = None
            try:
                match step:
                    case Give(outputs=outputs):
                        yield outputs
                    case Look():
                        came = next(left, NOTHING)
                    case Send(data=data):
                        stream.send(data)
                    case Await(is_there=is_there):
                        stream.until(is_there)
                    case Connect(router=router, wire=wire):
                        stream.connect(router, wire)
                    case Pause(seconds=seconds):
                        time.sleep(seconds)
                    case HangUp():
                        stream.hang_up()
            except CapameshError as error:
                step = steps.throw(error)
            else:
                step = steps.send(came)
    except StopIteration:
        pass
    finally:
        stream.hang_up()
