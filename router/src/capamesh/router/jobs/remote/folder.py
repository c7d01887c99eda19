"""The interface of a folder that is not on this machine, and what can go wrong there. Pure.

Whatever a place does, a call ends: each has a deadline of its own, and is tried again a bounded number of times. What a place says in its
errors is never told on, for it may have what the router sent it: words are ours, by the kind of what went wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

from capamesh.router.jobs.inputs.source import Entry, Stamp
from capamesh.router.jobs.remote.urls import RemoteUrl

CALL_S: Final = 30.0
"""Seconds that one reading call may take: a window of 8 MiB at 0.3 MB/s (guess)."""
PUT_S: Final = 180.0
"""Seconds that one writing call may take: a part of 64 MiB at 0.4 MB/s (guess)."""
TRIES: Final = 4
"""The times that a call which may succeed later is tried (guess)."""
TRIES_S: Final = 60.0
"""Seconds after which no more tries are begun."""


class PlaceError(Exception):
    """A place did not do what was asked; the text says why, as the end of a sentence."""


class NotThere(PlaceError):
    """There is nothing of that name."""


class Denied(PlaceError):
    """The router may not, with the credentials that it has."""


class Unreachable(PlaceError):
    """The place does not answer, or says that it cannot now: later it may."""


class Unsuited(PlaceError):
    """The place cannot do it, and never will."""


class NotTheSame(PlaceError):
    """A file is not what it was."""


class AlreadyThere(PlaceError):
    """There is something of that name, which is not written over."""


class RemoteFolder(ABC):
    """A folder, and the files below it by their path from there on. Its methods block, and raise `PlaceError`.

    Several threads may use it at once.
    """

    most_at_once: ClassVar[int] = 1
    """The calls that are of use at once."""

    def __init__(self, url: RemoteUrl) -> None:
        self.url = url

    @abstractmethod
    def stamp(self, path: str) -> Stamp:
        """Return the stamp that a file has now."""

    @abstractmethod
    def read(self, path: str, start: int, end: int, stamp: Stamp) -> bytes:
        """Return the bytes of a file from `start` up to `end`, all of them; raises `NotTheSame` if it can be seen that it has another stamp."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield all files below the folder, in no order, as they are found; none: there is no such folder."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Yield the names of the files in the folder itself; none: there is no such folder."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Make a file of bytes, which is there whole or not at all; raises `AlreadyThere` if something of the name is.

        After `Unreachable` the file may be there or not.
        """

    @abstractmethod
    def remove(self, names: Sequence[str]) -> None:
        """Remove files of the folder itself; those that are not there do not matter."""

    def check_writable(self) -> None:  # noqa: B027 - most can
        """Raise `Unsuited` if no file can be made here whole or not at all."""
