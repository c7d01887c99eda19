"""The owner's book: a line for each invite that was given out, so that an owner knows whom to shut out. Does file IO.

`book.jsonl` in the owner's folder holds one JSON table a line, is only ever added to, and is readable for its owner alone. It
holds no secret: an invite's key is in the token and nowhere else. A line that was cut off, as by a power cut, costs nothing but
itself. Once a book has `MAX_BOOK_BYTES`, it is put aside as `book.1.jsonl`, in the place of the one before, and a new one begins.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, cast

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.network.authority import read_authority
from capamesh.protocol.network.certificates import MAX_MEMBERS
from capamesh.protocol.network.chain import read_invite
from capamesh.protocol.network.token import MAX_ADDRESS_CHARS, MAX_BOOTSTRAP
from capamesh.protocol.private_files import append_private, read_public
from capamesh.protocol.schema import PLAIN, Meta, Mismatch, Struct, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from capamesh.protocol.network.token import JoinToken

BOOK_FILE: Final = "book.jsonl"
OLD_BOOK_FILE: Final = "book.1.jsonl"
MAX_BOOK_BYTES: Final = 4 * 2**20
"""The size from which a new book is begun (guess: some ten thousand invites; both books are read in a tenth of a second)."""
MAX_LABEL_CHARS: Final = 64
"""The longest text that says for whom an invite is (guess: a name and a place)."""


class Invited(Struct, frozen=True, omit_defaults=True):
    """One invite that was given out, as a line of the book has it."""

    invite: Annotated[str, Meta(pattern=r"\A[0-9a-f]{40}\Z")]
    """The serial of the invite, by which it is revoked."""
    role: Annotated[str, Meta(pattern=r"\A(?:node|router)\Z")]
    made_at: datetime
    expires_at: datetime
    members: Annotated[int, Meta(ge=1, le=MAX_MEMBERS)]
    """The number of members that it admits."""
    key: Annotated[int, Meta(ge=0, le=255)] = 0
    """The number of the owner's key that signed it, the first being 0."""
    label: Annotated[str, Meta(max_length=MAX_LABEL_CHARS), PLAIN] = ""
    """The words of the owner that say for whom it is."""
    addresses: Annotated[
        tuple[Annotated[str, Meta(max_length=MAX_ADDRESS_CHARS), PLAIN], ...],
        Meta(max_length=MAX_BOOTSTRAP),
    ] = ()
    """The mesh addresses in the token."""
    replaces: Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{40})?\Z")] = ""
    """The invite whose token this one took the place of; "" for none."""


@dataclass(frozen=True, slots=True)
class Book:
    """The invites of a book, the earliest first."""

    invites: tuple[Invited, ...]
    unreadable: int
    """The number of lines that are none: cut off, or changed by hand."""


def entry_of(
    token: JoinToken, made_at: datetime, *, label: str = "", replaces: str = ""
) -> Invited:
    """Return the line for the invite of a token; `label` says for whom it is, `replaces` which invite it takes the place of."""
    invite = read_invite(read_authority(token.ca_der), token.invite_der)
    return Invited(
        invite=invite.serial,
        role=token.role.value,
        made_at=made_at,
        expires_at=token.expires_at,
        members=invite.members,
        key=invite.signer,
        label=label,
        addresses=token.bootstrap,
        replaces=replaces,
    )


def write_down(folder: Path, entry: Invited) -> None:
    """Add a line to the book in the owner's `folder`, and wait until the disk has it; raise `ConfigError` when it refuses."""
    line = json.dumps(
        {
            "invite": entry.invite,
            "role": entry.role,
            "made_at": entry.made_at.isoformat(),
            "expires_at": entry.expires_at.isoformat(),
            "members": entry.members,
            "key": entry.key,
            "label": entry.label,
            "addresses": list(entry.addresses),
            "replaces": entry.replaces,
        }
    )
    path = folder / BOOK_FILE
    try:
        if path.stat().st_size >= MAX_BOOK_BYTES:
            path.replace(folder / OLD_BOOK_FILE)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise ConfigError(f"cannot put {path} aside: {exc.strerror}") from exc
    append_private(path, line.encode())


def read_book(folder: Path) -> Book:
    """Return the book in the owner's `folder`, the one before included; empty where none was begun.

    Raises `ConfigError` when a file cannot be read.
    """
    invites: list[Invited] = []
    unreadable = 0
    for name in (OLD_BOOK_FILE, BOOK_FILE):
        for line in _lines(folder / name):
            entry = _entry(line)
            if entry is None:
                unreadable += 1
            else:
                invites.append(entry)
    return Book(tuple(invites), unreadable)


def _lines(path: Path) -> Iterator[bytes]:
    if not os.path.lexists(path):
        return
    # a line more than the limit may be there: a book is put aside before one is added
    data = read_public(path, "the owner's book", limit_bytes=MAX_BOOK_BYTES + 2**16)
    for line in data.split(b"\n"):
        if line.strip():
            yield line


def _entry(line: bytes) -> Invited | None:
    try:
        values = cast("object", json.loads(line))
        entry = read(_with_times(values), Invited)
    except (ValueError, Mismatch, RecursionError):
        return None
    has_zones = entry.made_at.tzinfo is not None and entry.expires_at.tzinfo is not None
    return entry if has_zones else None


def _with_times(values: object) -> object:
    """Return the table with its times read; raise `ValueError` when one is none."""
    if not isinstance(values, dict):
        return values
    table = dict(cast("dict[str, object]", values))
    for key in ("made_at", "expires_at"):
        if key in table:
            table[key] = datetime.fromisoformat(str(table[key]))
    return table
