"""Marks what is being executed in the running page, so that the agent can tell after a crash. IO: shared memory."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING

from capamesh.node.running_page import SLOTS, Phase

if TYPE_CHECKING:
    from capamesh.node.running_page import RunningPage

__all__ = ["Marks", "Phase"]

NO_SLOT = -1


class Marks:
    """Slots of the page, lent to whatever runs. Safe to use from several threads at once."""

    def __init__(self, page: RunningPage | None) -> None:
        """Mark in `page`; with None, which tests give, nowhere."""
        self._page = page
        self._free = deque(range(SLOTS))
        self._numbers = itertools.count(1)
        self._known: dict[tuple[str, str, str], int] = {}

    def number(self, name: str, version: str, digest: str) -> int:
        """Return the number by which `begin` will know a model version.

        The page keeps what it has named: the same files keep their number, however often they are loaded.
        """
        if self._page is None:
            return next(self._numbers)
        key = name, version, digest
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = next(self._numbers)
            self._page.name(number, name, version, digest)
        return number

    def begin(self, number: int, phase: Phase) -> int:
        """Mark that a model is being executed; return what `end` needs. Without a free slot it is not marked."""
        if self._page is None:
            return NO_SLOT
        try:
            slot = self._free.popleft()
        except IndexError:
            return NO_SLOT
        self._page.begin(slot, number, phase)
        return slot

    def end(self, slot: int) -> None:
        """It is not executed any more."""
        if slot != NO_SLOT and self._page is not None:
            self._page.end(slot)
            self._free.append(slot)
