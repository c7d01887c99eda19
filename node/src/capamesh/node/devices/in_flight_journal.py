"""Marks what is being executed in the running page, so that the agent can tell after a crash. IO: shared memory."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from capamesh.node.devices.in_flight_page import SLOTS, Phase

if TYPE_CHECKING:
    from capamesh.node.devices.in_flight_page import InFlightPage

__all__ = ["InFlightJournal", "Phase"]

NO_SLOT: Final = -1


class InFlightJournal:
    """Slots of the page, lent to whatever runs. Safe to use from several threads at once."""

    def __init__(self, page: InFlightPage | None) -> None:
        """Mark in `page`; with None, which tests give, nowhere."""
        self._page = page
        self._free = deque(range(SLOTS))
        self._numbers = itertools.count(1)
        self._known: dict[tuple[str, str, str], int] = {}
        self._users: Counter[int] = Counter()
        """The number of users of each number that have not released it."""
        self._is_settled = False

    def number(self, name: str, version: str, digest: str) -> int:
        """Return the number by which `begin` will know a model version, until `release`.

        The same files have one number, however often they are loaded at the same time.
        """
        if self._page is None:
            return next(self._numbers)
        key = name, version, digest
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = next(self._numbers)
            self._page.name(number, name, version, digest)
        self._users[number] += 1
        return number

    def release(self, number: int) -> None:
        """Forget a number that `number` gave, once as often as it gave it; nothing may be marked with it then."""
        if self._page is None:
            return
        self._users[number] -= 1
        if self._users[number] > 0:
            return
        del self._users[number]
        self._known = {key: known for key, known in self._known.items() if known != number}
        self._page.forget(number)

    def begin(self, number: int, phase: Phase) -> int:
        """Mark that a model is being executed; return what `end` needs. Without a free slot it is not marked."""
        if self._page is None or self._is_settled:
            return NO_SLOT
        try:
            slot = self._free.popleft()
        except IndexError:
            return NO_SLOT
        self._page.begin(slot, number, phase)
        if self._is_settled:  # since the look at it above
            self._page.end(slot)
        return slot

    def tell(self, slot: int, request: bytes, large_bytes: int) -> None:
        """Say which request runs in `slot`: its digest, and the bytes of its inputs where those are unusually many."""
        if slot != NO_SLOT and self._page is not None and not self._is_settled:
            self._page.tell(slot, request, large_bytes)

    def end(self, slot: int) -> None:
        """Mark that it is not executed any more."""
        if slot != NO_SLOT and self._page is not None and not self._is_settled:
            self._page.end(slot)
            self._free.append(slot)

    def settle(self) -> None:
        """Leave all marks as they are, for good: this process is about to end, and one of those may be the cause."""
        self._is_settled = True

    def blame(self, number: int, phase: Phase, request: bytes = b"", large_bytes: int = 0) -> None:
        """Mark that model alone and for good: this process is about to end, and that model is the cause.

        `request` is what `tell` would be given, where one request alone is to blame.
        """
        if self._page is None or self._is_settled:
            return
        self._is_settled = True
        kept = self._free.popleft() if self._free else 0
        for slot in range(SLOTS):
            if slot != kept:
                self._page.end(slot)
        self._page.begin(kept, number, phase)
        if request:
            self._page.tell(kept, request, large_bytes)
