"""The courses of files that a router keeps: made by an upload, read in pieces, listed. Pure."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import IO, Final

from capamesh.client.jobs.asks import ask_content, ask_file, ask_files, repeated
from capamesh.client.jobs.data import Data, Source, source_of
from capamesh.client.jobs.patience import Patience
from capamesh.client.jobs.steps import Course, Give, Work, asked
from capamesh.client.jobs.submission import Surroundings
from capamesh.client.jobs.uploads import Progress, uploaded
from capamesh.client.jobs.values import FileInfo
from capamesh.client.jobs.watching import paged
from capamesh.protocol.errors import ProtocolViolation

PIECE_BYTES: Final = 4 * 2**20
"""The bytes of a file that are asked for at a time (guess)."""


def created(
    data: Data | bytes,
    purpose: str,
    name: str,
    around: Surroundings,
    progress: Progress | None,
) -> Course[FileInfo]:
    """Upload data, or bytes, and return the file that they are at the router."""
    patience = around.patience(is_known=False)
    source: Source = yield Work(partial(_source, data, name))
    try:
        file = yield from uploaded(source, purpose, patience, around.clock, progress)
    finally:
        source.close()
    return (yield from asked(ask_file(file), patience))


def content(file: str, patience: Patience) -> Course[None]:
    """Give the bytes of a file, a piece at a time."""
    info: FileInfo = yield from asked(repeated(ask_file(file)), patience)
    patience.succeeded()
    offset = 0
    while offset < info.bytes:
        size = min(PIECE_BYTES, info.bytes - offset)
        piece = yield from asked(ask_content(file, offset, size), patience)
        if len(piece) != size:
            raise ProtocolViolation(
                f"{len(piece)} bytes of file {file} came where {size} were asked for, from byte {offset} on; does a proxy remove the"
                " header Range?"
            )
        yield Give(piece)
        offset += size


def listed(purpose: str, patience: Patience) -> Course[None]:
    """Give the files of the caller, only those for a purpose where one is named."""
    return (
        yield from paged(lambda after: ask_files(after, purpose), lambda file: file.id, patience)
    )


def _source(data: Data | bytes, name: str) -> Source:
    if isinstance(data, bytes):
        file: IO[bytes] = tempfile.TemporaryFile(prefix="capamesh-")  # noqa: SIM115 - the source closes it
        file.write(data)
        file.flush()
        return Source(file, name or "data", "")
    return source_of(data, name)
