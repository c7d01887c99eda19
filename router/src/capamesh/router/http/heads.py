"""Recognises the head of an HTTP/1.1 request, and what it says if it is a plain inference request. Pure.

It is strict: what is not plainly right is not refused here but left to aiohttp, whose answer then counts. A client
sends the same head again and again, so a head that was read once is remembered whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.oip import HEADER_LENGTH_NAME, json_refusal, parse_header_length
from capamesh.router.access.origin_check import OriginCheck
from capamesh.router.http.exchange import JSON_WEIGHT, InferTarget
from capamesh.router.http.key_check import KeyCheck
from capamesh.router.http.media_types import is_json
from capamesh.router.http.options import (
    CACHE_CONTROL,
    IDEMPOTENCY_KEY,
    PREFIX,
    idempotency_key_of,
    options_of,
)
from capamesh.router.http.packing import taken_coding
from capamesh.router.requests.key_scope import within_scope
from capamesh.router.telemetry.tracing import parsed_traceparent

if TYPE_CHECKING:
    from capamesh.protocol.tensors import Limits

END: Final = b"\r\n\r\n"
MAX_HEAD_BYTES: Final = 8190
"""A longer one is left to aiohttp, which bounds each of its lines to as much."""
MAX_KNOWN: Final = 1024
"""Heads that are remembered (guess: the clients of a router, with a few models each)."""
MAX_KNOWN_BYTES: Final = 1024
"""The largest head that is remembered (guess: clients in front of no proxy send some 200)."""
MAX_LINES: Final = 128
"""The most lines of a head, as aiohttp's."""

_BEGINNING: Final = re.compile(rb"[A-Z]{1,16}(?: |\Z)", re.ASCII)
_LINE: Final = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.1", re.ASCII)
_INFER: Final = re.compile(rb"/v2/models/([\w.~-]+)(?:/versions/([\w.~-]+))?/infer", re.ASCII)
_DOTS: Final = frozenset({b".", b".."})
"""Names that a URL's path takes for steps."""
_TOKEN: Final = bytes(sorted(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"))
_CONTROLS: Final = bytes([*range(9), *range(10, 32), 127])
_LENGTH: Final = re.compile(rb"[0-9]{1,18}", re.ASCII)
_CONNECTIONS: Final = frozenset({b"", b"keep-alive", b"close"})
_FOREIGN: Final = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"sec-websocket-key1"}
)
"""The headers with which the request's end, or what follows it, is not as the length says, or aiohttp refuses it."""
_OF_BROWSERS: Final = frozenset({b"origin", b"sec-fetch-site"})
"""The headers by which a browser says whose page asks."""
_WISH: Final = PREFIX.encode()
_WISHES: Final = frozenset({CACHE_CONTROL.lower().encode(), IDEMPOTENCY_KEY.lower().encode()})
_HEADER_LENGTH: Final = HEADER_LENGTH_NAME.lower().encode()


@dataclass(frozen=True, slots=True)
class Head:
    """A request whose end is known."""

    body_bytes: int
    is_last: bool
    """The client asks for the connection to be closed after it."""
    target: InferTarget | None
    """The target of the request; None: it is for aiohttp."""
    held_bytes: int = 0
    """The bytes of memory that the request takes: the body, and what is made of it if that is JSON."""
    refusal: CapameshError | None = None
    """The reason why its body need not be read."""


def may_become_head(part: bytes) -> bool:
    """Return whether the beginning of a request may become a head that is recognised."""
    return (
        len(part) <= MAX_HEAD_BYTES
        and _BEGINNING.match(part) is not None
        and part.count(b"\n") == part.count(b"\r\n")
    )


class Heads:
    """Reads heads, and remembers them."""

    def __init__(
        self,
        limits: Limits,
        keys: KeyCheck,
        origin_check: OriginCheck,
        *,
        has_inference: bool = True,
    ) -> None:
        """A longer body is refused by aiohttp, before it is read. What `keys` found is remembered until it changes.

        Without inference all requests are for aiohttp, as are those that a browser sends, or that name another host.
        """
        self._limits = limits
        self._origin_check = origin_check
        self._has_inference = has_inference
        self._keys = keys
        keys.ring.on_change(self._forget)
        self._known: dict[bytes, Head | None] = {}

    def read(self, raw: bytes) -> Head | None:
        """Return what a head says, its empty line included; None: only aiohttp can tell where its request ends."""
        known = self._known
        try:
            return known[raw]
        except KeyError:
            head = self._recognised(raw)
            target = None if head is None else head.target
            is_like_the_next = target is None or not target.idempotency_key
            if len(raw) <= MAX_KNOWN_BYTES and is_like_the_next:
                if len(known) >= MAX_KNOWN:
                    known.clear()
                known[raw] = head
            return head

    def _forget(self) -> None:
        self._known.clear()

    def _with_key(self, target: InferTarget, fields: dict[bytes, bytes]) -> InferTarget:
        """Return the target with the key that the head brings, as its tenant's; raise what is wrong with that."""
        key = self._keys.of_inference(
            target.model,
            fields.get(b"authorization", b"").decode("latin-1"),
            fields.get(b"x-api-key", b"").decode("latin-1"),
        )
        if key is None:
            return target
        return replace(target, key=key, options=within_scope(target.options, key))

    def _recognised(self, raw: bytes) -> Head | None:
        if len(raw) > MAX_HEAD_BYTES:
            return None
        first, *lines = raw[: -len(END)].split(b"\r\n")
        request = _LINE.fullmatch(first)
        fields = _fields(lines)
        if request is None or fields is None or request[1] == b"CONNECT" or b"host" not in fields:
            return None
        length = fields.get(b"content-length", b"0")
        connection = {
            each.strip(b" \t") for each in fields.get(b"connection", b"").lower().split(b",")
        }
        if _LENGTH.fullmatch(length) is None or not connection <= _CONNECTIONS:
            return None
        body_bytes, is_last = int(length), b"close" in connection
        limits = self._limits
        target: InferTarget | None = None
        held_bytes = body_bytes
        refusal: CapameshError | None = None
        is_plain = (
            self._has_inference
            and b"content-length" in fields
            and body_bytes <= limits.max_message_bytes
            and _OF_BROWSERS.isdisjoint(fields)
            and self._origin_check.is_own(fields[b"host"].decode("latin-1"))
        )
        if request[1] == b"POST" and is_plain and b"content-encoding" not in fields:
            target = _target(request[2], fields)
            if target is not None and target.header_length is None:
                refusal = json_refusal(body_bytes, limits)
                held_bytes *= JSON_WEIGHT
            if target is not None:
                try:
                    target = self._with_key(target, fields)
                except CapameshError as error:
                    refusal = error.with_traceback(None)
        return Head(body_bytes, is_last, target, held_bytes, refusal)


def _fields(lines: list[bytes]) -> dict[bytes, bytes] | None:
    """Return the fields of a head by their names in small letters; None: something about them is not plain."""
    if len(lines) > MAX_LINES:
        return None
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        if (
            not colon
            or not name
            or name in fields
            or name in _FOREIGN
            or name.translate(None, _TOKEN)
            or len(value.translate(None, _CONTROLS)) != len(value)
        ):
            return None
        fields[name] = value
    return fields


def _target(target: bytes, fields: dict[bytes, bytes]) -> InferTarget | None:
    """Return what is asked for; None: nothing, or something that has to be explained to whoever asks."""
    path = _INFER.fullmatch(target)
    if path is None or not _DOTS.isdisjoint(path.groups()):
        return None
    model, version = path[1].decode(), (path[2] or b"").decode()
    wished = {
        # as `options_of` spells them
        name.decode().title(): value.decode("latin-1")
        for name, value in fields.items()
        if name.startswith(_WISH) or name in _WISHES
    }
    length = fields.get(_HEADER_LENGTH)
    if length is None and not is_json(fields.get(b"content-type", b"").decode("latin-1")):
        return None
    try:
        header_length = parse_header_length(None if length is None else length.decode("latin-1"))
        if not all(map(str.isascii, wished.values())):
            return None
        options, is_explained = options_of(wished)
        idempotency_key = idempotency_key_of(wished)
    except CapameshError:
        return None
    trace = fields.get(b"traceparent")
    return InferTarget(
        ModelName(model),
        ModelVersion(version),
        options,
        is_explained,
        None if trace is None else parsed_traceparent(trace.decode("latin-1")),
        header_length,
        taken_coding(fields.get(b"accept-encoding", b"").decode("latin-1")),
        idempotency_key=idempotency_key,
    )
