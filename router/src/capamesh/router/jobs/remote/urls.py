"""URLs of places that are not on this machine: what they name, and whether one is below another. Pure.

A URL is kept with its job, so it has no user, password or query, which are where credentials stand. Dots and encoded slashes, by
which a path could lead out of the prefix that an operator named, are refused instead of being resolved: who answers might resolve
them in another way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from capamesh.router.jobs.errors import InputInvalid

OBJECT_STORES: Final = frozenset({"s3", "gs", "az"})
"""The schemes that obstore reads and writes."""
HTTP: Final = frozenset({"http", "https"})
LOCAL: Final = frozenset({"", "file", "local"})
_PORTS: Final = {"http": 80, "https": 443}
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_HOST: Final = re.compile(
    r"[A-Za-z0-9._-]{0,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?"
)
_ENCODED: Final = re.compile(r"%(2e|2f|5c|00)", re.IGNORECASE)
"""A dot, a slash, a backslash or a zero byte, as HTTP writes what must not be seen."""


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """A URL, in parts that can be compared."""

    scheme: str
    place: str
    """The host and port, or the bucket."""
    path: str
    """The path, without slashes at its ends; "": the place itself."""

    def text(self) -> str:
        """Return the URL."""
        return f"{self.scheme}://{self.place}/{self.path}"

    @property
    def folder(self) -> RemoteUrl:
        """The URL of the folder that it is in."""
        return RemoteUrl(self.scheme, self.place, self.path.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def below(self, path: str) -> RemoteUrl:
        """Return the URL of what has a path in this folder."""
        return RemoteUrl(self.scheme, self.place, f"{self.path}/{path}" if self.path else path)

    def is_in(self, prefix: RemoteUrl) -> bool:
        """Return whether it is what `prefix` names, or is below it."""
        if (self.scheme, self.place) != (prefix.scheme, prefix.place):
            return False
        return not prefix.path or f"{self.path}/".startswith(f"{prefix.path}/")


def is_remote(url: str) -> bool:
    """Return whether a URL is of a place that is not on this machine."""
    scheme, mark, _ = url.partition("://")
    return bool(mark) and scheme.lower() not in LOCAL


def remote_url(url: str) -> RemoteUrl:
    """Return the parts of a URL. Raises `InputInvalid`: it is none, or it has what must not be in one."""
    shown = repr(url.partition("?")[0].rpartition("@")[2][:200])
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower()
    if not mark or not _SCHEME.fullmatch(scheme):
        raise InputInvalid(f"{shown} is no URL; give one such as s3://bucket/folder/file.parquet")
    if "@" in rest.partition("/")[0]:
        raise InputInvalid(
            f"the URL of {shown} has a user or a password, which would be kept with the job; give them to the router"
        )
    if "?" in rest or "#" in rest:
        raise InputInvalid(
            f"{shown} has a '?' or a '#' behind it, where credentials stand that would be kept with the job; leave it out"
        )
    if "::" in rest.rpartition("]")[2] or any(
        ord(each) < 0x21 or ord(each) == 0x7F for each in rest
    ):
        raise InputInvalid(
            f"{shown} has a blank, a control character or '::', which no URL here has"
        )
    place, _, path = rest.partition("/")
    if not _HOST.fullmatch(place) or (scheme in OBJECT_STORES and not place):
        raise InputInvalid(f"{shown} has no host or bucket that can be one")
    path = path.strip("/") if scheme not in OBJECT_STORES else path.rstrip("/")
    parts = path.split("/") if path else []
    if any(part in {"", ".", ".."} for part in parts) or "\\" in path:
        raise InputInvalid(f"{shown} has '.', '..', '//' or '\\' in its path; give the plain path")
    if scheme in HTTP and _ENCODED.search(path):
        raise InputInvalid(f"{shown} has an encoded dot or slash in its path; give the plain path")
    return RemoteUrl(scheme, _plain_place(scheme, place), path)


def _plain_place(scheme: str, place: str) -> str:
    """Return a host and port as others are compared with: in small letters, without the port that is usual."""
    if scheme not in HTTP:
        return place
    try:
        parts = urlsplit(f"{scheme}://{place}")
        port = parts.port
    except ValueError:
        raise InputInvalid(f"{place[:200]!r} is no host with a port from 0 to 65535") from None
    host = (parts.hostname or "").rstrip(".")
    if not host:
        raise InputInvalid(f"{place[:200]!r} names no host")
    shown = f"[{host}]" if ":" in host else host
    return shown if port in {None, _PORTS[scheme]} else f"{shown}:{port}"
