"""The file in which a router keeps its fleet, and how often it is written. IO: the file, in a thread."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import replace_public
from capamesh.router.fleet.last_fleet import LastFleet, decode

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.fleet.clocks import Clocks
    from capamesh.router.fleet.lost_nodes import LostNodes

LAST_FLEET_FILE = "fleet.bin"
KEEP_FLEET_S = 1.0
"""A change of the fleet is written so soon (guess: nodes come and go seldom, and a second of it is heard anew)."""
FLEET_EVERY_S = 10.0
"""The file is written no more often than this in the long run (guess: a member that comes and goes must not wear the disk)."""
FLEET_BURST = 6.0
"""This many changes are written as they come (guess: nodes that start one after the other, or load their models)."""
RENEW_FLEET_S = 300.0
"""The file is written so often though nothing has changed, so that its age tells how long this router was away (guess)."""


class WritePace:
    """Says when to write: changes soon, at first, and no more often than every `FLEET_EVERY_S` in the long run. Pure."""

    def __init__(self, now_s: float) -> None:
        self._credit = FLEET_BURST
        self._counted_s = self._written_s = now_s

    def is_due(self, now_s: float, *, is_changed: bool) -> bool:
        """Return whether to write now; what is due counts as written."""
        self._credit = min(FLEET_BURST, self._credit + (now_s - self._counted_s) / FLEET_EVERY_S)
        self._counted_s = now_s
        if now_s - self._written_s < RENEW_FLEET_S and not (is_changed and self._credit >= 1.0):
            return False
        self._credit -= 1.0
        self._written_s = now_s
        return True


class LastFleetFile:
    """Reads the fleet that was known last as a router starts, and keeps it while the router runs."""

    def __init__(
        self,
        folder: Path,
        last_fleet: LastFleet,
        lost: LostNodes,
        clocks: Clocks,
        log: FilteringBoundLogger,
    ) -> None:
        self._file = folder / LAST_FLEET_FILE
        self._last_fleet = last_fleet
        self._lost = lost
        self._clocks = clocks
        self._log = log
        self._is_refused = False
        """True while the disk has refused the last write."""

    def read(self) -> tuple[list[bytes], list[object]] | None:
        """Return what `decode` does of the file; None when there is no file that can be used."""
        try:
            return decode(self._file.read_bytes(), self._wall_ms())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._log.warning("last_fleet_not_used", file=str(self._file), error=str(error))
            return None

    async def keep(self) -> None:
        """Write the fleet soon after it has changed, now and then, and once more when this is cancelled."""
        pace = WritePace(self._clocks.steady_s())
        try:
            while True:
                await asyncio.sleep(KEEP_FLEET_S)
                is_changed = self._last_fleet.is_changed or self._lost.is_changed
                if pace.is_due(self._clocks.steady_s(), is_changed=is_changed):
                    await asyncio.to_thread(self._write, self._encode())
        finally:
            self.write()

    def write(self) -> None:
        """Write the fleet; a disk that refuses it is logged once."""
        self._write(self._encode())

    def _encode(self) -> bytes:
        self._lost.is_changed = False
        return self._last_fleet.encode(self._wall_ms(), self._lost.rows())

    def _write(self, data: bytes) -> None:
        try:
            replace_public(self._file, data)
        except ConfigError as error:  # a full disk: the router will only start a little slower
            if not self._is_refused:
                self._log.warning("last_fleet_not_kept", error=error.message)
            self._is_refused = True
        else:
            self._is_refused = False

    def _wall_ms(self) -> int:
        return self._clocks.wall_ns() // 1_000_000
