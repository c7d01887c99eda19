"""What is written to a client's socket without waiting, and when it has to wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import HttpVersion10, HttpVersion11

from capamesh.router.http.event_stream import DirectWriter


class Socket:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_over = False

    def is_closing(self) -> bool:
        return self.is_over

    def write(self, data: bytes) -> None:
        self.written += data


def writer_of(protocol: Any, version: Any = HttpVersion11) -> DirectWriter:
    request: Any = SimpleNamespace(protocol=protocol, version=version)
    return DirectWriter(request)


@pytest.mark.parametrize(
    ("version", "written"),
    [(HttpVersion11, b"b\r\ndata: {}\n\n.\r\n1\r\nx\r\n"), (HttpVersion10, b"data: {}\n\n.x")],
)
def test_client_that_reads_gets_it_at_once(version: Any, written: bytes) -> None:
    socket = Socket()
    writer = writer_of(SimpleNamespace(transport=socket, writing_paused=False), version)
    assert writer.write(b"data: {}\n\n.")
    assert writer.write(b"x")
    assert socket.written == written


def test_client_that_does_not_read_or_has_left_gets_nothing() -> None:
    socket = Socket()
    protocol = SimpleNamespace(transport=socket, writing_paused=True)
    writer = writer_of(protocol)
    assert not writer.write(b"a")
    protocol.writing_paused = False
    socket.is_over = True
    assert not writer.write(b"a")
    protocol.transport = None
    assert not writer.write(b"a")
    assert socket.written == b""
