"""Keeps a router's ring of keys as the file has it, and writes down what was used, once a second. IO: threads, the file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.router.access.quotas import Amount, Usage

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from capamesh.router.access.keys import Key, KeyRing
    from capamesh.router.access.quotas import Quotas

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks: a key that is revoked is refused within two."""
PATIENCE_S: Final = 5.0
"""Seconds that a look may take (guess: a disk that is busy, and another process's change), before the file counts as out of
reach."""


class _Found(NamedTuple):
    """The findings of one look."""

    keys: tuple[int, list[Key]] | None
    """The file's stamp and its keys; None: they are those of before."""
    usage: Usage
    """The usage that was written."""
    totals: dict[str, Amount] | None
    """The amounts of the month by key; None: nothing was written."""


class KeyWatch:
    """The watch of one router's process over its file of keys. While there is no file, none is asked for."""

    def __init__(
        self,
        path: Path,
        ring: KeyRing,
        quotas: Quotas,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        """`clock` is in seconds and never goes back, `wall_clock` in seconds since 1970."""
        self._path = path
        self._ring = ring
        self._quotas = quotas
        self._clock = clock
        self._wall_clock = wall_clock
        self._log = log
        self._stamp = 0
        """The stamp that the file had when the keys were read."""
        self._reading: asyncio.Task[_Found] | None = None
        self._is_reached = True

    @override
    def __repr__(self) -> str:
        return f"KeyWatch({str(self._path)!r}, {self._ring!r})"

    def load(self) -> None:
        """Read the keys for the first time; raise `ConfigError` when that cannot be."""
        self._quotas.tick(self._wall_clock(), ())
        if self._is_there():
            self._take(self._exchange(self._stamp, self._quotas.unwritten()))

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the router goes on
                self._failed(repr(error))

    async def look(self) -> None:
        """Look whether the keys are others now, and write down what was used."""
        wall_s = self._wall_clock()
        self._ring.tick(wall_s)
        if not self._ring.is_required and not self._is_there():
            return
        if self._reading is None:
            self._quotas.tick(wall_s, self._ring.keys)
            usage = self._quotas.unwritten()
            self._reading = asyncio.create_task(
                asyncio.to_thread(self._exchange, self._stamp, usage)
            )
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

    async def close(self) -> None:
        """Write down what was used last, if that can be."""
        if self._ring.is_required and self._is_reached:
            await self.look()
            await self.look()  # the first one may have been under way before the last request ended

    def _is_there(self) -> bool:
        """Return whether there is a file, as far as can be told."""
        try:
            return self._path.exists()
        except OSError:  # the folder cannot be looked into
            return False

    def _exchange(self, known: int, usage: Usage) -> _Found:
        """Write what was used and read what is new. Runs in a thread."""
        # read in by routers that have keys alone: it takes 20 ms and 2.5 MiB (measured)
        from capamesh.router.access.key_store import KeyStore  # noqa: PLC0415

        store = KeyStore(self._path)
        stamp = store.stamp() if self._is_there() else 0
        if stamp == 0:
            if known or self._ring.is_required:
                raise ConfigError(f"the file of keys {self._path} is gone: put it back")
            return _Found(None, usage, None)
        keys = store.usable() if stamp != known else None
        return _Found(keys, usage, store.write(usage))

    def _take(self, found: _Found) -> None:
        if not self._is_reached:
            self._is_reached = True
            self._log.info("keys_reached", file=str(self._path))
        if found.totals is not None:
            self._quotas.written(found.usage, found.totals)
        if found.keys is None:
            if self._ring.is_required:
                self._ring.unchanged(self._clock())
            return
        self._stamp, keys = found.keys
        self._ring.take(keys, self._clock(), self._wall_clock())
        self._log.info("keys_read", file=str(self._path), keys=len(keys))

    def _failed(self, why: str) -> None:
        self._ring.failed(self._clock())
        if self._is_reached:
            self._is_reached = False
            self._log.error("keys_unreachable", file=str(self._path), reason=why)
