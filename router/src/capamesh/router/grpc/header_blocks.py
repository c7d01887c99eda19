"""Header blocks of HTTP/2: HPACK, RFC 7541, and what RFC 9113 asks of a request's headers. Pure.

A client sends the same block again and again, which says the same for as long as its table is the same; so blocks are
remembered. What is sent uses no table at all. The codes of letters are those of the package hpack.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from capamesh.router.grpc.http2 import MAX_HEADER_BYTES, Headers

TABLE_BYTES: Final = 4096
"""The largest table that a client may have: what RFC 9113 begins with."""
MAX_KNOWN: Final = 64
"""Blocks of one connection that are remembered (guess: some methods, and what callers add); then all are forgotten."""
MAX_KNOWN_BYTES: Final = 1024
MAX_KNOWN_FIELDS: Final = 32
"""A block that is longer, or has more fields, is read each time (guess: a call has ten)."""
MAX_SOUND: Final = 256
"""Fields of one connection that are remembered to be sound (guess: a table has some hundred); then all are forgotten."""
MAX_SOUND_BYTES: Final = 256
"""A longer one is looked at each time (guess: longer than usual ones but for keys)."""
_ENTRY_BYTES: Final = 32
"""The bytes that a field counts beside its name and value: RFC 7541, section 4.1."""
_STATIC: Final[tuple[tuple[bytes, bytes], ...]] = tuple(HeaderTable.STATIC_TABLE)
_STATIC_COUNT: Final = 61
_MOST_NUMBER_BYTES: Final = 5
_NAME: Final = re.compile(rb":?[a-z0-9!#$%&'*+\-.^_`|~]+")
_VALUE: Final = re.compile(rb"(?![ \t])[^\x00\r\n]*(?<![ \t])")
_OF_CONNECTIONS: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")


class BadBlock(Exception):
    """The block cannot be decoded, or its list of headers is too long: the connection cannot go on."""

    def __init__(self, reason: str, *, is_too_long: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_too_long = is_too_long


class HeaderBlock:
    """One block, and whether it may begin or end a request."""

    __slots__ = ("content_bytes", "fields", "is_request", "is_trailers")

    def __init__(
        self,
        fields: tuple[tuple[bytes, bytes], ...],
        *,
        is_request: bool,
        is_trailers: bool,
        content_bytes: int,
    ) -> None:
        self.fields = fields
        self.is_request = is_request
        """True if its fields are sound, and all are there that a request must have."""
        self.is_trailers = is_trailers
        """True if its fields are sound, and none is for a request's head alone."""
        self.content_bytes = content_bytes
        """The bytes that the request's body is to have; -1: it does not say."""


class HeaderDecoder:
    """Decodes the blocks of one connection, which depend on those before."""

    __slots__ = ("_known", "_most_bytes", "_size_bytes", "_sound", "_table")

    def __init__(self) -> None:
        self._table: deque[tuple[bytes, bytes]] = deque()
        """The fields that blocks may refer to, the newest first."""
        self._size_bytes = 0
        self._most_bytes = TABLE_BYTES
        self._known: dict[bytes, HeaderBlock] = {}
        """Blocks that change nothing, by their bytes, while the table is as it is."""
        self._sound: set[tuple[bytes, bytes]] = set()

    def decode(self, block: bytes) -> HeaderBlock:
        """Return what a block says. Raises `BadBlock`."""
        known = self._known.get(block)
        if known is not None:
            return known
        fields: list[tuple[bytes, bytes]] = []
        at, end, size_bytes = 0, len(block), 0
        is_changing = False
        while at < end:
            byte = block[at]
            if byte & 0x80:
                index, at = _number(block, at, 0x7F)
                pair = self._entry(index)
            elif byte & 0xE0 == 0x20:
                if fields:
                    raise BadBlock("a header block changes the size of its table behind a field")
                most_bytes, at = _number(block, at, 0x1F)
                if most_bytes > TABLE_BYTES:
                    raise BadBlock(f"a table of headers has {most_bytes} bytes; {TABLE_BYTES} may")
                self._most_bytes = most_bytes
                self._evict(0)
                is_changing = True
                continue
            else:
                is_added = byte & 0x40 != 0
                index, at = _number(block, at, 0x3F if is_added else 0x0F)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, at = _text(block, at)
                value, at = _text(block, at)
                pair = (name, value)
                if is_added:
                    self._add(pair)
                    is_changing = True
            size_bytes += len(pair[0]) + len(pair[1]) + _ENTRY_BYTES
            if size_bytes > MAX_HEADER_BYTES:
                raise BadBlock(
                    f"a list of headers has over {MAX_HEADER_BYTES} bytes", is_too_long=True
                )
            fields.append(pair)
        found = self._block(tuple(fields))
        if is_changing:
            self._known.clear()
        elif end <= MAX_KNOWN_BYTES and len(fields) <= MAX_KNOWN_FIELDS:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[block] = found
        return found

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if 0 < index <= _STATIC_COUNT:
            return _STATIC[index - 1]
        place = index - _STATIC_COUNT - 1
        if 0 <= place < len(self._table):
            return self._table[place]
        raise BadBlock(f"a header block refers to field {index}, which is not there")

    def _add(self, pair: tuple[bytes, bytes]) -> None:
        size_bytes = len(pair[0]) + len(pair[1]) + _ENTRY_BYTES
        self._evict(size_bytes)
        if size_bytes <= self._most_bytes:
            self._table.appendleft(pair)
            self._size_bytes += size_bytes

    def _evict(self, more_bytes: int) -> None:
        """Make room for so many bytes, as far as that can be."""
        while self._table and self._size_bytes + more_bytes > self._most_bytes:
            name, value = self._table.pop()
            self._size_bytes -= len(name) + len(value) + _ENTRY_BYTES

    def _block(self, fields: tuple[tuple[bytes, bytes], ...]) -> HeaderBlock:
        """Return a block with what RFC 9113, section 8, says of its fields."""
        is_sound, is_regular = True, False
        pseudo: dict[bytes, bytes] = {}
        content_bytes = -1
        sound = self._sound
        for pair in fields:
            name, value = pair
            if pair not in sound:
                if not _is_sound(name, value):
                    is_sound = False
                    break
                if len(name) + len(value) <= MAX_SOUND_BYTES:
                    if len(sound) >= MAX_SOUND:
                        sound.clear()
                    sound.add(pair)
            if name[0] == 0x3A:
                if is_regular or name in pseudo:
                    is_sound = False
                    break
                pseudo[name] = value
            else:
                is_regular = True
                if name == b"content-length":
                    if content_bytes not in {-1, int(value)}:
                        is_sound = False
                        break
                    content_bytes = int(value)
        is_whole = bool(pseudo.get(b":method")) and (
            (bool(pseudo.get(b":scheme")) and bool(pseudo.get(b":path")))
            or (
                pseudo[b":method"] == b"CONNECT" and not pseudo.keys() - {b":method", b":authority"}
            )
        )
        return HeaderBlock(
            fields,
            is_request=is_sound and is_whole,
            is_trailers=is_sound and not pseudo,
            content_bytes=content_bytes if is_sound else -1,
        )


def _is_sound(name: bytes, value: bytes) -> bool:
    """Return whether a request may have such a field at all."""
    if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None or name in _OF_CONNECTIONS:
        return False
    if name[0] == 0x3A:
        return name in _PSEUDO
    if name == b"te":
        return value == b"trailers"
    return name != b"content-length" or _DIGITS.fullmatch(value) is not None


def _number(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return the number that begins in the bits of `mask` of a byte, and where it ends."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    for place in range(at, min(at + _MOST_NUMBER_BYTES, len(block))):
        byte = block[place]
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise BadBlock("a number in a header block has no end, or is too large")


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    """Return the text that begins there, and where it ends."""
    if at >= len(block):
        raise BadBlock("a header block ends within a field")
    is_coded = block[at] & 0x80 != 0
    size_bytes, at = _number(block, at, 0x7F)
    end = at + size_bytes
    if end > len(block):
        raise BadBlock("a header block ends within a text")
    text = block[at:end]
    if not is_coded:
        return text, end
    try:
        return decode_huffman(text), end
    except HPACKDecodingError as error:
        raise BadBlock(str(error)) from None


def encoded(headers: Headers) -> bytes:
    """Return a block with these fields, which neither uses a table nor goes into one."""
    out = bytearray()
    for name, value in headers:
        if name == b":status" and value == b"200":
            out.append(0x88)
            continue
        out.append(0)
        for text in (name, value):
            size_bytes = len(text)
            if size_bytes < 0x7F:
                out.append(size_bytes)
            else:
                out.append(0x7F)
                size_bytes -= 0x7F
                while size_bytes >= 0x80:
                    out.append(size_bytes & 0x7F | 0x80)
                    size_bytes >>= 7
                out.append(size_bytes)
            out += text
    return bytes(out)
