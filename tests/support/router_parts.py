"""The parts of a router in a folder of its own, which joins a network of its own. IO: the folder."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from typing_extensions import override

from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.network import NetworkOwner, Role
from capamesh.router.process.parts import RouterParts
from capamesh.router.settings import RouterSettings
from capamesh.router.timers import Timer, Timers


def made_parts(folder: Path, log: Any, **settings: Any) -> RouterParts:
    """Return the parts of a router with `settings`; `log` takes every event."""
    now = dt.datetime.now(dt.UTC)
    token = NetworkOwner.create("home", now).invite(
        Role.ROUTER, expires_at=now + dt.timedelta(days=1), bootstrap=(), now=now
    )
    given = {"http_port": 0, "mesh_port": 0, "link_port": 0, **settings}
    # a router holds its folder to its process's end, for which no test waits
    with mock.patch.object(DataDir, "lock"):
        return RouterParts(
            RouterSettings(data_folder=folder, token=token.encode(), **given), log, _timers()
        )


class NoTimers(Timers):
    """Where no loop runs: nothing is to wait there."""

    @override
    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        raise AssertionError(f"{callback!r} would wait for {delay} s, but there is no loop")

    @override
    def call_soon(self, callback: Callable[[], object], /) -> Timer:
        return self.call_later(0.0, callback)

    @override
    def call_exception_handler(self, context: dict[str, Any], /) -> None:
        raise AssertionError(context["message"]) from context.get("exception")


def _timers() -> Timers:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return NoTimers()
