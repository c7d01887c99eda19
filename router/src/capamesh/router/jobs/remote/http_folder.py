"""Folders of HTTP servers, which are read by ranges. IO: sockets.

A router stands where a client does not, so what an HTTP address leads to is checked at each connection: the address that a name has
now is the one that is connected to, it is a public one unless the operator named a place that only an inner network has, and nobody
is followed elsewhere. The libraries that fsspec uses follow redirects and resolve names anew, so this is written by hand.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar
from urllib.parse import quote, urlsplit

from typing_extensions import override

from capamesh.router.jobs.inputs.source import Entry, Stamp
from capamesh.router.jobs.remote.folder import (
    CALL_S,
    TRIES,
    TRIES_S,
    Denied,
    NotThere,
    NotTheSame,
    RemoteFolder,
    Unreachable,
    Unsuited,
)
from capamesh.router.jobs.remote.urls import RemoteUrl

CONNECT_S: Final = 5.0
"""Seconds for a connection to one address."""
MOST_ADDRESSES: Final = 4
"""The most addresses of a name that are tried."""
REST_S: Final = 0.5
"""Seconds before the second try; twice as many before each further one."""
_PLAIN: Final = frozenset({None, "", "identity"})
_INNER_NAMES: Final = (
    ".internal", ".local", ".lan", ".home", ".home.arpa", ".corp", ".intranet", ".private", ".localhost", ".test",
)  # fmt: skip
"""The ends of names that no public server of names gives out."""
_RANGE: Final = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})")
_STATUS_DENIED: Final = frozenset({401, 403, 407})
_STATUS_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

_Result = TypeVar("_Result")


def names_inner(host: str) -> bool:
    """Return whether a host, as an operator wrote it, can only be one of an inner network: such a one may have an inner address."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_INNER_NAMES)


@dataclass(frozen=True, slots=True)
class _Answer:
    stamp: Stamp
    data: bytes


class HttpFolder(RemoteFolder):
    """A folder of an HTTP server: what it has cannot be listed, and nothing can be written."""

    most_at_once = 8

    def __init__(self, url: RemoteUrl, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(url)
        parts = urlsplit(url.text())
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if url.scheme == "https" else 80)
        self._sleep = sleep

    @override
    def stamp(self, path: str) -> Stamp:
        return self._patiently(lambda: self._get(path, 0, 1)).stamp

    @override
    def read(self, path: str, start: int, end: int, stamp: Stamp) -> bytes:
        if start == end:
            return b""
        answer = self._patiently(lambda: self._get(path, start, end, stamp))
        if answer.stamp != stamp:
            raise NotTheSame("is not what it was when the job was planned")
        return answer.data

    @override
    def entries(self) -> Iterator[Entry]:
        raise Unsuited(
            "cannot be listed: HTTP has no folders; give one file, or a place that has them"
        )

    @override
    def names(self) -> Iterator[str]:
        raise Unsuited("cannot be listed: HTTP has no folders")

    @override
    def put(self, name: str, data: bytes) -> None:
        self.check_writable()

    @override
    def remove(self, names: Sequence[str]) -> None:
        self.check_writable()

    @override
    def check_writable(self) -> None:
        raise Unsuited("cannot be written to over HTTP; give a folder of an object store, or none")

    def _patiently(self, ask: Callable[[], _Result]) -> _Result:
        until_s = time.monotonic() + TRIES_S
        rest_s = REST_S
        for left in reversed(range(TRIES)):
            try:
                return ask()
            except Unreachable:
                if not left or time.monotonic() + rest_s >= until_s:
                    raise
            self._sleep(rest_s)
            rest_s *= 2
        raise AssertionError("the last try returns or raises")

    def _get(self, path: str, start: int, end: int, stamp: Stamp | None = None) -> _Answer:
        """Return what one request for a range gives."""
        headers = {
            "Range": f"bytes={start}-{end - 1}",
            "Accept-Encoding": "identity",
            "User-Agent": "capamesh",
        }
        if stamp is not None and stamp.changed.startswith('"'):
            headers["If-Match"] = stamp.changed
        deadline: _Deadline | None = None
        try:
            connection = http.client.HTTPConnection(self._host, self._port)
            connection.sock = self._connected()
            deadline = _Deadline(connection.sock, CALL_S)
            try:
                if isinstance(connection.sock, ssl.SSLSocket):
                    connection.sock.do_handshake()
                connection.request("GET", f"/{_quoted(self.url.below(path).path)}", headers=headers)
                with connection.getresponse() as response:
                    return _answer(response, start, end)
            finally:
                deadline.cancel()
                connection.close()
        except ssl.SSLCertVerificationError as exc:
            raise Unsuited(
                f"has a certificate that is not accepted: {exc.verify_message[:200]}"
            ) from None
        except (OSError, http.client.HTTPException) as exc:
            is_late = deadline is not None and deadline.has_passed
            raise Unreachable(f"cannot be had now: {_words_of(exc, is_late=is_late)}") from None

    def _connected(self) -> socket.socket:
        """Return a socket to an address that may be asked; of TLS the handshake is still to be done."""
        last = OSError("it has no address")
        for address in self._addresses():
            try:
                plain = socket.create_connection((address, self._port), timeout=CONNECT_S)
            except OSError as exc:
                last = exc
                continue
            plain.settimeout(CALL_S)
            if self.url.scheme != "https":
                return plain
            return _context().wrap_socket(
                plain, server_hostname=self._host, do_handshake_on_connect=False
            )
        raise last

    def _addresses(self) -> list[str]:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if names_inner(self._host):
            return addresses[:MOST_ADDRESSES]
        public = [each for each in addresses if _is_public(each)]
        if not public:
            raise Unsuited(
                f"leads to an inner address, which {self._host!r} does not name: have the operator name it by --jobs-place as an address"
            )
        return public[:MOST_ADDRESSES]


@lru_cache(maxsize=1)
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _is_public(address: str) -> bool:
    """Return whether an address is none of an inner network, however it is written."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = (
            parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        )
        if inner is None and parsed in ipaddress.IPv6Network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None and not inner.is_global:
            return False
    return parsed.is_global and not parsed.is_multicast


def _quoted(path: str) -> str:
    """Return a path as it stands in a request: what is encoded already stays so."""
    return quote(path, safe="/%:@!$&'()*+,;=~-._")


class _Deadline:
    """Shuts a socket after a time, so that a server cannot hold a thread by a byte now and then."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self.has_passed = False
        self._sock = sock
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Let the socket be."""
        self._timer.cancel()

    def _pass(self) -> None:
        self.has_passed = True
        with suppress(OSError):  # it is closed already
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


def _answer(response: http.client.HTTPResponse, start: int, end: int) -> _Answer:
    """Return the range that a response has, which must be the one that was asked for."""
    size = _RANGE.fullmatch(response.getheader("Content-Range", ""))
    if response.status == 416 and size is not None and int(size[3]) == 0:
        return _Answer(Stamp(0, _mark(response)), b"")
    _check_status(response.status)
    if size is None or size[1] is None or response.getheader("Content-Encoding") not in _PLAIN:
        raise Unsuited("is not given in the ranges that were asked for; put it where it is")
    first, last, total = int(size[1]), int(size[2]), int(size[3])
    if first != start or last != min(end, total) - 1:
        raise Unreachable(
            f"cannot be had now: bytes {first} to {last} came where {start} to {end - 1} were asked for"
        )
    wanted = last + 1 - first
    data = response.read(wanted)
    if len(data) != wanted:
        raise Unreachable(f"cannot be had now: it was cut off after {len(data)} of {wanted} bytes")
    return _Answer(Stamp(total, _mark(response)), data)


def _mark(response: http.client.HTTPResponse) -> str:
    """Return what changes with a file."""
    mark = response.getheader("ETag") or response.getheader("Last-Modified")
    if not mark:
        raise Unsuited(
            "has neither an ETag nor a Last-Modified there, so that a change would not be seen; put it where it has"
        )
    return mark[:1000]


def _check_status(status: int) -> None:
    if status == 206:
        return
    if status in {404, 410}:
        raise NotThere("is not there")
    if status in _STATUS_DENIED:
        raise Denied(f"may not be read: the server answered {status}")
    if status == 412:
        raise NotTheSame("is not what it was when the job was planned")
    if status in _STATUS_LATER:
        raise Unreachable(f"cannot be had now: the server answered {status}")
    if 300 <= status < 400:
        raise Unsuited(
            f"is somewhere else: the server answered {status}, which is not followed; give the URL that it leads to"
        )
    if status == 200:
        raise Unsuited(
            "is not given in ranges there: the server answered 200 where 206 was asked for; put it where it is"
        )
    raise Unsuited(f"cannot be had: the server answered {status}")


def _words_of(error: Exception, *, is_late: bool) -> str:
    if is_late or isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, socket.gaierror):
        return "its name has no address now"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the server broke off"
