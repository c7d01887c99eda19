"""Keeps a router's ring of keys as the store has it, and writes down what was used, once a second. IO: a thread, the store."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.router.access.keys_made import mark_keys_made, require_none_made
from capamesh.router.access.usage_batch import UsageBatch, WrittenUsage

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from capamesh.router.access.engines.location import DatabaseLocation
    from capamesh.router.access.key_store import KeyStore
    from capamesh.router.access.keys import Key, KeyRing
    from capamesh.router.access.quotas import Quotas

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks: a key that is revoked is refused within two."""
PATIENCE_S: Final = 5.0
"""Seconds that a look may take (guess: a disk that is busy, and another process's change), before the store counts as out of
reach."""
LAST_LOOKS: Final = 3
"""The most looks of a router that stops: one that was under way, one that is sent again, and one for the rest."""


class _Found(NamedTuple):
    """The findings of one look."""

    now_s: float
    """The time by the store's clock, in seconds since 1970."""
    at_s: float
    """The time by the router's own clock that was then, in seconds."""
    keys: tuple[int, list[Key]] | None = None
    """The store's stamp and its keys; None: they are those of before."""
    written: WrittenUsage | None = None
    """The usage of all processes; None: nothing was written."""
    problem: str = ""
    """The reason why usage could not be written."""


class KeyWatch:
    """The watch of one router's process over its store of keys. While there is no store, no key is asked for."""

    def __init__(
        self,
        location: DatabaseLocation,
        data_folder: Path,
        ring: KeyRing,
        quotas: Quotas,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        """`clock` is in seconds and never goes back, `wall_clock` in seconds since 1970; threads call both."""
        self._location = location
        self._data_folder = data_folder
        self._ring = ring
        self._quotas = quotas
        self._clock = clock
        self._wall_clock = wall_clock
        self._log = log
        self._store: KeyStore | None = None
        self._thread = ThreadPoolExecutor(1, "keys")
        """The only one that uses the store, but for `cut`."""
        self._stamp = 0
        """The stamp that the store had when the keys were read."""
        self._told: tuple[float, float] | None = None
        """The time by the store's clock when it was last reached, and by the router's own; None: it never was."""
        self._writer = secrets.token_hex(8)
        self._batch: UsageBatch | None = None
        """The usage that was sent to be written; None: it is known to be written."""
        self._number = 0
        """The number of the batch that was sent last."""
        self._reading: asyncio.Future[_Found] | None = None
        self._is_reached = True
        self._is_written = True

    @override
    def __repr__(self) -> str:
        return f"KeyWatch({str(self._location)!r}, {self._ring!r})"

    def load(self) -> None:
        """Read the keys for the first time.

        A database that is out of reach is waited for while the router runs, which takes nobody's request until then.
        Raises `ConfigError`: the file cannot be read, has no keys any more, or the place cannot be used at all.
        """
        self._quotas.tick(self._now_s(), ())
        file = self._location.file
        try:
            is_there = file is None or file.exists()
        except OSError as error:  # nobody can tell whether there are keys
            raise ConfigError(f"cannot look for keys at {file}: {error.strerror}") from error
        if not is_there:
            require_none_made(self._data_folder, str(self._location))
            return
        self._open()
        reading = self._thread.submit(self._exchange, self._stamp, self._next_batch())
        try:
            found = reading.result(PATIENCE_S)
        except TimeoutError:
            self._too_slow()
        except ConfigError as error:
            if self._location.file is not None:
                raise
            self._failed(error.message)
        else:
            self._take(found)
            if not self._ring.is_required:
                require_none_made(self._data_folder, str(self._location))

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
        now_s = self._now_s()
        self._ring.tick(now_s)
        if not self._ring.is_required and not self._is_there():
            return
        if self._reading is None:
            self._quotas.tick(now_s, self._ring.keys)
            self._reading = asyncio.get_running_loop().run_in_executor(
                self._thread, self._exchange, self._stamp, self._next_batch()
            )
        reading = self._reading
        done, _ = await asyncio.wait({reading}, timeout=PATIENCE_S)
        if not done:
            self._too_slow()
            return
        self._reading = None
        try:
            self._take(reading.result())
        except ConfigError as error:
            self._failed(error.message)

    async def close(self) -> None:
        """Write down what was used last, if that can be, and let go of the store."""
        for _ in range(LAST_LOOKS):
            if not self._ring.is_required or not self._is_reached:
                break
            await self.look()
            if self._batch is None and not self._quotas.unwritten().rows:
                break
        if self._store is not None:
            if self._reading is not None:
                self._store.cut()
            self._thread.submit(self._store.close)
        self._thread.shutdown(wait=False)

    def _is_there(self) -> bool:
        """Return whether there is a store, as far as can be told without opening it."""
        file = self._location.file
        try:
            return file is None or file.exists()
        except OSError:  # the folder cannot be looked into
            return False

    def _now_s(self) -> float:
        """Return the time by the store's clock, in seconds since 1970; by this machine's until the store is reached.

        So all routers of a store agree on when a key ends and a month begins, whatever their own clocks say.
        """
        if self._told is None:
            return self._wall_clock()
        now_s, at_s = self._told
        return now_s + self._clock() - at_s

    def _open(self) -> KeyStore:
        """Return the store. Raises `ConfigError`: its place is none that can be used here."""
        if self._store is None:
            # read in by routers that have keys alone: docs/decisions/0058 says what it costs
            from capamesh.router.access.key_store import KeyStore  # noqa: PLC0415

            self._store = KeyStore(self._location, clock=self._wall_clock, is_kept_open=True)
        return self._store

    def _next_batch(self) -> UsageBatch:
        """Return the usage to write; what was sent, and may not be written, is sent again as it was."""
        batch = self._batch
        if batch is None or not batch.usage.rows:
            self._number += 1
            batch = UsageBatch(self._quotas.unwritten(), self._writer, self._number, self._now_s())
            self._batch = batch
        return batch

    def _exchange(self, known: int, batch: UsageBatch) -> _Found:
        """Read what is new and write what was used. Runs in the thread."""
        store = self._open()
        stamp = store.stamp()
        if stamp == 0 and (known or self._ring.is_required):
            raise ConfigError(f"the keys in {self._location} are gone: put them back")
        found = _Found(store.now_s(), self._clock())
        if stamp == 0:
            return found
        if stamp != known:
            found = found._replace(keys=store.usable())
        try:
            return found._replace(written=store.write(batch))
        except ConfigError as error:  # a key that was revoked is refused all the same
            return found._replace(problem=error.message)

    def _take(self, found: _Found) -> None:
        self._told = (found.now_s, found.at_s)
        if not self._is_reached:
            self._is_reached = True
            self._log.info("keys_reached", place=str(self._location))
        self._take_written(found)
        if found.keys is None:
            if self._ring.is_required:
                self._ring.unchanged(self._clock())
            return
        self._stamp, keys = found.keys
        self._ring.take(keys, self._clock(), self._now_s())
        self._log.info("keys_read", place=str(self._location), keys=len(keys))
        try:
            mark_keys_made(self._data_folder)
        except ConfigError as error:
            self._log.error("keys_mark_unwritten", reason=error.message)

    def _take_written(self, found: _Found) -> None:
        """Take off what was written, and tell once that it could not be."""
        batch = self._batch
        written = found.written
        if written is not None and batch is not None:
            self._quotas.written(batch.usage, written.totals, written.others, self._clock())
            self._batch = None
        if bool(found.problem) is self._is_written:
            self._is_written = not found.problem
            if found.problem:
                self._log.error("usage_unwritten", place=str(self._location), reason=found.problem)
            else:
                self._log.info("usage_written", place=str(self._location))

    def _too_slow(self) -> None:
        """Go on without the store, and end what waits for it."""
        if self._store is not None:
            self._store.cut()
        self._failed(f"it took more than {PATIENCE_S:g} s")

    def _failed(self, why: str) -> None:
        self._ring.failed(self._clock())
        if self._is_reached:
            self._is_reached = False
            self._log.error("keys_unreachable", place=str(self._location), reason=why)
