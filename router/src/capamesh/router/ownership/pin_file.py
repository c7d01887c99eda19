"""Keeps the pins in the router's data folder, so that a restart opens nothing anew. IO: files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import read_public, replace_public
from capamesh.router.ownership.pins import MAX_FILE_BYTES, Pin, pins_from_json, pins_to_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PIN_FILE = "model-pins.json"


def load_pins(folder: Path) -> list[Pin]:
    """Return the pins kept in `folder`, none where there is no file; raise `ConfigError` where it is damaged."""
    file = folder / PIN_FILE
    if not file.exists():
        return []
    try:
        return pins_from_json(read_public(file, "the file of pins", limit_bytes=MAX_FILE_BYTES))
    except ConfigError as exc:
        raise ConfigError(f"{file} is damaged: {exc.message}") from exc


def save_pins(folder: Path, pins: Sequence[Pin]) -> None:
    """Replace the file with `pins`; raise `ConfigError` where the disk refuses."""
    replace_public(folder / PIN_FILE, pins_to_json(pins))
