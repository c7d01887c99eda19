"""The request by which a client asks for a WebSocket: what it wants of whom, or why it does not get it. Pure.

Browsers let a page set no header but the protocols, so that all else may come in the query, and a key as a protocol.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.access.origin_check import OriginCheck
from capamesh.router.http.heads import END, MAX_HEAD_BYTES, MAX_LINES
from capamesh.router.http.options import options_of
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions
from capamesh.router.requests.parameters import PRIORITY, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.oip import Parameters

PROTOCOL: Final = "capamesh"
"""The protocol that is chosen where a client offers some."""
KEY_PROTOCOL: Final = "capamesh.key."
"""The beginning of the protocol by which a browser brings a key."""
REQUESTS: Final = "requests"
SAMPLES: Final = "samples"
MAX_FIELDS: Final = 32
"""The most fields of a query (guess: there are thirteen)."""
_LINE: Final = re.compile(
    rb"GET (/v2/models/([^/?\s]+)(?:/versions/([^/?\s]+))?/stream)(?:\?([!-~]*))? HTTP/1\.1",
    re.ASCII,
)
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, section 1.3."""
_WISHES: Final = frozenset(
    {"policy", "affinity", "tenant", "max-price", "region", "device", "nodes"}
)
"""The fields of a query that stand for the header with `X-Capamesh-` before it."""
_PREFIX: Final = "X-Capamesh-"
_KEY_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class StreamHead:
    """The wishes of a client that opens a stream."""

    model: ModelName
    version: ModelVersion
    """The version; empty: the newest."""
    options: RoutingOptions
    messages: str
    """`REQUESTS`, `SAMPLES`, or empty: what suits the model."""
    is_binary: bool
    """Answers to samples bring their tensors as raw bytes."""
    takes_parts: bool
    """Answers to whole requests come in parts, from a model that gives them."""
    parameters: Parameters
    """The parameters of requests that are made of samples."""
    authorization: str
    api_key: str
    accepted: bytes
    """The answer by which the connection becomes a WebSocket."""


def read_head(raw: bytes, origin_check: OriginCheck) -> StreamHead | None:
    """Return what a head asks for; None: it asks for no WebSocket here. `raw` ends with its empty line.

    Raises:
        InvalidRequest: it asks for one, but not as RFC 6455 says or with a query that cannot be read.
        Forbidden: a page of somebody else asks, or the router has another name.
    """
    first, *lines = raw[: -len(END)].split(b"\r\n")
    found = _LINE.fullmatch(first)
    if found is None or len(raw) > MAX_HEAD_BYTES or len(lines) > MAX_LINES:
        return None
    fields = _fields(lines)
    if fields is None or "websocket" not in _words(fields.get("upgrade", "")):
        return None
    _check(fields)
    origin_check.check(
        "GET",
        fields["host"],
        origin=fields.get("origin", ""),
        fetch_site=fields.get("sec-fetch-site", ""),
    )
    query = _query((found[4] or b"").decode("ascii"))
    protocols = _words(fields.get("sec-websocket-protocol", ""), is_lower=False)
    messages = query.pop("messages", "")
    if messages not in {"", REQUESTS, SAMPLES}:
        raise InvalidRequest(f"messages is {messages[:80]!r}; {REQUESTS} or {SAMPLES} is expected")
    return StreamHead(
        ModelName(_text(found[2])),
        ModelVersion(_text(found[3] or b"")),
        _options(fields, query),
        messages,
        _flag(query, "binary"),
        _flag(query, "parts"),
        {name: _number(name, query[name]) for name in (TIMEOUT, PRIORITY) if name in query},
        fields.get("authorization", ""),
        fields.get("x-api-key", "") or _key_of(protocols),
        _accepted(fields["sec-websocket-key"], is_named=PROTOCOL in protocols),
    )


def _fields(lines: list[bytes]) -> dict[str, str] | None:
    """Return the fields by their names in small letters, those of one name as one; None: they are not plain."""
    fields: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1").rstrip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _words(value: str, *, is_lower: bool = True) -> list[str]:
    words = [word.strip() for word in value.split(",")]
    return [word.lower() for word in words] if is_lower else words


def _check(fields: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` unless RFC 6455, section 4.2.1, would go on."""
    if "upgrade" not in _words(fields.get("connection", "")):
        raise InvalidRequest("a WebSocket is asked for without 'Connection: Upgrade'")
    version = fields.get("sec-websocket-version", "")
    if version != "13":
        raise InvalidRequest(f"Sec-WebSocket-Version is {version[:80]!r}; 13 is spoken here")
    try:
        key = base64.b64decode(fields.get("sec-websocket-key", ""), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise InvalidRequest(f"Sec-WebSocket-Key must be {_KEY_BYTES} bytes as base64")
    if fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
        raise InvalidRequest("a request for a WebSocket has no body")
    if "," in fields.get("host", ",") or not fields["host"]:
        raise InvalidRequest("a request has one Host")


def _query(text: str) -> dict[str, str]:
    """Return the fields of a query by their names, `-` for `_`. Raises `InvalidRequest`."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as exc:
        raise InvalidRequest(f"the query cannot be read: {exc}") from exc
    query: dict[str, str] = {}
    for given, value in pairs:
        name = given.replace("_", "-")
        if name in query:
            raise InvalidRequest(f"the query has {name[:80]!r} twice")
        query[name] = value
    known = _WISHES | {"messages", "binary", "parts", TIMEOUT, PRIORITY}
    unknown = sorted(query.keys() - known)
    if unknown:
        raise InvalidRequest(
            f"the query has {unknown[0][:80]!r}; there are {', '.join(sorted(known))}"
        )
    return query


def _options(fields: Mapping[str, str], query: Mapping[str, str]) -> RoutingOptions:
    """Return what the headers and the query ask for. Raises `InvalidRequest`."""
    wished = {
        name.title(): value for name, value in fields.items() if name.startswith(_PREFIX.lower())
    }
    for name in _WISHES & query.keys():
        wished[f"{_PREFIX}{name.title()}"] = query[name]
    if not wished:
        return NO_OPTIONS
    options, is_explained = options_of(wished)
    if is_explained:
        raise InvalidRequest(
            "answers on a stream are not explained; ask POST /v2/models/{model}/infer instead"
        )
    return options


def _text(raw: bytes) -> str:
    try:
        return unquote(raw.decode("ascii"), errors="strict")
    except UnicodeDecodeError as exc:
        raise InvalidRequest("the path is no UTF-8") from exc


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "0").lower()
    if value not in {"0", "1", "false", "true"}:
        raise InvalidRequest(f"{name} is {value[:80]!r}; 1 or 0 is expected")
    return value in {"1", "true"}


def _number(name: str, value: str) -> int:
    if not value.isascii() or not value.isdecimal() or len(value) > 18:
        raise InvalidRequest(f"{name} is {value[:80]!r}; a whole number is expected")
    return int(value)


def _key_of(protocols: list[str]) -> str:
    """Return the key that is among the protocols; empty: none is."""
    for protocol in protocols:
        if protocol.startswith(KEY_PROTOCOL):
            return protocol.removeprefix(KEY_PROTOCOL)
    return ""


def _accepted(key: str, *, is_named: bool) -> bytes:
    digest = base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID).digest())  # noqa: S324
    protocol = f"Sec-WebSocket-Protocol: {PROTOCOL}\r\n".encode() if is_named else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + digest + b"\r\n" + protocol + b"\r\n"
    )
