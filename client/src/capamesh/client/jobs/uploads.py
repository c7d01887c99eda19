"""The course of an upload: pieces, each behind the last, which goes on where the router has them after whatever broke it off. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from capamesh.client.jobs.asks import ask_append, ask_delete, ask_offset, ask_upload
from capamesh.client.jobs.data import Source
from capamesh.client.jobs.patience import Patience
from capamesh.client.jobs.steps import Course, Pause, Work, asked
from capamesh.protocol.errors import (
    CapameshError,
    ClientError,
    InvalidRequest,
    LinkLost,
    ProtocolViolation,
)

LEAST_PIECE_BYTES: Final = 256 * 1024
FIRST_PIECE_BYTES: Final = 2**20
MOST_PIECE_BYTES: Final = 16 * 2**20
"""The most bytes that are in memory at a time (guess: more is not quicker on a line that is not very long)."""
QUICK_S: Final = 1.0
"""Pieces that take less become twice as large (guess)."""
SLOW_S: Final = 10.0
"""Pieces that take longer become half as large: one is sent again whole when the connection breaks (guess)."""

Progress: TypeAlias = Callable[[int, int], None]
"""A function that is told how many bytes of how many a router has."""


def uploaded(
    source: Source,
    purpose: str,
    patience: Patience,
    clock: Callable[[], float],
    progress: Progress | None,
) -> Course[str]:
    """Upload a source, and return the id of its file; `clock` tells seconds.

    Raises:
        InvalidRequest: the source was changed meanwhile.
    """
    total = source.size_bytes
    file = yield from asked(ask_upload(source.name, total, purpose), patience)
    patience.succeeded()
    try:
        yield from _sent(source, file, patience, clock, progress)
        yield Work(source.check)
    except InvalidRequest:
        yield from removed(file)
        raise
    return file


def _sent(
    source: Source,
    file: str,
    patience: Patience,
    clock: Callable[[], float],
    progress: Progress | None,
) -> Course[None]:
    total = source.size_bytes
    offset = most = 0
    size = FIRST_PIECE_BYTES
    if progress is not None:
        progress(0, total)
    while offset < total:
        piece: bytes = yield Work(partial(source.read, offset, min(size, total - offset)))
        end = offset + len(piece)
        began_s = clock()
        failure: CapameshError | None = None
        try:
            told: int = yield ask_append(file, offset, piece)
        except CapameshError as error:
            failure = error
            size = max(size // 2, LEAST_PIECE_BYTES)
            told = yield from _after_failure(file, offset, error, patience)
        else:
            took_s = clock() - began_s
            if took_s < QUICK_S:
                size = min(size * 2, MOST_PIECE_BYTES)
            elif took_s > SLOW_S:
                size = max(size // 2, LEAST_PIECE_BYTES)
        if not 0 <= told <= total:
            raise ProtocolViolation(
                f"the router says that it has {told} bytes of an upload of {total}; is this a router's URL?"
            )
        if told > most:
            most = told
            patience.succeeded()
            if progress is not None:
                progress(told, total)
        elif failure is None:
            # it took the piece and has no more than before: lost, or never kept
            lost = LinkLost(f"the router has {told} bytes of the upload after it took {end}")
            yield from _waited(lost, patience)
        offset = told


def _after_failure(file: str, offset: int, error: CapameshError, patience: Patience) -> Course[int]:
    """Return how many bytes a router has after a piece failed; raise the error that is the caller's."""
    if isinstance(error, ClientError) and patience.wait_s(error) is None:
        # a piece that was given up may have been taken all the same, so that this one came to the wrong place
        told = yield from asked(ask_offset(file), patience, is_progress=False)
        if told == offset:
            raise error
        return told
    yield from _waited(error, patience)
    return (yield from asked(ask_offset(file), patience, is_progress=False))


def _waited(error: CapameshError, patience: Patience) -> Course[None]:
    wait_s = patience.wait_s(error)
    if wait_s is None:
        raise error
    yield Pause(wait_s)


def removed(file: str) -> Course[None]:
    """Remove a file that nobody needs; where that fails, the router removes it by itself, later."""
    try:
        yield ask_delete(file)
    except CapameshError:
        return
