"""The memory that idle models keep of their earlier runs, which others may need. IO: the backend reads the process's memory."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from capamesh.node.models.registry import ModelRegistry
    from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
    from capamesh.node.scheduling import MemoryBudget

HOARD_SHARE: Final = 0.25
"""The share of the memory for runs that idle models may keep of their earlier ones (guess: large runs follow large ones)."""


class IdleMemory:
    """Has the models of a worker give back what they have too much of."""

    def __init__(self, models: ModelRegistry, backend: OnnxBackend, budget: MemoryBudget) -> None:
        self._models = models
        self._backend = backend
        self._budget = budget
        self._rest_bytes = 0
        """The bytes that this process has without any model."""
        self._kept_bytes = 0
        """The bytes that were left when all models were last made to give back, 0 where some were busy."""

    def begin(self) -> None:
        """Remember what this process uses before it has a model."""
        self._rest_bytes = self._backend.used_bytes()

    async def give_back(self) -> None:
        """Have idle models give back what their runs have left, where that is more than others can do without.

        What a model's pool of memory once had it keeps, whoever needs it; a single run may leave all there is. None is
        asked twice without a run in between, and what did not come back from all of them is not asked for again.
        """
        room = self._budget.room_bytes
        if not room:
            return
        left = self._pooled_bytes()
        self._kept_bytes = max(0, min(self._kept_bytes, left))
        if left - self._kept_bytes < HOARD_SHARE * room:
            return
        models = list(self._models)
        idle = [one for one in models if one.runner.scheduler.is_idle]
        for hosted in idle:
            if hosted.runner.scheduler.is_idle and hosted.runner.last_used_s >= hosted.gave_back_s:
                hosted.gave_back_s = time.monotonic()
                await asyncio.to_thread(hosted.prepared.give_back)
        self._kept_bytes = self._pooled_bytes() if len(idle) == len(models) else 0

    def _pooled_bytes(self) -> int:
        """Return what this process uses beyond what it had at first and its models at rest."""
        return self._backend.used_bytes() - self._rest_bytes - self._budget.models_bytes
