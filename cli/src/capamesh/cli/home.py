"""The folder in which this machine keeps its part in networks, and what it remembers there between two starts. IO: files."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Annotated, Final, TextIO, cast

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import make_folder, read_public, replace_public
from capamesh.protocol.schema import Meta, Mismatch, Struct, field, given, read

HOME_VARIABLE: Final = "CAPAMESH_HOME"
OWN_NETWORK: Final = "own"
"""The folder of the network that this machine made; one that it joined has the network's id for a name."""
SETTINGS_FILE: Final = "settings.json"
LOCK_FILE: Final = "up.lock"

_Port = Annotated[int, Meta(ge=1, le=65535)]


class Settings(Struct, frozen=True, omit_defaults=True):
    """The settings that a part in a network had when it was started last; it is resumed with them."""

    models: str = ""
    """The models' folder; empty: the samples."""
    http: str = "127.0.0.1:8000"
    name: str = ""
    """The name that people are shown; empty: this machine's."""
    metrics: str = ""
    """The address at which the node serves its metrics; empty: it serves none."""
    ports: dict[str, _Port] = field(default_factory=dict)
    """The port of each listener, by its name."""
    node: dict[str, str] = field(default_factory=dict)
    """More options of `capamesh node run`, such as `--memory-limit`."""
    insecure: bool = False
    """True if `http` may be reached from other machines without TLS or keys."""


def default_home() -> Path:
    """Return the folder of this user's networks: $CAPAMESH_HOME, or `capamesh` in $XDG_DATA_HOME or in ~/.local/share."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named)
    shared = os.environ.get("XDG_DATA_HOME")
    return (Path(shared) if shared else Path.home() / ".local" / "share") / "capamesh"


def kept_member(role: str) -> Path:
    """Return the only data folder of a router or a node in this user's networks; raise `ConfigError` where there are none or several."""
    home = default_home().absolute()
    named = (*home.glob(f"*/{role}"), *home.glob(f"*/{role}-[0-9]*"))
    found = sorted(folder for folder in named if folder.is_dir())
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"there is no {role} in {home}: name its data folder with --data DIR")
    raise ConfigError(f"there are several {role}s: give --data {' or '.join(map(str, found))}")


def kept_owner() -> Path:
    """Return the owner's folder that is meant where none is named: `network` here, else that of this user's own network."""
    here, own = Path("network"), default_home() / OWN_NETWORK / "network"
    return own if own.is_dir() and not here.exists() else here


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


def hold(folder: Path) -> TextIO:
    """Take the folder of a network for this process, until what is returned is closed or the process ends.

    Raises `ConfigError` when another process has it.
    """
    make_folder(folder)
    try:
        file = (folder / LOCK_FILE).open("a", encoding="ascii")
    except OSError as exc:
        raise ConfigError(f"cannot use the folder {folder}: {exc.strerror}") from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise ConfigError(
            f"the network in {folder} runs already: stop that with Ctrl-C where it was started, or give another --home"
        ) from exc
    return file
