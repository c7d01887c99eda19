"""The events that a link's core tells its owner. Pure values."""

from __future__ import annotations

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.values import Value


class HelloReceived(Value):
    """The peer introduced itself; its membership is not checked yet."""

    __slots__ = ("hello",)

    def __init__(self, hello: Hello) -> None:
        self.hello = hello


class RequestReceived(Value):
    """A whole request is here. Answer with `respond` or `fail` on the same stream."""

    __slots__ = ("body", "meta", "stream")

    def __init__(self, stream: int, meta: bytes, body: memoryview) -> None:
        self.stream = stream
        self.meta = meta
        self.body = body


class ResponseReceived(Value):
    """A whole response is here, or one part of it."""

    __slots__ = ("body", "is_final", "meta", "stream")

    def __init__(self, stream: int, meta: bytes, body: memoryview, is_final: bool) -> None:
        self.stream = stream
        self.meta = meta
        self.body = body
        self.is_final = is_final
        """True if nothing follows; until then it is a part, which is held until it is released."""


class PartsReleased(Value):
    """The peer has passed on parts of this side's answer, of which it had as many as it takes: it takes the next one."""

    __slots__ = ("stream",)

    def __init__(self, stream: int) -> None:
        self.stream = stream


class ErrorReceived(Value):
    """The peer answered a request with an error, or this side gave the stream up."""

    __slots__ = ("error", "stream")

    def __init__(self, stream: int, error: CapameshError) -> None:
        self.stream = stream
        self.error = error


class RequestCancelled(Value):
    """The peer no longer wants the answer to a request that was delivered."""

    __slots__ = ("stream",)

    def __init__(self, stream: int) -> None:
        self.stream = stream


class ProbeReceived(Value):
    """The peer asks for this side's load. Answer with `send_load`."""

    __slots__ = ("meta", "stream")

    def __init__(self, stream: int, meta: bytes) -> None:
        self.stream = stream
        self.meta = meta


class LoadReceived(Value):
    """The answer to a probe."""

    __slots__ = ("meta", "stream")

    def __init__(self, stream: int, meta: bytes) -> None:
        self.stream = stream
        self.meta = meta


class GoawayReceived(Value):
    """The peer takes no new requests; those under way will be finished."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class PongReceived(Value):
    """The answer to a ping."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


Event = (
    HelloReceived
    | RequestReceived
    | ResponseReceived
    | PartsReleased
    | ErrorReceived
    | RequestCancelled
    | ProbeReceived
    | LoadReceived
    | GoawayReceived
    | PongReceived
)


class Answer(Value):
    """A response as it came: metadata and body."""

    __slots__ = ("body", "meta")

    def __init__(self, meta: bytes, body: memoryview) -> None:
        self.meta = meta
        self.body = body
