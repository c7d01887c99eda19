"""Entries within a budget of bytes: which of them stay, by S3-FIFO. Pure.

What comes goes into a small queue, and from there into the main one only if it was of use meanwhile; what was of no use leaves a
trace, and goes into the main queue at once if it comes again (Yang et al., "FIFO queues are all you need for cache eviction",
2023). So a flood of requests that nobody repeats passes through a tenth of the memory, and a look-up moves nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.router.cache.entry import MAX_FORMS, STUB_BYTES

if TYPE_CHECKING:
    from capamesh.router.cache.entry import Entry

DEFAULT_CACHE_BYTES: Final = 128 * 2**20
"""The memory for kept answers where nobody says otherwise (guess: 60,000 embeddings of 384 FP32, as binary)."""
SMALL_PART: Final = 0.1
"""The small queue's part of the budget (the paper's)."""
MOST_USES: Final = 3
"""Uses are counted up to that (the paper's)."""
TRACE_BYTES: Final = 80
"""The bytes of a trace (measured: 77)."""
MOST_TRACES_PART: Final = 0.1
"""The traces' part of the budget, at most (guess: the paper has as many as entries, which of small entries would be half of all)."""
WARY_AFTER: Final = 4096
"""The look-ups in a row that found nothing which make the store wary: it keeps an answer only when its key comes a second time
(guess: more than are tried by hand, and less than a second's flood)."""
WARY_LOOKS: Final = 16
"""A wary store has one of so many look-ups made elsewhere, too (guess: they cost little, and end a flood's time soon)."""
MOST_ENTRY_PART: Final = 0.125
"""A larger entry is not kept: it would push out too many others (guess)."""


class Store:
    """Kept answers by their keys. Every `now_s` is in seconds of the caller's clock, which never goes back."""

    def __init__(self, most_bytes: int) -> None:
        """Keep at most so many bytes; 0: nothing is kept."""
        self._entries: dict[bytes, Entry] = {}
        self._small: deque[Entry] = deque()
        self._main: deque[Entry] = deque()
        self._marks: dict[int, int] = {}
        """The marks of the entries, and how many entries have each."""
        self._traces: dict[int, None] = {}
        self._trace_queue: deque[int] = deque()
        self._entry_bytes = 0
        self._small_bytes = 0
        self.most_bytes = most_bytes
        self._most_traces = int(most_bytes * MOST_TRACES_PART / TRACE_BYTES)
        self._missed = 0
        """The look-ups since the last that found something."""
        self.evicted = 0
        """Entries that had to go for others."""

    @override
    def __repr__(self) -> str:
        return f"Store({len(self)} entries, {self.used_bytes} of {self.most_bytes} bytes)"

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> int:
        """Return the bytes that all of it takes, as far as they are counted."""
        return self._entry_bytes + TRACE_BYTES * len(self._trace_queue)

    def may_have(self, mark: int) -> bool:
        """Return whether there may be an entry for requests with a mark; else this was a look-up that found nothing."""
        if mark in self._marks:
            return True
        self._missed += 1
        return False

    def get(self, key: bytes) -> Entry | None:
        """Return the entry of a key and count its use; None: there is none."""
        entry = self._entries.get(key)
        if entry is None:
            self._missed += 1
        elif entry.uses < MOST_USES:
            entry.uses += 1
        return entry

    def found(self) -> None:
        """Take in that a look-up was of use: an answer was given, or a run was joined."""
        self._missed = 0

    def looks_elsewhere(self) -> bool:
        """Return whether what was just not found is worth a look elsewhere; for a wary store it rarely is."""
        return self._missed < WARY_AFTER or self._missed % WARY_LOOKS == 0

    def wants(self, mark: int) -> bool:
        """Return whether an answer for requests with a mark is worth to be kept; a wary store remembers the mark for the next time."""
        if self._missed < WARY_AFTER:
            return True
        if mark in self._traces:
            return True
        self._leave_trace(mark)
        return False

    def put(self, entry: Entry) -> bool:
        """Keep an entry in place of the one of its key; return whether it is kept, for it may be too large."""
        before = self._entries.get(entry.key)
        if before is not None:
            self.drop(before)
        if entry.size_bytes > self.most_bytes * MOST_ENTRY_PART:
            return False
        self._entries[entry.key] = entry
        self._marks[entry.mark] = self._marks.get(entry.mark, 0) + 1
        self._entry_bytes += entry.size_bytes
        if entry.mark in self._traces:
            entry.is_main = True
            self._main.append(entry)
        else:
            self._small.append(entry)
            self._small_bytes += entry.size_bytes
        if self._entry_bytes + TRACE_BYTES * len(self._trace_queue) > self.most_bytes:
            self._make_room()
        return True

    def add_form(self, entry: Entry, name: object, form: object, size_bytes: int) -> None:
        """Keep a written form of an entry's answer beside it, of so many bytes, if it has not too many."""
        forms = entry.forms
        if entry.is_dropped or (forms is not None and len(forms) >= MAX_FORMS):
            return
        if entry.size_bytes + size_bytes > self.most_bytes * MOST_ENTRY_PART:
            return
        if forms is None:
            forms = entry.forms = {}
        forms[name] = form
        self._grow(entry, size_bytes)
        self._make_room()

    def drop(self, entry: Entry) -> None:
        """Give an entry to nobody any more."""
        if entry.is_dropped:
            return
        entry.drop()
        self._take_out(entry)
        self._grow(entry, STUB_BYTES - entry.size_bytes)

    def clear(self) -> None:
        """Drop all, and what was remembered of others."""
        for entry in list(self._entries.values()):
            self.drop(entry)
        self._entries.clear()
        self._marks.clear()
        self._small.clear()
        self._main.clear()
        self._traces.clear()
        self._trace_queue.clear()
        self._entry_bytes = self._small_bytes = 0

    def _grow(self, entry: Entry, size_bytes: int) -> None:
        entry.size_bytes += size_bytes
        self._entry_bytes += size_bytes
        if not entry.is_main:
            self._small_bytes += size_bytes

    def _make_room(self) -> None:
        """Let entries go until the rest is within the budget."""
        while self._entry_bytes and self.used_bytes > self.most_bytes:
            if self._small and (not self._main or self._small_bytes > self.most_bytes * SMALL_PART):
                self._evict_small()
            else:
                self._evict_main()

    def _evict_small(self) -> None:
        entry = self._small.popleft()
        self._small_bytes -= entry.size_bytes
        if entry.is_dropped:
            self._entry_bytes -= entry.size_bytes
        elif entry.uses:
            entry.uses = 0
            entry.is_main = True
            self._main.append(entry)
        else:
            self._remove(entry)
            self._leave_trace(entry.mark)

    def _evict_main(self) -> None:
        entry = self._main.popleft()
        if entry.is_dropped:
            self._entry_bytes -= entry.size_bytes
        elif entry.uses:
            entry.uses -= 1
            self._main.append(entry)
        else:
            self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        entry.is_dropped = True  # whoever is about to add a form to it is not to
        self._take_out(entry)
        self._entry_bytes -= entry.size_bytes
        self.evicted += 1

    def _take_out(self, entry: Entry) -> None:
        """Find an entry by its key and its mark no more."""
        del self._entries[entry.key]
        left = self._marks[entry.mark] - 1
        if left:
            self._marks[entry.mark] = left
        else:
            del self._marks[entry.mark]

    def _leave_trace(self, trace: int) -> None:
        if trace in self._traces:
            return
        queue = self._trace_queue
        while queue and len(queue) >= self._most_traces:
            self._traces.pop(queue.popleft(), None)
        if self._most_traces:
            self._traces[trace] = None
            queue.append(trace)
