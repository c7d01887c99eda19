"""The mark in a router's data folder that keys were made: a store of keys that is lost afterwards opens nothing. IO: files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import create_private

MARK_FILE: Final = "keys-were-made"
_TEXT: Final = b"Keys were made for this router: it does not start while their store has none.\n"


def mark_keys_made(data_folder: Path) -> None:
    """Leave the mark. Raises `ConfigError`: the folder cannot be written."""
    create_private(data_folder / MARK_FILE, _TEXT)


def require_none_made(data_folder: Path, place: str) -> None:
    """Raise `ConfigError` where keys were made once: their store, at `place`, is to have none."""
    mark = data_folder / MARK_FILE
    if mark.exists():
        raise ConfigError(
            f"keys were made for this router, and {place} has none: put them back, or name their place with --keys; if all who reach"
            f" the router are to be let in without a key again, remove {mark}"
        )
