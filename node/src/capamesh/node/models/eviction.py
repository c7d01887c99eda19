"""Decides whether a model fits into the device's memory, and what gives way to it. Reads the clock and the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capamesh.node.models.dependencies import is_member
from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    from capamesh.node.models.registry import HostedModel, Key, ModelRegistry
    from capamesh.node.repository import ModelSource
    from capamesh.node.runtime.api import Backend

HEADROOM = 1.1
"""A model is let in when so many times its need is free (guess: what its first runs add to a measured need)."""
LEAST_IDLE_S = 5.0
"""A model gives way to another that a request came for when it was not used for so long (guess: longer than a pause
between two requests of one user)."""
IDLE_LOADS = 10.0
"""The time for which it is kept at least, in times of its load: strangers that ask for one model after the other have a device
load for a tenth of its time at most (guess)."""
MOST_IDLE_S = 60.0
"""The time for which it is kept at most (guess: who has not asked for a minute may wait for a load)."""


SHORT_S = 60.0
MOST_SHORT_S = 3600.0
"""A model whose load ran out of memory though it seemed to fit is let in only where more is free than then. A request has it
tried all the same after the first, then after twice as long each time, up to the second (guess: what else took the memory
may be gone; a load that fails takes it from the runs beside it for a moment)."""
AGAIN_S = 5.0
"""Seconds after which a router may ask again for such a model (guess: to look whether there is room costs nothing)."""


class NoRoom(ModelInvalid):
    """A model does not fit now; nothing is wrong with it."""

    def __init__(self, message: str, *, soon_s: float) -> None:
        """Say in `soon_s` after how many seconds enough others may give way to it, infinity where they never do."""
        super().__init__(message)
        self.soon_s = soon_s


@dataclass(slots=True)
class _Short:
    """The state of a model whose load ran out of memory."""

    digest: str
    needed_bytes: int
    """More than what was free then."""
    until_s: float
    times: int


class Room:
    """The memory of one worker's device."""

    def __init__(
        self,
        models: ModelRegistry,
        backend: Backend,
        needed_bytes: Callable[[ModelSource], int],
        held_bytes: Callable[[], int],
        *,
        limit_bytes: int,
    ) -> None:
        """`limit_bytes` is what models may use in all, 0: what the device has; `held_bytes` tells what all loaded use.

        That is the sum of what they were measured to take. What the process has besides is not theirs, and what a
        closed model leaves to the allocator is used again.
        """
        self._models = models
        self._backend = backend
        self._needed_bytes = needed_bytes
        self._loaded_bytes = held_bytes
        self._limit_bytes = limit_bytes
        self._short: dict[Key, _Short] = {}

    def fits(self, source: ModelSource) -> bool:
        """Return whether `source` fits without any other's giving way."""
        return self._missing_bytes(source, is_asked_for=False) <= 0

    def ran_short(self, source: ModelSource, why: str) -> NoRoom:
        """Note that the memory ran out while `source` was loaded; return what to tell."""
        key, free = (source.name, source.version), max(0, self._free_bytes())
        known = self._short.get(key)
        times = known.times + 1 if known is not None and known.digest == source.digest else 1
        rest_s = min(MOST_SHORT_S, SHORT_S * 2.0 ** min(times - 1, 10))
        needed = max(free + 1, self._needed_bytes(source))
        self._short[key] = _Short(source.digest, needed, time.monotonic() + rest_s, times)
        return NoRoom(
            f"the memory ran out while it was loaded: it needs more than {needed - 1} bytes of memory and {free} are free"
            f" ({why})",
            soon_s=AGAIN_S,  # others may leave any time
        )

    def forget(self, key: Key) -> None:
        """Forget that there was no memory for a model version: it is loaded now, or gone."""
        self._short.pop(key, None)

    def eviction_victim(self, source: ModelSource, *, is_asked_for: bool) -> HostedModel | None:
        """Return what must be unloaded first for `source` to fit; None when it fits now.

        Only to a model that is asked for others give way. Raises `NoRoom`: it would not fit though all gave way that
        may now.
        """
        missing = self._missing_bytes(source, is_asked_for=is_asked_for)
        if missing <= 0:
            return None
        others = self._others(source)
        now_s = time.monotonic()
        idle = [one for one in others if _may_leave_s(one, now_s) <= now_s] if is_asked_for else []
        if missing > sum(map(held_bytes, idle)):
            free = self._free_bytes()
            soon_s = _enough_s(others, missing, now_s) - now_s
            why = f"it needs about {missing + free} bytes of memory and {max(0, free)} are free"
            short = self._short_of(source)
            if short is not None:  # what takes the memory may be no model of this node's
                soon_s = AGAIN_S
                why += ": it ran out when it was loaded before"
            elif soon_s == math.inf:
                why += ": unload a model, or allow more (--memory-limit)"
            elif is_asked_for:
                why += f", and others that could give way to it are in use; in {soon_s:.0f} s they may not be"
            else:
                why += ": another model gives way to it when a request comes for it"
            raise NoRoom(why, soon_s=soon_s)
        return min(idle, key=lambda hosted: hosted.runner.last_used_s)

    def _missing_bytes(self, source: ModelSource, *, is_asked_for: bool) -> int:
        """Return how much more memory must be free before `source` is loaded; none is missing below 1."""
        needed, short = self._needed_bytes(source), self._short_of(source)
        if short is not None and not (is_asked_for and time.monotonic() >= short.until_s):
            needed = max(needed, short.needed_bytes)
        return int(HEADROOM * needed) - self._free_bytes()

    def _short_of(self, source: ModelSource) -> _Short | None:
        short = self._short.get((source.name, source.version))
        return short if short is not None and short.digest == source.digest else None

    def _others(self, source: ModelSource) -> list[HostedModel]:
        """Return what may ever give way to `source`."""
        return [
            hosted
            for hosted in self._models
            if not hosted.source.is_pipeline  # it holds next to nothing itself
            and not hosted.source.manifest.rules.is_pinned
            and (hosted.source.name, hosted.source.version) != (source.name, source.version)
            and not is_member(hosted.source.name, self._models)
        ]

    def _free_bytes(self) -> int:
        free = self._backend.free_bytes()
        return min(free, self._limit_bytes - self._loaded_bytes()) if self._limit_bytes else free


def held_bytes(hosted: HostedModel) -> int:
    """Return what unloading a model is expected to free."""
    return max(hosted.source.size_bytes, hosted.prepared.measured.memory_bytes)


def _may_leave_s(hosted: HostedModel, now_s: float) -> float:
    """Return from when on a model may give way, if nobody uses it until then."""
    idle_s = min(MOST_IDLE_S, max(LEAST_IDLE_S, IDLE_LOADS * hosted.load_s))
    used_s = hosted.runner.last_used_s if hosted.runner.scheduler.is_idle else now_s
    return used_s + idle_s


def _enough_s(others: list[HostedModel], missing: int, now_s: float) -> float:
    """Return from when on so many of `others` may give way that `missing` bytes get free; infinity: never."""
    for hosted in sorted(others, key=lambda one: _may_leave_s(one, now_s)):
        missing -= held_bytes(hosted)
        if missing <= 0:
            return max(now_s, _may_leave_s(hosted, now_s))
    return math.inf
