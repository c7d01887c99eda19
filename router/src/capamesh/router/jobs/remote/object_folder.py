"""Folders of object stores: S3, Google Cloud Storage and Azure. IO: calls to the store. The only importer of obstore.

A part is one PUT, which is there whole or not at all, and which no other overwrites. There is no multipart upload anywhere, so none
is left open by a router that dies, which would cost money until somebody finds it; obstore could not even list those of another process.
A read names the ETag that was planned, so bytes of another object never come. The environment has credentials, endpoint and region, under
obstore's names for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, ClassVar, Final, TypeVar

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.router.jobs.inputs.source import Entry, Stamp
from capamesh.router.jobs.remote.folder import (
    CALL_S,
    PUT_S,
    TRIES,
    TRIES_S,
    AlreadyThere,
    Denied,
    NotThere,
    NotTheSame,
    PlaceError,
    RemoteFolder,
    Unreachable,
    Unsuited,
)
from capamesh.router.jobs.remote.urls import RemoteUrl

LISTED: Final = 1000
"""The objects of a list that come at once: as many as a store tells in one answer."""
KEPT_STORES: Final = 64
"""The clients of buckets that are kept, with their connections (guess)."""
_ENDPOINTS: Final = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
    "GOOGLE_BASE_URL",
)
_IS_TRUE: Final = frozenset({"1", "true", "yes", "on"})

_Result = TypeVar("_Result")


def obstore(name: str = "obstore") -> Any:  # noqa: ANN401 - the library is loaded where it is used
    """Return obstore, or a module of it; raises `ConfigError` where it is missing."""
    try:
        return import_module(name)
    except ImportError as exc:
        raise ConfigError(
            "jobs read and write s3://, gs:// and az:// by obstore, which is not here: pip install 'capamesh[jobs]'"
        ) from exc


class ObjectFolder(RemoteFolder):
    """A prefix of a bucket."""

    most_at_once: ClassVar[int] = 16

    def __init__(self, url: RemoteUrl) -> None:
        """Raises `ConfigError`: obstore is missing, or the environment does not fit it."""
        super().__init__(url)
        root = f"{url.scheme}://{url.place}"
        self._store = _store(root, CALL_S)
        self._puts = _store(root, PUT_S)

    @override
    def stamp(self, path: str) -> Stamp:
        about = self._asked(lambda: self._store.head(self._key(path)))
        return Stamp(about["size"], _mark(about))

    @override
    def read(self, path: str, start: int, end: int, stamp: Stamp) -> bytes:
        if start == end:
            return b""
        options: dict[str, Any] = {"range": (start, end)}
        if stamp.changed.startswith(('"', "W/")):
            options["if_match"] = stamp.changed

        def get() -> tuple[Stamp, bytes]:
            answer = self._store.get(self._key(path), options=options)
            about = answer.meta
            return Stamp(about["size"], _mark(about)), bytes(answer.bytes())

        try:
            found, data = self._asked(get)
        except Unreachable:  # obstore tries all again but a body that is cut off
            found, data = self._asked(get)
        if found != stamp:
            raise NotTheSame("is not what it was when the job was planned")
        if len(data) != end - start:
            raise Unreachable(f"gave {len(data)} bytes where {end - start} were asked for")
        return data

    @override
    def entries(self) -> Iterator[Entry]:
        start = len(self.url.path) + 1 if self.url.path else 0
        for found in self._listed(self.url.path):
            path = found["path"][start:]
            if path and not path.endswith("/"):  # some tools make an object of a folder
                yield Entry(path, found["size"], _mark(found))

    @override
    def names(self) -> Iterator[str]:
        for entry in self.entries():
            if "/" not in entry.path:
                yield entry.path

    @override
    def put(self, name: str, data: bytes) -> None:
        key = self._key(name)
        self._asked(lambda: self._puts.put(key, data, mode="create", use_multipart=False))

    @override
    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(NotThere):
                self._asked(partial(self._store.delete, self._key(name)))

    def _listed(self, prefix: str) -> Iterator[Any]:
        stream = self._asked(lambda: iter(self._store.list(prefix or None, chunk_size=LISTED)))
        while True:
            chunk = self._asked(lambda: next(stream, None))
            if chunk is None:
                return
            yield from chunk

    def _key(self, path: str) -> str:
        return self.url.below(path).path

    def _asked(self, ask: Callable[[], _Result]) -> _Result:
        try:
            return ask()
        except Exception as exc:  # noqa: BLE001 - obstore's have no common base
            # its words may have what was sent, so that nothing of them is told on, and no traceback shows them
            raise _told(exc) from None


@lru_cache(maxsize=KEPT_STORES)
def _store(root: str, call_s: float) -> Any:  # noqa: ANN401 - obstore's
    """Return the client of a bucket; raises `ConfigError`."""
    client = {
        "timeout": timedelta(seconds=call_s),
        "connect_timeout": timedelta(seconds=5),
        "allow_http": _may_be_plain(),
    }
    retries = {
        "max_retries": TRIES - 1,
        "retry_timeout": timedelta(seconds=TRIES_S),
        "backoff": {
            "init_backoff": timedelta(milliseconds=200),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }
    make = obstore("obstore.store").from_url
    try:
        return make(root, client_options=client, retry_config=retries)
    except Exception as exc:  # noqa: BLE001 - as above
        raise ConfigError(
            f"obstore cannot use {root}: look at the router's environment, such as AWS_REGION, AWS_ENDPOINT_URL,"
            f" GOOGLE_SERVICE_ACCOUNT or AZURE_STORAGE_ACCOUNT_NAME ({type(exc).__name__})"
        ) from None


def _may_be_plain() -> bool:
    """Return whether the operator named a store that has no TLS."""
    named = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    return named or os.environ.get("AWS_ALLOW_HTTP", "").lower() in _IS_TRUE


def _mark(about: Any) -> str:  # noqa: ANN401 - obstore's table
    """Return what changes with an object: its ETag, or where a store has none the time of its change."""
    return str(about.get("e_tag") or about["last_modified"].isoformat())


def _told(error: Exception) -> PlaceError:
    """Return what went wrong in our own words."""
    if isinstance(error, FileNotFoundError):
        return NotThere("is not there")
    kinds = obstore("obstore.exceptions")
    if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError):
        return Denied("may not be used with the router's credentials: look at its environment")
    if isinstance(error, kinds.PreconditionError | kinds.NotModifiedError):
        return NotTheSame("is not what it was when the job was planned")
    if isinstance(error, kinds.AlreadyExistsError):
        return AlreadyThere("is there already; a part is written once")
    if isinstance(error, kinds.NotSupportedError | kinds.InvalidPathError | ValueError | TypeError):
        return Unsuited(f"is nothing that the store can do ({type(error).__name__})")
    return _by_words(str(error))


_STATUS: Final = ("status code: ", "Server returned non-2xx status code: ", "status: ")


def _by_words(words: str) -> PlaceError:
    """Return what obstore tells in words alone: the status that the store answered, or that it did not."""
    for mark in _STATUS:
        status = words.partition(mark)[2][:3]
        if status.isdigit():
            if status[0] == "5" or status in {"408", "429"}:
                return Unreachable(f"cannot be had now: the store answered {status}")
            return Unsuited(f"cannot be had: the store answered {status}")
    if "timed out" in words or "TimedOut" in words or "Timeout" in words:
        return Unreachable("cannot be had now: the store did not answer in time")
    return Unreachable("cannot be had now: the store is not reached")
