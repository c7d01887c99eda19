"""The events that a link's core tells its owner. Pure values; named tuples, because one is made for every message."""

from __future__ import annotations

from typing import NamedTuple

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.hello import Hello


class HelloReceived(NamedTuple):
    """The peer introduced itself; its membership is not checked yet."""

    hello: Hello


class RequestReceived(NamedTuple):
    """A whole request is here. Answer with `respond` or `fail` on the same stream."""

    stream: int
    meta: bytes
    body: memoryview


class ResponseReceived(NamedTuple):
    """A whole response is here, or one part of it."""

    stream: int
    meta: bytes
    body: memoryview
    is_final: bool
    """True if nothing follows; until then it is a part, which is held until it is released."""


class ErrorReceived(NamedTuple):
    """The peer answered a request with an error, or this side gave the stream up."""

    stream: int
    error: CapameshError


class RequestCancelled(NamedTuple):
    """The peer no longer wants the answer to a request that was delivered."""

    stream: int


class ProbeReceived(NamedTuple):
    """The peer asks for this side's load. Answer with `send_load`."""

    stream: int
    meta: bytes


class LoadReceived(NamedTuple):
    """The answer to a probe."""

    stream: int
    meta: bytes


class GoawayReceived(NamedTuple):
    """The peer takes no new requests; those under way will be finished."""

    reason: str


class PongReceived(NamedTuple):
    """The answer to a ping."""

    value: int


Event = (
    HelloReceived
    | RequestReceived
    | ResponseReceived
    | ErrorReceived
    | RequestCancelled
    | ProbeReceived
    | LoadReceived
    | GoawayReceived
    | PongReceived
)
