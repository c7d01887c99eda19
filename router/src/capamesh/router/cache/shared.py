"""Kept answers that several routers share by a store that all reach: how they are named, written, sealed and read. Pure.

Others may write to the store, too. So routers that share have a secret in common: by it they name what they keep there, and seal it.
What does not bear the seal, or was written for another key, is nobody's answer; and a name tells nothing of the request.
"""

from __future__ import annotations

import hmac
import math
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.ids import PeerId
from capamesh.protocol.links.calls import decode_answer, encode_answer

if TYPE_CHECKING:
    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.tensors import Limits

MOST_BYTES: Final = 64 * 1024
"""A longer entry is not shared: to send and to read it would take longer than most models run (guess)."""
LEAST_SECRET_BYTES: Final = 32
"""A shorter secret is refused: as many bits as the seal has."""
MOST_AHEAD_S: Final = 60.0
"""The most by which another router's clock may be ahead of this one's (guess: a machine without NTP)."""
PREFIX: Final = b"capamesh:1:"
"""The beginning of all names in the store, for its operator; the number is that of the form of what is kept there."""
_SEAL_BYTES: Final = 32
_HEAD: Final = struct.Struct(">32sdBI")
"""The key, the time in seconds since 1970, and the bytes of the peer's id and of the metadata, which follow."""

Then = Callable[[bytes | None], None]
"""Takes what was found; None: nothing was, or not in time."""


class SharedStore(Protocol):
    """A store that several routers reach. It may lose what it likes, lie, and be away."""

    __slots__ = ()

    def get(self, name: bytes, then: Then) -> bool:
        """Tell `then` what is kept under a name, once, within some milliseconds, and never before this returns.

        Returns False, and tells nothing, where the store is not to be asked now.
        """
        ...

    def put(self, name: bytes, value: bytes, ttl_s: float) -> None:
        """Keep a value for so many seconds, if that can be done."""
        ...


class Shared(NamedTuple):
    """An answer that another router has kept."""

    answer: InferAnswer
    peer: PeerId
    """The node that gave it."""
    written_s: float
    """The time when it came, in seconds since 1970, on the clock of the router that has kept it."""


class Seal:
    """Names and seals entries, as all routers of one network do that have the same secret."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes, network: str) -> None:
        """`network` is the network's id: nodes of another are not trusted here."""
        self._secret = hmac.digest(secret, b"capamesh kept answers 1 " + network.encode(), "sha256")

    @override
    def __repr__(self) -> str:
        return "Seal()"  # the secret is nobody's

    def name_of(self, key: bytes) -> bytes:
        """Return the name of a key's entry, from which nobody without the secret can tell what was asked."""
        return PREFIX + hmac.digest(self._secret, b"name" + key, "sha256").hex().encode()

    def written(self, key: bytes, answer: InferAnswer, peer: PeerId, wall_s: float) -> bytes | None:
        """Return an answer as it is kept; None: it is too long. `wall_s` is in seconds since 1970."""
        size_bytes = 0
        for tensor in answer.outputs:
            size_bytes += len(tensor.data)
        if size_bytes > MOST_BYTES:
            return None
        meta, body = encode_answer(answer)
        whose = peer.encode()
        entry = b"".join((_HEAD.pack(key, wall_s, len(whose), len(meta)), whose, meta, *body))
        if len(entry) > MOST_BYTES - _SEAL_BYTES:
            return None
        return self._sealed(entry) + entry

    def read(self, key: bytes, value: bytes, limits: Limits) -> Shared | None:
        """Return what a router has written for a key; None: the value is nothing of the kind."""
        if not _SEAL_BYTES + _HEAD.size <= len(value) <= MOST_BYTES:
            return None
        entry = value[_SEAL_BYTES:]
        if not hmac.compare_digest(self._sealed(entry), value[:_SEAL_BYTES]):
            return None
        of, written_s, peer_bytes, meta_bytes = _HEAD.unpack_from(entry)
        meta_at = _HEAD.size + peer_bytes
        body_at = meta_at + meta_bytes
        if of != key or body_at > len(entry):
            return None
        try:
            peer = PeerId(entry[_HEAD.size : meta_at].decode("ascii"))
            answer = decode_answer(entry[meta_at:body_at], memoryview(entry)[body_at:], limits)
        except (CapameshError, UnicodeDecodeError):  # as another version of the router writes them
            return None
        return Shared(answer, peer, written_s)

    def _sealed(self, entry: bytes) -> bytes:
        return hmac.digest(self._secret, entry, "sha256")


class SharedAnswers:
    """The kept answers that this router shares with others."""

    def __init__(
        self,
        store: SharedStore,
        seal: Seal,
        *,
        limits: Limits,
        wall_clock: Callable[[], float],
    ) -> None:
        """`limits` are those of an answer; `wall_clock` is in seconds since 1970."""
        self._store = store
        self._seal = seal
        self._limits = limits
        self._wall_clock = wall_clock
        self._dropped_s = -math.inf
        self.refused = 0
        """The values that were found and are no answers: somebody else writes there, or a router with another secret."""

    @override
    def __repr__(self) -> str:
        return f"SharedAnswers({self._store!r})"

    def look_up(self, key: bytes, then: Callable[[Shared | None, float], None]) -> bool:
        """Tell `then` what others have kept for a key and its age in seconds, once, after this returned; None: nothing of use.

        Returns False, and tells nothing, where the store is not to be asked now.
        """
        return self._store.get(self._seal.name_of(key), partial(self._found, key, then))

    def keep(self, key: bytes, answer: InferAnswer, peer: PeerId, ttl_s: float) -> None:
        """Keep an answer for so many seconds, unless it is too long."""
        value = self._seal.written(key, answer, peer, self._wall_clock())
        if value is not None:
            self._store.put(self._seal.name_of(key), value, ttl_s)

    def drop_all(self) -> None:
        """Take nothing from now on that is there already."""
        self._dropped_s = self._wall_clock()

    def _found(
        self, key: bytes, then: Callable[[Shared | None, float], None], value: bytes | None
    ) -> None:
        shared = None if value is None else self._seal.read(key, value, self._limits)
        if value is not None and shared is None:
            self.refused += 1
        if shared is None or shared.written_s <= self._dropped_s:
            then(None, 0.0)
            return
        age_s = self._wall_clock() - shared.written_s
        if age_s < -MOST_AHEAD_S:
            then(None, 0.0)
        else:
            then(shared, max(0.0, age_s))
