"""A stream of the synchronous client. IO: one socket, which no thread but the caller's reads.

It sends one thing, reads the answers that are due, and only then looks for the next thing to send.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import override

from capamesh.client import asks
from capamesh.client.access import Access
from capamesh.client.address import RouterAddress
from capamesh.client.answers import Answer, Outputs
from capamesh.client.failover import Failover, is_for_another, none_answered
from capamesh.client.stream_wire import DONE, StreamWire
from capamesh.client.streams import StreamPlan, host_of
from capamesh.protocol.errors import CapameshError

T = TypeVar("T")

_READ_BYTES = 64 * 1024


class SyncStream:
    """One open stream; `with` closes it."""

    def __init__(self, failover: Failover, access: Access, plan: StreamPlan[Any]) -> None:
        """Open it at the first router that takes it; raise what the last one said."""
        self._plan = plan
        self._sock: socket.socket
        self._wire: StreamWire
        errors: list[CapameshError] = []
        for router in failover.order(time.monotonic()):
            try:
                self._open(router, access)
            except CapameshError as error:
                errors.append(error)
                if not is_for_another(error, is_repeatable=True):
                    break
                failover.failed(router, time.monotonic())
            else:
                failover.answered(router)
                return
        raise none_answered(errors)

    @override
    def __repr__(self) -> str:
        return f"SyncStream({self._wire!r})"

    def __enter__(self) -> SyncStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(self._wire.close())
        self._sock.close()

    @property
    def wire(self) -> StreamWire:
        """The wire of the stream."""
        return self._wire

    def send(self, data: bytes) -> None:
        """Send bytes that the wire has made."""
        try:
            self._sock.settimeout(self._plan.wait_s)
            self._sock.sendall(data)
        except TimeoutError as exc:
            raise self._plan.too_late(self._wire.url) from exc
        except OSError as exc:
            raise asks.cut_off(self._wire.url, exc.strerror or repr(exc)) from exc

    def next(self) -> Answer | None:
        """Return the next answer; None: the router has closed behind the last."""
        wire = self._wire
        deadline_s = time.monotonic() + self._plan.wait_s
        while (answer := wire.next()) is None and wire.close_code is None:
            self._receive(deadline_s)
        return answer

    def _open(self, router: RouterAddress, access: Access) -> None:
        plan = self._plan
        self._wire = wire = StreamWire(router.url, plan.most_bytes)
        self._sock = _connected(router, access)
        try:
            headers = access.with_own(plan.headers)
            self.send(wire.opening(host_of(router), router.prefix + plan.path, plan.query, headers))
            deadline_s = time.monotonic() + plan.wait_s
            while not wire.is_open:
                self._receive(deadline_s)
        except BaseException:
            self._sock.close()
            raise

    def _receive(self, deadline_s: float) -> None:
        wire = self._wire
        try:
            self._sock.settimeout(max(0.001, deadline_s - time.monotonic()))
            data = self._sock.recv(_READ_BYTES)
        except TimeoutError as exc:
            raise self._plan.too_late(wire.url) from exc
        except OSError as exc:
            raise asks.cut_off(wire.url, exc.strerror or repr(exc)) from exc
        wire.receive(data)
        to_send, wire.to_send = wire.to_send, b""
        if to_send:
            with contextlib.suppress(OSError):  # what is lost with it shows when it is read
                self._sock.sendall(to_send)


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
    failover: Failover, access: Access, plan: StreamPlan[T], items: Iterable[T]
) -> Iterator[Outputs]:
    """Yield what is answered to `items`, and look for the next only when all answers are read that are due."""
    with SyncStream(failover, access, plan) as stream:
        url = stream.wire.url
        for item in items:
            for turn in plan.turns(stream.wire, item):
                stream.send(turn.data)
                for _ in range(turn.due):
                    answer = stream.next()
                    if answer is None:
                        raise stream.wire.closed(plan.answered)
                    outputs = plan.outputs(answer, turn.read, url)
                    if outputs is not None:
                        yield outputs
        stream.send(stream.wire.end())
        while (answer := stream.next()) is not None:
            outputs = plan.last(answer, url)
            if outputs is not None:
                yield outputs
        if stream.wire.close_code != DONE:
            raise stream.wire.closed(plan.answered)
