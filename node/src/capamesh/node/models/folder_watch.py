"""Looks into the models folder of a worker, and tells what it refuses. IO: model files, in a thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from capamesh.node.models.refusals import MAX_SHOWN, keys_of
from capamesh.node.repository import Refused, Scan, scan
from capamesh.protocol.adverts import ModelState
from capamesh.protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from capamesh.node.models.changes import ModelChanges
    from capamesh.node.models.registry import Key, ModelRegistry


class FolderWatch:
    """The folder that a worker's models come from, as it was at the last look."""

    def __init__(
        self,
        folder: Path,
        models: ModelRegistry,
        changes: ModelChanges,
        *,
        compute_capability: str,
        on_moved: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        """Look into `folder`; `on_moved` is told, more than once, that another lies in its place, which may not be read."""
        self._folder = folder
        self._place = _place(folder)
        self._models = models
        self._changes = changes
        self._compute_capability = compute_capability
        self._on_moved = on_moved
        self._log = log
        self._before: Scan | None = None
        """The scan before, so that what it read need not be read again."""
        self._refused: frozenset[Refused] = frozenset()
        """The models refused at the last look, of which the log has told."""

    async def look(self, now_ns: int | None = None) -> Scan:
        """Return what the folder holds; see `scan`. Raises ConfigError: it cannot be read."""
        try:
            self._before = await asyncio.to_thread(partial(self._scan, self._before, now_ns))
        except ConfigError:
            folder = self._folder
            if _place(folder) not in {None, self._place} and os.access(folder, os.R_OK | os.X_OK):
                self._on_moved()
            raise
        return self._before

    def _scan(self, before: Scan | None, now_ns: int | None = None) -> Scan:
        return scan(
            self._folder,
            before=before,
            now_ns=now_ns,
            compute_capability=self._compute_capability,
        )

    def refuse(self, found: Scan) -> set[Key]:
        """Say of what the scan refused that it failed, and why; return of which model versions that is said.

        What was loaded before goes on. Of more than `MAX_SHOWN` the log alone tells.
        """
        for refused in found.refused:
            if refused not in self._refused:
                self._log.warning(
                    "model_refused",
                    model=refused.name,
                    version=refused.version,
                    reason=refused.reason,
                )
        self._refused = frozenset(found.refused)
        keys: set[Key] = set()
        said: set[Key] = set()
        for refused in found.refused:
            for key in keys_of(refused, self._models.known_keys()):
                if self._models.find(*key) is not None:
                    keys.add(key)
                    self._models.outdate(key, refused.reason)
                elif key in said or len(said) < MAX_SHOWN:
                    said.add(key)
                    self._models.say(key, ModelState.FAILED, refused.reason)
                    self._changes.forget_source(key)
        return keys | said


def _place(folder: Path) -> tuple[int, int] | None:
    """Return which folder lies at a path, None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
