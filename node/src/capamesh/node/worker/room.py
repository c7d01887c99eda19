"""Whether a model fits into the device's memory, and what gives way to it. Reads the clock and the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from capamesh.node.worker.pipelines import is_member
from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    from capamesh.node.backend import Backend
    from capamesh.node.store import ModelSource
    from capamesh.node.worker.models import HostedModel, HostedModels

HEADROOM = 1.1
"""A model is let in when so many times its need is free (guess: what its first runs add to a measured need)."""


class Room:
    """The memory of one worker's device."""

    def __init__(
        self,
        models: HostedModels,
        backend: Backend,
        needed_bytes: Callable[[ModelSource], int],
        *,
        limit_bytes: int,
    ) -> None:
        """`limit_bytes` is what models may use in all; 0: what the device has."""
        self._models = models
        self._backend = backend
        self._needed_bytes = needed_bytes
        self._limit_bytes = limit_bytes

    def can_be_made(self, source: ModelSource, unused_s: float) -> bool:
        """Whether `source` fits, or would if all gave way that was not used for `unused_s`."""
        return self._missing_bytes(source) <= sum(map(_held_bytes, self._idle(source, unused_s)))

    def next_to_leave(self, source: ModelSource, unused_s: float) -> HostedModel | None:
        """Return what must be unloaded first for `source` to fit; None when it fits now.

        ModelInvalid: it would not fit though all gave way that was not used for `unused_s`.
        """
        missing = self._missing_bytes(source)
        if missing <= 0:
            return None
        idle = self._idle(source, unused_s)
        if missing > sum(map(_held_bytes, idle)):
            free = self._free_bytes()
            raise ModelInvalid(
                f"it needs about {missing + free} bytes of memory and {free} are free: unload a model, or"
                " allow more (--memory-limit)"
            )
        return min(idle, key=lambda hosted: hosted.runner.last_used_s)

    def _missing_bytes(self, source: ModelSource) -> int:
        """Return how much more memory must be free before `source` is loaded; none is missing below 1."""
        return int(HEADROOM * self._needed_bytes(source)) - self._free_bytes()

    def _idle(self, source: ModelSource, unused_s: float) -> list[HostedModel]:
        unused_since_s = time.monotonic() - unused_s
        return [
            hosted
            for hosted in self._models
            if hosted.runner.engine.is_idle
            and not hosted.source.is_pipeline  # it holds next to nothing itself
            and not hosted.source.manifest.rules.is_pinned
            and hosted.runner.last_used_s <= unused_since_s
            and (hosted.source.name, hosted.source.version) != (source.name, source.version)
            and not is_member(hosted.source.name, self._models)
        ]

    def _free_bytes(self) -> int:
        free = self._backend.free_bytes()
        return (
            min(free, self._limit_bytes - self._backend.used_bytes()) if self._limit_bytes else free
        )


def _held_bytes(hosted: HostedModel) -> int:
    """Return what unloading a model is expected to free."""
    return max(hosted.source.size_bytes, hosted.prepared.measured.memory_bytes)
