"""The heads of calls: what is called, how its request is to be routed, and until when it is of use. Pure.

A client sends the same head again and again, but for its time, so a head that was read once is remembered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.access.origin_check import OriginCheck
from capamesh.router.http.options import (
    CACHE_CONTROL,
    IDEMPOTENCY_KEY,
    PREFIX,
    idempotency_key_of,
    options_of,
)
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions
from capamesh.router.requests.inference import Target
from capamesh.router.telemetry.tracing import TraceParent, parsed_traceparent

if TYPE_CHECKING:
    from capamesh.router.grpc.http2 import Headers

MAX_KNOWN: Final = 1024
"""Heads that are remembered (guess: the clients of a router, with a few methods each)."""
MAX_KNOWN_BYTES: Final = 1024
"""The largest head that is remembered (guess: usual ones have some 200)."""
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_WISH: Final = PREFIX.encode()
_CONTROL: Final = CACHE_CONTROL.lower().encode()
_TIME: Final = b"grpc-timeout"
_KEY: Final = IDEMPOTENCY_KEY.lower().encode()
_TRUE: Final = frozenset({b"true", b"1"})


_NOBODY: Final = Target(ModelName(""), ModelVersion(""))


@dataclass(slots=True)
class CallHead:
    """One head, without its time, which nobody changes but for `last`."""

    path: bytes
    is_grpc: bool
    """True for a call at all: POST, with gRPC's content type."""
    options: RoutingOptions = NO_OPTIONS
    is_explained: bool = False
    parent: TraceParent | None = None
    authorization: str = ""
    api_key: str = ""
    coding: str = "identity"
    """The coding of messages that are packed."""
    wants_status: bool = False
    """The client asks with Triton's header for errors of a stream as the status that ends it."""
    idempotency_key: str = ""
    """The client's name of the request; "": none."""
    refusal: CapameshError | None = None
    """The reason why its message need not be read."""
    nobody: Target = _NOBODY
    """The target of a request whose message is not read yet, which has the model."""
    last: Target | None = field(default=None, init=False, compare=False, repr=False)
    """The target of the request that came last with this head: that of the next is mostly the same."""


class CallHeads:
    """Reads heads, and remembers them."""

    def __init__(self, origin_check: OriginCheck) -> None:
        self._origin_check = origin_check
        self._known: dict[tuple[tuple[bytes, bytes], ...], CallHead] = {}

    def read(self, headers: Headers) -> tuple[CallHead, float | None]:
        """Return what a head says, and the seconds that the call may take; None: it does not say.

        Raises:
            InvalidRequest: the time is none, or the idempotency key.
        """
        timeout = key = b""
        lasting = tuple(headers)
        for name, value in lasting:
            if name == _TIME:
                timeout = value
            elif name == _KEY:
                key = value
        if timeout or key:  # each call has another
            lasting = tuple([pair for pair in lasting if pair[0] not in {_TIME, _KEY}])
        head = self._known.get(lasting)
        if head is None:
            head = _read(lasting, self._origin_check)
            if (
                head.refusal is None
                and sum(len(name) + len(value) for name, value in lasting) <= MAX_KNOWN_BYTES
            ):
                if len(self._known) >= MAX_KNOWN:
                    del self._known[next(iter(self._known))]
                self._known[lasting] = head
        if key:
            named = idempotency_key_of({IDEMPOTENCY_KEY: key.decode("latin-1")})
            head = replace(head, idempotency_key=named)
        return head, _seconds(timeout) if timeout else None


def _read(headers: tuple[tuple[bytes, bytes], ...], origin_check: OriginCheck) -> CallHead:
    fields = dict(headers)
    path = fields.get(b":path", b"")
    content_type = fields.get(b"content-type", b"")
    is_grpc = fields.get(b":method") == b"POST" and (
        content_type == b"application/grpc"
        or content_type.startswith((b"application/grpc+proto", b"application/grpc;"))
    )
    wished = {
        # as `options_of` spells them
        name.decode("latin-1").title(): value.decode("latin-1")
        for name, value in fields.items()
        if name.startswith(_WISH) or name == _CONTROL
    }
    options, is_explained, refusal = NO_OPTIONS, False, None
    try:
        origin_check.check(
            "POST",
            (fields.get(b":authority") or fields.get(b"host", b"")).decode("latin-1"),
            origin=fields.get(b"origin", b"").decode("latin-1"),
            fetch_site=fields.get(b"sec-fetch-site", b"").decode("latin-1"),
        )
        options, is_explained = options_of(wished)
    except CapameshError as error:
        refusal = error.with_traceback(None)
    parent = parsed_traceparent(fields.get(b"traceparent", b"").decode("latin-1"))
    return CallHead(
        path,
        is_grpc,
        options,
        is_explained,
        parent,
        fields.get(b"authorization", b"").decode("latin-1"),
        fields.get(b"x-api-key", b"").decode("latin-1"),
        fields.get(b"grpc-encoding", b"identity").decode("latin-1").lower(),
        fields.get(b"triton_grpc_error", b"").lower() in _TRUE,
        refusal=refusal,
        nobody=Target(ModelName(""), ModelVersion(""), options, is_explained, parent),
    )


def _seconds(timeout: bytes) -> float:
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        raise InvalidRequest(
            f"grpc-timeout is {timeout.decode('latin-1')[:80]!r}; 1 to 8 digits and one of H, M, S, m, u, n are expected"
        )
    return int(found[1]) * _UNIT_S[found[2]]
