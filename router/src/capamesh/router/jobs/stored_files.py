"""A file that a client uploaded, or that a batch made: what the store keeps of it, and how much a tenant may have. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

FileId = NewType("FileId", str)
"""The name of a file: `file-`, the time when it was made, and chance. Later files have greater ids while clocks go forward."""

GIB: Final = 2**30
DAY_S: Final = 86400.0
MAX_FILE_BYTES: Final = 64 * GIB
"""The most bytes of one file (guess: 200,000,000 rows of JSON lines)."""
MAX_BATCH_BYTES: Final = GIB
"""The most bytes of a file of requests (guess: five times OpenAI's; its lines are read as they arrive)."""
MAX_OWN_FILES: Final = 10_000
"""The most files of one owner (guess)."""
MAX_FILES: Final = 100_000
"""The most files of a store, of all tenants (guess: what a folder serves without a thought)."""
KEEP_S: Final = 30 * DAY_S
"""Seconds for which a file is kept that does not say for how long."""
LEAST_KEEP_S: Final = 3600.0
MOST_KEEP_S: Final = KEEP_S
ARRIVAL_S: Final = DAY_S
"""Seconds for which the bytes of an upload are kept since some last came (guess: a night and a working day)."""
MAX_NAME_CHARS: Final = 255


class Purpose(StrEnum):
    """The use that a file is for, in OpenAI's words."""

    BATCH = "batch"
    """The requests of a batch: each line is checked."""
    BATCH_OUTPUT = "batch_output"
    """The answers or the errors of a batch. Clients make no such files."""
    USER_DATA = "user_data"
    """A data set, of any form."""


UPLOADED: Final = (Purpose.BATCH, Purpose.USER_DATA)
"""The purposes of files that clients make."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The one to whom an upload is counted: its tenant, or its client's address where no key says who that is."""

    tenant: str
    site: str = ""
    """The address, or the network of 64 bits of IPv6; "": a key has named the tenant."""

    @property
    def words(self) -> str:
        """Return who it is in a sentence."""
        return f"clients of the address {self.site}" if self.site else "this tenant's clients"


@dataclass(frozen=True, slots=True)
class Requests:
    """The contents of a file of requests, as its lines were found to be."""

    lines: int = 0
    endpoint: str = ""
    """The path that all of them ask; "": the file has no requests."""
    model: str = ""
    """The model that all of them name."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The things that are known of a file once all of it is here."""

    purpose: Purpose
    keep_s: float
    size_bytes: int
    sha256: str
    requests: Requests = Requests()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as the store has it."""

    id: FileId
    tenant: str
    name: str
    """The client's name for it, without folders. No path is ever made of it."""
    purpose: Purpose
    is_ready: bool
    """True once it is whole; until then its bytes arrive."""
    size_bytes: int
    """The bytes of the file; until it is ready, those that were announced or that room was taken for."""
    created_s: float
    """Seconds since 1970 on the store's clock, as the other time."""
    expires_s: float
    """The time when it is removed, unless a job under way reads it."""
    keep_s: float
    """Seconds for which it is kept from when it was made."""
    sha256: str = ""
    """Hexadecimal digits of the SHA-256 of its bytes, once it is ready."""
    requests: Requests = Requests()


def new_file_id(wall_s: float, draw: Callable[[int], int]) -> FileId:
    """Return a new id; `draw` returns so many bits by chance."""
    return FileId(f"file-{int(wall_s * 1000):012x}{draw(40):010x}")


def plain_name(given: str) -> str:
    """Return a client's name of a file without folders and without characters that could drive a terminal."""
    last = given.replace("\\", "/").rpartition("/")[2]
    kept = "".join(each for each in last if each.isprintable()).strip()
    return kept[:MAX_NAME_CHARS] if kept.strip(".") else "file"
