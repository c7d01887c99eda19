"""Keeps a router's ring of keys as the file has it, by a look every second beside the event loop. IO: threads, the file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from capamesh.router.access.keys import Key, KeyRing

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks: a key that is revoked is refused within two."""
PATIENCE_S: Final = 5.0
"""Seconds that a look may take (guess: a disk that is busy, and another process's change), before the file counts as out of
reach."""


class KeyWatch:
    """The watch of one router's process over its file of keys. While there is no file, none is asked for."""

    def __init__(
        self,
        path: Path,
        ring: KeyRing,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        """`clock` is in seconds and never goes back, `wall_clock` in seconds since 1970."""
        self._path = path
        self._ring = ring
        self._clock = clock
        self._wall_clock = wall_clock
        self._log = log
        self._stamp = 0
        """The stamp that the file had when the keys were read."""
        self._reading: asyncio.Task[tuple[int, list[Key]] | None] | None = None
        self._is_reached = True

    @override
    def __repr__(self) -> str:
        return f"KeyWatch({str(self._path)!r}, {self._ring!r})"

    def load(self) -> None:
        """Read the keys for the first time; raise `ConfigError` when that cannot be."""
        if self._path.exists():
            self._take(self._read(self._stamp))

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Look whether the keys are others now."""
        self._ring.tick(self._wall_clock())
        if not self._ring.is_required and not self._path.exists():
            return
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(self._read, self._stamp))
        reading = self._reading
        done, _ = await asyncio.wait({reading}, timeout=PATIENCE_S)
        if not done:
            self._failed(f"it took more than {PATIENCE_S:g} s")
            return
        self._reading = None
        try:
            self._take(reading.result())
        except ConfigError as error:
            self._failed(error.message)

    def _read(self, known: int) -> tuple[int, list[Key]] | None:
        """Return the keys and the file's stamp; None: they are those of before. Runs in a thread."""
        # read in by routers that have keys alone: it takes 20 ms and 2.5 MiB (measured)
        from capamesh.router.access.key_store import KeyStore  # noqa: PLC0415

        store = KeyStore(self._path)
        stamp = store.stamp()
        if stamp == 0 and (known or self._ring.is_required):
            raise ConfigError(f"the file of keys {self._path} is gone: put it back")
        return store.usable() if stamp != known else None

    def _take(self, found: tuple[int, list[Key]] | None) -> None:
        if not self._is_reached:
            self._is_reached = True
            self._log.info("keys_reached", file=str(self._path))
        if found is None:
            if self._ring.is_required:
                self._ring.unchanged(self._clock())
            return
        self._stamp, keys = found
        self._ring.take(keys, self._clock(), self._wall_clock())
        self._log.info("keys_read", file=str(self._path), keys=len(keys))

    def _failed(self, why: str) -> None:
        self._ring.failed(self._clock())
        if self._is_reached:
            self._is_reached = False
            self._log.error("keys_unreachable", file=str(self._path), reason=why)
