"""The connections of a synchronous client to its routers. IO: sockets through `http.client`.

A thread takes a connection from the pool for one request at a time, so threads never share one.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from typing import Any

from typing_extensions import override

from capamesh.client import asks
from capamesh.client.access import Access
from capamesh.client.address import RouterAddress
from capamesh.client.answers import Answer
from capamesh.client.arriving import ArrivingBody
from capamesh.client.asks import Ask
from capamesh.client.rest import SyncRest
from capamesh.client.timings import Timings
from capamesh.protocol.errors import LocalError
from capamesh.protocol.oip import HEADER_LENGTH_NAME

_HEADER_LENGTH = HEADER_LENGTH_NAME.lower()
_READ_BYTES = 256 * 1024
"""Read at a time, between looks at the clock (guess: what a socket's buffer holds)."""


class Connections:
    """The connections to all routers, of which those that are idle are kept; threads may share it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._idle: dict[RouterAddress, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def idle(self) -> int:
        """The number of connections that no request uses."""
        return sum(map(len, self._idle.values()))

    def close(self) -> None:
        """Close the idle connections; requests under way end by themselves. May be called again."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def exchange(self, router: RouterAddress, ask: Ask[Any], deadline_s: float) -> Answer:
        """Return a router's answer, whatever its status; raise what `asks` has for one that does not come."""
        with self._lock:
            if self._is_closed:
                raise LocalError("this client is closed; make another one")
            idle = self._idle.get(router)
            kept = idle.pop() if idle else None
        began_s = time.monotonic()
        try:
            if kept is not None:
                # a router may have dropped it while it was idle: once more, on a new one
                with contextlib.suppress(_NothingReadError):
                    return self._send(router, kept, ask, began_s, deadline_s)
            fresh = self._connect(router, ask, deadline_s)
            return self._send(router, fresh, ask, began_s, deadline_s)
        except TimeoutError as exc:
            raise asks.too_late(router.url, ask) from exc
        except _NothingReadError as exc:
            raise asks.cut_off(router.url, str(exc)) from exc
        except http.client.IncompleteRead as exc:
            raise asks.cut_off(router.url, "it was closed") from exc
        except http.client.HTTPException as exc:
            raise asks.not_http(router.url, repr(exc)) from exc
        except OSError as exc:
            raise asks.cut_off(router.url, exc.strerror or repr(exc)) from exc

    def _connect(
        self, address: RouterAddress, ask: Ask[Any], deadline_s: float
    ) -> http.client.HTTPConnection:
        left_s = _left_s(deadline_s)
        limit_s = min(asks.CONNECT_LIMIT_S, left_s)
        if address.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                address.host, address.port, timeout=limit_s, context=self._access.tls
            )
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=limit_s)
        connection.response_class = _Response
        try:
            connection.connect()
        except OSError as exc:
            connection.close()
            if isinstance(exc, TimeoutError):
                if limit_s == left_s:
                    raise asks.too_late(address.url, ask) from exc
                why = f"no connection within {limit_s:g} s"
            else:
                why = asks.why_not(exc)
            raise asks.unreachable(address.url, why) from exc
        return connection

    def _send(
        self,
        router: RouterAddress,
        connection: http.client.HTTPConnection,
        ask: Ask[Any],
        began_s: float,
        deadline_s: float,
    ) -> Answer:
        """Return the answer; the connection goes back to the pool, or is closed on any failure."""
        is_reusable = is_handed_on = False
        try:
            sock: socket.socket = connection.sock
            connected_s = time.monotonic()
            sock.settimeout(_left_s(deadline_s))
            own = {**ask.headers, "Content-Length": str(ask.size_bytes)}
            asked = self._access.with_own(own)
            # A router that refuses a body, or the client's certificate, may have said so before it closed.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                connection.request(ask.method, router.prefix + ask.path, ask.buffers, asked)
            sock.settimeout(_left_s(deadline_s))
            response = connection.getresponse()
            headed_s = time.monotonic()
            headers = {name.lower(): value for name, value in response.getheaders()}
            if ask.is_streamed and response.status == 200:
                timings = Timings(connected_s - began_s, headed_s - connected_s, 0.0)
                rest = _Rest(self, router, connection, response, ask, deadline_s)
                is_handed_on = True
                return Answer.of(response.status, memoryview(b""), headers.get, timings, rest)
            json_bytes = headers.get(_HEADER_LENGTH)
            body = ArrivingBody(response.length, json_bytes, ask.limits.max_message_bytes)
            _read(response, sock, deadline_s, body)
            timings = Timings(
                connected_s - began_s, headed_s - connected_s, time.monotonic() - headed_s
            )
            answer = Answer.of(response.status, body.view(), headers.get, timings)
            is_reusable = not response.will_close
        finally:
            if is_reusable:
                self.give_back(router, connection)
            elif not is_handed_on:
                connection.close()
        return answer

    def give_back(self, router: RouterAddress, connection: http.client.HTTPConnection) -> None:
        """Keep a connection that is free again."""
        with self._lock:
            if not self._is_closed:
                self._idle.setdefault(router, []).append(connection)
                return
        connection.close()


class _NothingReadError(Exception):
    """The connection ended before the first byte of an answer."""


class _Response(http.client.HTTPResponse):
    """An answer that tells a connection without any answer from one that breaks in the middle of it."""

    @override
    def begin(self) -> None:
        try:
            first = self.fp.peek(1)
        except TimeoutError:
            raise
        except OSError as exc:
            raise _NothingReadError(exc.strerror or repr(exc)) from exc
        if not first:
            raise _NothingReadError("it was closed")
        super().begin()


class _Rest(SyncRest):
    """The rest of one answer, and its connection, which is nobody else's until all is read."""

    def __init__(
        self,
        pool: Connections,
        router: RouterAddress,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        ask: Ask[Any],
        deadline_s: float,
    ) -> None:
        self._pool = pool
        self._router = router
        self._connection = connection
        self._response = response
        self._ask = ask
        self._deadline_s = deadline_s
        self._is_whole = self._is_closed = False

    @override
    def read(self) -> bytes:
        url = self._router.url
        try:
            left_s = _left_s(self._deadline_s)
            self._connection.sock.settimeout(min(left_s, asks.MOST_SILENCE_S))
            data = self._response.read1(_READ_BYTES)
        except TimeoutError as exc:
            if time.monotonic() < self._deadline_s:
                raise asks.silent(url, asks.MOST_SILENCE_S) from exc
            raise asks.too_late(url, self._ask) from exc
        except http.client.IncompleteRead as exc:
            raise asks.cut_off(url, "it was closed") from exc
        except http.client.HTTPException as exc:
            raise asks.not_http(url, repr(exc)) from exc
        except OSError as exc:
            raise asks.cut_off(url, exc.strerror or repr(exc)) from exc
        self._is_whole = not data
        return data

    @override
    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._response.close()
        if self._is_whole and not self._response.will_close:
            self._pool.give_back(self._router, self._connection)
        else:
            self._connection.close()


def _read(
    response: http.client.HTTPResponse, sock: socket.socket, deadline_s: float, body: ArrivingBody
) -> None:
    while not body.is_whole:
        sock.settimeout(_left_s(deadline_s))
        chunk = response.read1(_READ_BYTES)
        if not chunk:
            break
        body.add(chunk)
    if body.missing_bytes:
        raise http.client.IncompleteRead(b"", body.missing_bytes)
    response.close()  # before Python 3.12, `read1` leaves it open and the connection busy


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
