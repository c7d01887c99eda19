"""One stream over WebSocket as bytes to send and bytes that came: what both clients have in common. Pure.

wsproto reads and writes the frames; it is read in when a stream is opened.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import urlencode

from typing_extensions import override
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from capamesh.client import asks
from capamesh.client.answers import Answer, failure_of
from capamesh.protocol.errors import CapameshError, ProtocolViolation, TooLarge
from capamesh.protocol.oip import HEADER_LENGTH_NAME

DONE: Final = 1000
"""The code with which a router closes behind the last answer."""
LENGTH_BYTES: Final = 4
MOST_WAITING: Final = 2
"""Times the largest answer that may wait to be read: a router that sends more was not asked for it."""
_END: Final = '{"end": true}'
_ERROR_STATUS: Final = 500
"""Any that is no success: the code says which error it is."""
_UPGRADE_ONLY: Final = frozenset({"content-type", "content-length", HEADER_LENGTH_NAME.lower()})


class StreamWire:
    """The wire of one stream."""

    def __init__(self, url: str, most_bytes: int) -> None:
        """Read messages of at most `most_bytes` from the router at `url`."""
        self.url = url
        self._most_bytes = most_bytes
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._refusal: tuple[int, dict[str, str]] | None = None
        self._messages: deque[tuple[bool, bytearray]] = deque()
        self._waiting_bytes = 0
        self.is_open = False
        """True once the router has taken the stream."""
        self.close_code: int | None = None
        """The code with which the router has closed; None: it has not."""
        self._close_reason = ""
        self.to_send = b""
        """The bytes that are to be sent, beside what methods return: answers to pings, and to a close."""

    @override
    def __repr__(self) -> str:
        return f"StreamWire({self.url!r}, {len(self._messages)} messages)"

    @property
    def has_news(self) -> bool:
        """Return whether `next` has an answer, or none comes any more."""
        return bool(self._messages) or self.close_code is not None

    def opening(
        self, host: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> bytes:
        """Return the request for a stream at `path`."""
        target = f"{path}?{urlencode(query)}" if query else path
        kept = {name: text for name, text in headers.items() if name.lower() not in _UPGRADE_ONLY}
        extra = [(name.encode(), text.encode()) for name, text in kept.items()]
        return self._connection.send(Request(host, target, extra_headers=extra))

    def request(self, buffers: Sequence[bytes | memoryview], headers: Mapping[str, str]) -> bytes:
        """Return the message of an inference request, whose headers say where its JSON ends."""
        body = b"".join(buffers)
        json_bytes = headers.get(HEADER_LENGTH_NAME)
        if json_bytes is None:
            return self._connection.send(TextMessage(body.decode("utf-8")))
        length = int(json_bytes).to_bytes(LENGTH_BYTES, "little")
        return self._connection.send(BytesMessage(length + body))

    def samples(self, data: bytes | memoryview) -> bytes:
        """Return the message of some samples."""
        return self._connection.send(BytesMessage(bytes(data)))

    def end(self) -> bytes:
        """Return the message that says that nothing follows."""
        return self._connection.send(TextMessage(_END))

    def close(self) -> bytes:
        """Return the bytes by which the client leaves; empty: it has."""
        if not self.is_open or self.close_code is not None:
            return b""
        return self._connection.send(CloseConnection(DONE))

    def receive(self, data: bytes) -> None:
        """Take bytes of the router; none: its connection has ended.

        Raises:
            CapameshError: it has refused the stream.
            ProtocolViolation: what came is no WebSocket, or more than was asked.
            LinkLost: its connection has ended, and it did not say that all is answered.
            TooLarge: a message is over the limit.
        """
        if not data:
            if self._refusal is not None:
                self._refused()
            raise asks.cut_off(self.url, "the stream was not closed before")
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                self._take(event)
        except ProtocolError as exc:
            raise asks.not_http(self.url, str(exc)) from exc

    def next(self) -> Answer | None:
        """Return the next answer that is here, an error's with a status other than 200; None: there is none."""
        if not self._messages:
            return None
        is_text, message = self._messages.popleft()
        self._waiting_bytes -= len(message)
        if not is_text:
            json_bytes = int.from_bytes(message[:LENGTH_BYTES], "little")
            tensors = memoryview(message)[LENGTH_BYTES:]
            return Answer(200, tensors, header_length=str(json_bytes))
        said = _told(message)
        if said is None:
            return Answer(200, memoryview(message))
        retry_after = said.get("retry_after_s")
        code = said.get("code")
        return Answer(
            _ERROR_STATUS,
            memoryview(message),
            error_code=code if isinstance(code, str) else None,
            retry_after=None if retry_after is None else str(retry_after),
        )

    def closed(self, answered: int) -> CapameshError:
        """Return the error for a stream that the router has closed, and that was to go on."""
        return asks.cut_off(
            self.url,
            f"the router closed the stream behind {answered} answers, with {self.close_code}"
            f"{f': {self._close_reason}' if self._close_reason else ''}",
        )

    def _take(self, event: Event) -> None:
        match event:
            case AcceptConnection():
                self.is_open = True
            case RejectConnection():
                headers = {
                    name.decode().lower(): text.decode("latin-1") for name, text in event.headers
                }
                self._refusal = event.status_code, headers
            case RejectData():
                self._part(event.data)
                if event.body_finished:
                    self._refused()
            case TextMessage() | BytesMessage():
                self._take_message(event)
            case Ping():
                self.to_send += self._connection.send(event.response())
            case CloseConnection():
                if self.close_code is None and self._connection.state.name == "REMOTE_CLOSING":
                    self.to_send += self._connection.send(event.response())
                self.close_code, self._close_reason = int(event.code), event.reason or ""
            case _:
                pass

    def _take_message(self, event: Message[Any]) -> None:
        is_text = isinstance(event, TextMessage)
        self._part(event.data.encode("utf-8") if is_text else bytes(event.data))
        if event.message_finished:
            self._messages.append((is_text, bytearray().join(self._parts)))
            self._waiting_bytes += self._parts_bytes
            self._parts.clear()
            self._parts_bytes = 0
            if self._waiting_bytes > MOST_WAITING * self._most_bytes:
                raise ProtocolViolation(f"{self.url} answers more than was asked")

    def _part(self, data: bytes) -> None:
        self._parts.append(data)
        self._parts_bytes += len(data)
        if self._parts_bytes > self._most_bytes:
            raise TooLarge(f"the answer is over the limit of {self._most_bytes} bytes")

    def _refused(self) -> None:
        """Raise the error that the router has answered in place of a stream."""
        status, headers = self._refusal or (0, {})
        if status == 200:
            raise ProtocolViolation(f"{self.url} knows no streams: it answered as to any request")
        raise failure_of(
            Answer.of(status, memoryview(b"".join(self._parts)), _reader(headers)), self.url
        )


def _reader(headers: Mapping[str, str]) -> Callable[[str], str | None]:
    return lambda name: headers.get(name.lower())


def _told(message: bytes | bytearray) -> dict[str, Any] | None:
    """Return what a text tells of an error; None: it is an answer."""
    if b'"error"' not in message:
        return None
    try:
        said = cast(object, json.loads(message))
    except ValueError:
        return None  # whoever reads the answer says so
    return cast("dict[str, Any]", said) if isinstance(said, dict) and "error" in said else None
