"""The folder in which this machine keeps its part in networks, and what it remembers there between two starts. IO: files, ports."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

from capamesh.protocol.advertised_address import require_free
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import make_folder, read_public, replace_public
from capamesh.protocol.schema import Meta, Mismatch, Struct, field, given, read

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME_VARIABLE: Final = "CAPAMESH_HOME"
OWN_NETWORK: Final = "own"
"""The folder of the network that this machine made; one that it joined has the network's id for a name."""
SETTINGS_FILE: Final = "settings.json"
ROUTER_MESH: Final = 4001
ROUTER_LINKS: Final = 4100
NODE_MESH: Final = 4002
NODE_LINKS: Final = 4200
"""The ports that are taken where they are free, so that a firewall can be told of them: a node's next device has the next."""

_Port = Annotated[int, Meta(ge=1, le=65535)]


class Settings(Struct, frozen=True, omit_defaults=True):
    """The settings that a part in a network had when it was started last; it is resumed with them."""

    models: str = ""
    """The models' folder; empty: the samples."""
    http: str = "127.0.0.1:8000"
    name: str = ""
    """The name that people are shown; empty: this machine's."""
    ports: dict[str, _Port] = field(default_factory=dict)
    """The port of each listener, by its name."""


def default_home() -> Path:
    """Return the folder of this user's networks: $CAPAMESH_HOME, or `capamesh` in $XDG_DATA_HOME or in ~/.local/share."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named)
    shared = os.environ.get("XDG_DATA_HOME")
    return (Path(shared) if shared else Path.home() / ".local" / "share") / "capamesh"


def recall(folder: Path) -> Settings:
    """Return the settings kept in `folder`, the defaults where there are none. `ConfigError`: they are damaged."""
    file = folder / SETTINGS_FILE
    if not file.exists():
        return Settings()
    try:
        return read(cast("object", json.loads(read_public(file, "the settings"))), Settings)
    except (Mismatch, ValueError) as exc:
        raise ConfigError(
            f"{file} holds no settings: {exc}; remove it, and give --models and --http once more"
        ) from exc


def keep(folder: Path, settings: Settings) -> None:
    """Keep the settings for the next start; raise `ConfigError` when the disk refuses."""
    make_folder(folder)
    replace_public(folder / SETTINGS_FILE, json.dumps(given(settings), indent=1).encode())


def ports_of(kept: Mapping[str, int], host: str, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return a port for each name: the one that was kept, else the `wanted` one if it is free, else any free one."""
    return {name: kept.get(name) or _free_port(host, port) for name, port in wanted.items()}


def _free_port(host: str, wanted: int) -> int:
    try:
        require_free(host, wanted, "port")
    except ConfigError:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    return wanted
