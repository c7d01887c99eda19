from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import Any

import pytest

from capamesh.client.stream_wire import StreamWire
from capamesh.client.sync_stream import SyncStream
from capamesh.protocol.errors import LinkLost

ALERT = ssl.SSLError(
    1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required"
)


class RefusedSocket:
    """A socket over TLS whose router has refused the client's certificate and closed, before anything was written."""

    def __init__(self, on_write: OSError) -> None:
        self._on_write = on_write

    def settimeout(self, seconds: float) -> None: ...

    def sendall(self, data: bytes) -> None:
        raise self._on_write

    def recv(self, most_bytes: int) -> bytes:
        raise ALERT


@pytest.mark.parametrize(
    "on_write",
    [
        ssl.SSLSyscallError(5, "[SYS] unknown error"),
        BrokenPipeError(32, "Broken pipe"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
    ids=repr,
)
def test_refused_certificate_is_told_though_writing_fails_first(on_write: OSError) -> None:
    plan: Any = SimpleNamespace(wait_s=1.0, path="/")
    access: Any = None
    stream = SyncStream(access, plan)
    stream._wire = StreamWire("https://router", 1024)
    stream._sock = RefusedSocket(on_write)  # type: ignore[assignment]
    stream.send(b"the beginning")
    with pytest.raises(LinkLost, match="give one that the router's authority has signed"):
        stream.until(lambda: False)
