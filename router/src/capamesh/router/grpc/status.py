"""Errors as gRPC: the one place where they become its statuses; their texts are those of HTTP. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import (
    AdvertRejected,
    Cancelled,
    CapameshError,
    ClientError,
    DeadlineExceeded,
    Draining,
    Forbidden,
    InvalidRequest,
    KeysUnavailable,
    KeyUsed,
    LinkLost,
    ModelNotFound,
    ModelUnavailable,
    NoEndpoint,
    NotMember,
    Overloaded,
    SequenceLost,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unsupported,
)
from capamesh.router.http.errors import retry_after_s

if TYPE_CHECKING:
    from capamesh.router.grpc.http2 import Headers


class Status(IntEnum):
    """The statuses of gRPC that are given here."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


_OF_ERRORS: Final[dict[type[CapameshError], Status]] = {
    InvalidRequest: Status.INVALID_ARGUMENT,
    ClientError: Status.INVALID_ARGUMENT,
    AdvertRejected: Status.INVALID_ARGUMENT,
    Unauthenticated: Status.UNAUTHENTICATED,
    Forbidden: Status.PERMISSION_DENIED,
    KeysUnavailable: Status.UNAVAILABLE,
    NotMember: Status.PERMISSION_DENIED,
    ModelNotFound: Status.NOT_FOUND,
    Unsupported: Status.UNIMPLEMENTED,
    KeyUsed: Status.ALREADY_EXISTS,
    SequenceLost: Status.ABORTED,  # "retry at a higher level": the sequence has to begin anew
    TooLarge: Status.RESOURCE_EXHAUSTED,
    TooManyRequests: Status.RESOURCE_EXHAUSTED,
    Cancelled: Status.CANCELLED,
    LinkLost: Status.UNAVAILABLE,
    Draining: Status.UNAVAILABLE,
    ModelUnavailable: Status.UNAVAILABLE,
    NoEndpoint: Status.UNAVAILABLE,
    Overloaded: Status.UNAVAILABLE,
    DeadlineExceeded: Status.DEADLINE_EXCEEDED,
}
MAX_TEXT_CHARS: Final = 2000
"""The most of an error's text that is sent: written with percent signs it fits the 8 KiB of headers that clients read."""
OK_TRAILERS: Final[Headers] = ((b"grpc-status", b"0"),)
ANSWER_HEAD: Final[Headers] = ((b":status", b"200"), (b"content-type", b"application/grpc"))


def status_of(error: CapameshError) -> Status:
    """Return the gRPC status of an error: that of its nearest class, else INTERNAL."""
    for kind in type(error).__mro__:
        if kind in _OF_ERRORS:
            return _OF_ERRORS[kind]
    return Status.INTERNAL


def error_trailers(error: CapameshError) -> Headers:
    """Return the trailers that tell of an error: its status, its text, its code, and when to come again."""
    trailers = status_trailers(status_of(error), error.message)
    trailers.append((b"x-capamesh-error", error.code.encode()))
    retry_s = retry_after_s(error)
    if retry_s is not None:
        trailers.append((b"grpc-retry-pushback-ms", str(retry_s * 1000).encode()))
    return trailers


def status_trailers(status: Status, text: str) -> list[tuple[bytes, bytes]]:
    """Return the trailers with a status and a text."""
    return [
        (b"grpc-status", str(int(status)).encode()),
        (b"grpc-message", percent_encoded(text)),
    ]


def percent_encoded(text: str) -> bytes:
    """Return a text as gRPC sends it: UTF-8, of which all but printable ASCII is written with percent signs."""
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in text[:MAX_TEXT_CHARS].encode("utf-8", "replace")
    )
