"""Requests that ended workers, by a digest of what they ask, so that they are never sent again. Pure but for a phase that it draws.

While nobody is barred, a request costs a look at a clock. While somebody is, it costs a sample of its bytes, and the
digest of one with such a sample, of so many bytes a second at the most: beyond these a killer is let through, as a new
one would be. It forgets: first after a minute, for a verdict may be wrong; then after ten, then after an hour; and at
once when the very request is answered. A verdict holds while whose word it was is enough against all replicas of the model.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.router.balancing.witnesses import Witness, are_enough

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName
    from capamesh.protocol.links.calls import InferCall

MAX_KILLERS = 1024
"""The most killers that are remembered at one time; those noted longest ago are forgotten first (guess: 300 KiB)."""
MAX_WITNESSES = 8
"""The most witnesses that are remembered of each; two of two invites are enough against any (guess: retries of a large request)."""
ENOUGH = 2
"""Deaths from which on a request is refused: one may have had another cause."""
BARRED_S = (60.0, 600.0, 3600.0)
"""Seconds for which it is refused the first time, the second, and after (guess)."""
KEPT_S = 3600.0
"""Seconds for which it is known that a request was noted."""
WHOLE_BYTES = 8 * 1024 * 1024
"""The bytes that are looked at of a larger tensor, half from each end (6 ms of the router's loop, measured)."""
SAMPLES = 64
"""Bytes of each tensor, evenly apart, that tell whether a digest is worth its while (guess: two requests that are not
the same, nor padded alike, differ in one of them)."""
HASHED_BYTES = 64 * 1024 * 1024
"""The bytes that are looked at in a second of requests that look like a killer (48 ms of the router's loop, measured)."""

_Key = tuple["ModelName", int, bytes]
"""Model, size, and digest or sample."""


class _Entry:
    __slots__ = ("deaths", "noted_s", "sample", "times", "until_s", "witnesses")

    def __init__(self, sample: _Key) -> None:
        self.sample = sample
        self.witnesses: frozenset[Witness] = frozenset()
        self.deaths = 0
        self.times = 0
        self.noted_s = 0.0
        self.until_s = 0.0


class Killers:
    """The killers that one router has met. Every `now_s` is the caller's monotonic clock in seconds."""

    __slots__ = ("_entries", "_hashed", "_hashed_s", "_phase", "_samples", "until_s")

    def __init__(self, phase: int | None = None) -> None:
        """`phase` says which bytes are sampled; None: those that no stranger knows."""
        self._phase = secrets.randbits(30) if phase is None else phase
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        """The entries by model, size and digest, noted longest ago first."""
        self._samples: dict[_Key, float] = {}
        """The time until which a request with that sample may be barred."""
        self.until_s = 0.0
        """The time until which any request may be barred."""
        self._hashed = 0
        """Bytes that went into digests since `_hashed_s`."""
        self._hashed_s = 0.0

    @override
    def __repr__(self) -> str:
        return f"Killers({len(self._entries)})"

    def __len__(self) -> int:
        return len(self._entries)

    def note(
        self, call: InferCall, deaths: int, witnesses: frozenset[Witness], now_s: float
    ) -> None:
        """Remember a request of which so many processes died, at these nodes."""
        self._tidy(now_s)
        key = self._key(call, now_s)
        if key is None:
            return
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(self._sample(call))
        self._entries.move_to_end(key)
        entry.deaths += deaths
        entry.noted_s = now_s
        if len(entry.witnesses) < MAX_WITNESSES:
            entry.witnesses |= witnesses
        if entry.deaths >= ENOUGH:
            entry.deaths = 0
            entry.until_s = now_s + BARRED_S[min(entry.times, len(BARRED_S) - 1)]
            entry.times += 1
            self._samples[entry.sample] = max(self._samples.get(entry.sample, 0.0), entry.until_s)
            self.until_s = max(self.until_s, entry.until_s)
        while len(self._entries) > MAX_KILLERS:
            self._forget(next(iter(self._entries)))

    def is_barred(
        self, call: InferCall, replicas: Callable[[], Iterable[Witness]], now_s: float
    ) -> bool:
        """Return whether the request is one that must not be sent now to `replicas`, all that its model has."""
        found = self._find(call, now_s)
        if found is None:
            return False
        entry = self._entries[found]
        return now_s < entry.until_s and are_enough(entry.witnesses, replicas())

    def answered(self, call: InferCall, now_s: float) -> None:
        """A node has answered this request: if it is barred, it is so no more."""
        found = self._find(call, now_s)
        if found is not None:
            self._forget(found)

    def _find(self, call: InferCall, now_s: float) -> _Key | None:
        """Return the key of a request that may be barred now."""
        if now_s >= self.until_s:
            return None
        sample = self._sample(call)
        until_s = self._samples.get(sample)
        if until_s is None:
            return None
        if now_s >= until_s:
            del self._samples[sample]
            return None
        key = self._key(call, now_s)
        return key if key in self._entries else None

    def _key(self, call: InferCall, now_s: float) -> _Key | None:
        """Return the key of a request; None: too much was looked at in this second."""
        if not 0 <= now_s - self._hashed_s < 1.0:
            self._hashed, self._hashed_s = 0, now_s
        size_bytes = _size_bytes(call)
        cost = sum(min(tensor.size_bytes, WHOLE_BYTES) for tensor in call.inputs)
        if self._hashed and self._hashed + cost > HASHED_BYTES:
            return None
        self._hashed += cost
        return call.model, size_bytes, digest(call)

    def _sample(self, call: InferCall) -> _Key:
        parts: list[bytes] = []
        for tensor in call.inputs:
            data = memoryview(tensor.data).cast("B")
            step = max(1, len(data) // SAMPLES)
            parts.append(bytes(data[self._phase % step :: step]))
        return call.model, _size_bytes(call), b"".join(parts)

    def _tidy(self, now_s: float) -> None:
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if now_s - entry.noted_s < KEPT_S:
                break
            self._forget(key)

    def _forget(self, key: _Key) -> None:
        sample = self._entries.pop(key).sample
        if sample in self._samples and all(
            each.sample != sample for each in self._entries.values()
        ):
            del self._samples[sample]


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
