"""The owner's book: what is written into it, and what of a damaged one is still read."""

from __future__ import annotations

import datetime as dt
import json
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from capamesh.protocol.errors import ConfigError, KeyExposed
from capamesh.protocol.network.book import (
    BOOK_FILE,
    MAX_BOOK_BYTES,
    MAX_LABEL_CHARS,
    OLD_BOOK_FILE,
    Book,
    Invited,
    read_book,
    write_down,
)

NOW = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)
FIRST = Invited(
    invite="0a" * 20,
    role="node",
    made_at=NOW,
    expires_at=NOW + dt.timedelta(days=30),
    members=64,
    key=1,
    label="Anna's lab",
    addresses=("/ip4/10.0.0.5/tcp/4001/p2p/12D3",),
    replaces="0b" * 20,
)
SECOND = msgspec.structs.replace(FIRST, invite="0c" * 20, role="router", label="", replaces="")


@dataclass
class Written:
    """A folder with both entries in its book."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / BOOK_FILE


@pytest.fixture
def book(tmp_path: Path) -> Written:
    write_down(tmp_path, FIRST)
    write_down(tmp_path, SECOND)
    return Written(tmp_path)


def test_book_gives_back_what_was_written_down_in_that_order(book: Written) -> None:
    assert read_book(book.folder) == Book((FIRST, SECOND), 0)
    assert book.file.stat().st_mode & 0o777 == 0o600
    assert book.file.read_bytes().count(b"\n") == 2


def test_line_that_was_cut_off_costs_itself_alone(book: Written) -> None:
    whole = book.file.read_bytes()
    book.file.write_bytes(whole[:-20])
    assert read_book(book.folder) == Book((FIRST,), 1)
    write_down(book.folder, SECOND)
    assert read_book(book.folder) == Book((FIRST, SECOND), 1)


def test_line_that_was_changed_by_hand_is_told_of_and_not_believed(book: Written) -> None:
    first, second = book.file.read_text().splitlines()
    for changed in (
        {"invite": "xy" * 20},
        {"invite": "0a" * 20 + "\n"},
        {"role": "owner"},
        {"made_at": "2027-03-01T12:00:00"},
        {"members": 0},
        {"members": 2**70},
        {"key": -1},
        {"label": "x" * (MAX_LABEL_CHARS + 1)},
        {"label": "\u001b[2J"},
        {"addresses": ["/ip4/\u202e"]},
        {"addresses": ["a"] * 17},
        {"replaces": "0b"},
    ):
        book.file.write_text(f"{json.dumps({**json.loads(first), **changed})}\n{second}\n")
        assert read_book(book.folder) == Book((SECOND,), 1), changed


def test_line_that_is_no_entry_is_told_of_and_one_of_a_later_version_read(book: Written) -> None:
    first, second = book.file.read_text().splitlines()
    book.file.write_text(f"{json.dumps({**json.loads(first), 'new': [1]})}\n{second}\n")
    assert read_book(book.folder) == Book((FIRST, SECOND), 0)
    with book.file.open("a") as file:
        for line in ("{", "[]", "[" * 100_000, "\x00", "{}"):
            file.write(f"{line}\n\n")
    assert read_book(book.folder) == Book((FIRST, SECOND), 5)


def test_full_book_is_put_aside_and_both_are_read(book: Written) -> None:
    with book.file.open("ab") as file:
        file.write(b"\n" * MAX_BOOK_BYTES)
    write_down(book.folder, msgspec.structs.replace(FIRST, invite="0d" * 20))
    assert book.file.read_bytes().count(b"\n") == 1
    assert (book.folder / OLD_BOOK_FILE).stat().st_size > MAX_BOOK_BYTES
    assert [one.invite[:2] for one in read_book(book.folder).invites] == ["0a", "0c", "0d"]


def test_book_that_others_can_read_is_not_added_to(book: Written) -> None:
    book.file.chmod(0o644)
    before = book.file.read_bytes()
    with pytest.raises(KeyExposed, match="chmod 600"):
        write_down(book.folder, SECOND)
    assert book.file.read_bytes() == before


def test_book_that_is_no_plain_file_or_a_link_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / BOOK_FILE, 0o600)
    for do in (lambda: write_down(tmp_path, FIRST), lambda: read_book(tmp_path)):
        with pytest.raises(ConfigError, match="plain file"):
            do()
    (tmp_path / BOOK_FILE).unlink()
    (tmp_path / BOOK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot write"):
        write_down(tmp_path, FIRST)
    assert not (tmp_path / "elsewhere").exists()
