"""Requests that ended workers, by a digest of what they ask, so that they are never sent again. Pure.

A digest is made only when a worker died, and of a new request only when one of the same model and size is known:
while nobody kills, a request costs a look whether the table is empty. It forgets: first after a minute, for a verdict
may be wrong; then after ten, then after an hour.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName
    from capamesh.protocol.links.calls import InferCall

MAX_KILLERS = 1024
"""Remembered at one time; those noted longest ago are forgotten first (guess: 200 KiB)."""
ENOUGH = 2
"""Deaths from which on a request is refused: one may have had another cause."""
BARRED_S = (60.0, 600.0, 3600.0)
"""How long it is refused the first time, the second, and after (guess)."""
KEPT_S = 3600.0
"""How long it is known that a request was noted."""
WHOLE_BYTES = 8 * 1024 * 1024
"""Of a larger tensor only its ends, together so many bytes, are looked at (guess: 10 ms of the router's loop)."""


class _Entry:
    __slots__ = ("deaths", "noted_s", "times", "until_s")

    def __init__(self) -> None:
        self.deaths = 0
        self.times = 0
        self.noted_s = 0.0
        self.until_s = 0.0


class Killers:
    """Those that one router has met. Every `now_s` is the caller's monotonic clock in seconds."""

    __slots__ = ("_entries", "_shapes")

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[ModelName, int, bytes], _Entry] = OrderedDict()
        """By model, size and digest, noted longest ago first."""
        self._shapes: Counter[tuple[ModelName, int]] = Counter()
        """How many of each model and size."""

    def __repr__(self) -> str:
        return f"Killers({len(self._entries)})"

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, call: InferCall, deaths: int, now_s: float) -> None:
        """Remember a request of which so many processes died."""
        self._tidy(now_s)
        key = (call.model, _size_bytes(call), digest(call))
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
            self._shapes[key[:2]] += 1
        self._entries.move_to_end(key)
        entry.deaths += deaths
        entry.noted_s = now_s
        if entry.deaths >= ENOUGH:
            entry.deaths = 0
            entry.until_s = now_s + BARRED_S[min(entry.times, len(BARRED_S) - 1)]
            entry.times += 1
        while len(self._entries) > MAX_KILLERS:
            self._forget(next(iter(self._entries)))

    def is_barred(self, call: InferCall, now_s: float) -> bool:
        """Return whether the request is one that must not be sent now."""
        size_bytes = _size_bytes(call)
        if not self._shapes[call.model, size_bytes]:
            return False
        self._tidy(now_s)
        entry = self._entries.get((call.model, size_bytes, digest(call)))
        return entry is not None and now_s < entry.until_s

    def _tidy(self, now_s: float) -> None:
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if now_s - entry.noted_s < KEPT_S:
                return
            self._forget(key)

    def _forget(self, key: tuple[ModelName, int, bytes]) -> None:
        del self._entries[key]
        self._shapes[key[:2]] -= 1
        if not self._shapes[key[:2]]:
            del self._shapes[key[:2]]


def digest(call: InferCall) -> bytes:
    """Return the SHA-256 of what a request asks: its model, its version and its inputs, large ones by their ends."""
    sha = hashlib.sha256(f"{call.model}\0{call.version}".encode("utf-8", "surrogatepass"))
    for tensor in call.inputs:
        data = memoryview(tensor.data).cast("B")
        head = f"\0{tensor.name}\0{tensor.datatype}\0{tensor.shape}\0{len(data)}\0"
        sha.update(head.encode("utf-8", "surrogatepass"))
        if len(data) > WHOLE_BYTES:
            sha.update(data[: WHOLE_BYTES // 2])
            sha.update(data[-(WHOLE_BYTES // 2) :])
        else:
            sha.update(data)
    return sha.digest()


def _size_bytes(call: InferCall) -> int:
    return sum(tensor.size_bytes for tensor in call.inputs)
