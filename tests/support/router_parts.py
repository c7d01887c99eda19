"""The parts of a router in a folder of its own, which joins a network of its own. IO: the folder."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from unittest import mock

from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.network import NetworkOwner, Role
from capamesh.router.process.parts import RouterParts
from capamesh.router.settings import RouterSettings


def made_parts(folder: Path, log: Any, **settings: Any) -> RouterParts:
    """Return the parts of a router with `settings`; `log` takes every event."""
    now = dt.datetime.now(dt.UTC)
    token = NetworkOwner.create("home", now).invite(
        Role.ROUTER, expires_at=now + dt.timedelta(days=1), bootstrap=(), now=now
    )
    given = {"http_port": 0, "mesh_port": 0, "link_port": 0, **settings}
    # a router holds its folder to its process's end, for which no test waits
    with mock.patch.object(DataDir, "lock"):
        return RouterParts(RouterSettings(data_folder=folder, token=token.encode(), **given), log)
