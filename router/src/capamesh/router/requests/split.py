"""Splits the requests of a model among its versions, by an operator's weights. Pure, seeded.

Requests with a key (a sequence's id, a session) stay on one version, by weighted rendezvous hashing
(Schindelhauer and Schomaker 2005): each version draws a number from the key, the best for its weight wins. So
when a version goes or a weight changes, only the keys that must move do, and every router decides alike.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable
from hashlib import blake2b

from typing_extensions import override

from capamesh.protocol.ids import ModelVersion

NEWEST = ModelVersion("")
"""The newest version, whichever that is; as in a call."""
_DRAWS = 2.0**64


class VersionSplit:
    """Splits the requests of one model among its versions."""

    __slots__ = ("_weights", "is_weighted")

    def __init__(self, weights: Iterable[tuple[ModelVersion, float]] = ()) -> None:
        """Take weights of at least 0 by version; none: the newest has all requests."""
        self._weights = tuple((version, weight) for version, weight in weights if weight > 0)
        self.is_weighted = bool(self._weights)
        """True if the operator said which versions have requests."""

    @override
    def __repr__(self) -> str:
        return f"VersionSplit({', '.join(f'{v}: {weight:g}' for v, weight in self._weights)})"

    def has(self, version: ModelVersion) -> bool:
        """Return whether the version has a weight."""
        return any(version == weighted for weighted, _ in self._weights)

    def pick(
        self,
        hosted: Collection[ModelVersion],
        rng: random.Random,
        *,
        key: str = "",
    ) -> ModelVersion:
        """Return the version to ask, by weight among those `hosted`.

        `NEWEST` when no version that has a weight is hosted: an answer of another is better than none.
        Equal keys get equal versions.
        """
        weights = [pair for pair in self._weights if pair[0] in hosted]
        if len(weights) < 2:
            return weights[0][0] if weights else NEWEST
        if key:
            return max(weights, key=lambda pair: _score(pair[0], pair[1], key))[0]
        left = rng.random() * sum([weight for _, weight in weights])
        for version, weight in weights:
            left -= weight
            if left < 0:
                return version
        return weights[-1][0]  # the sum was rounded


def draw_of(salt: str, key: str) -> float:
    """Return a number from 0 to 1, neither of them, that depends on both texts alone."""
    digest = blake2b(f"{len(salt)}:{salt}{key}".encode("utf-8", "surrogatepass"), digest_size=8)
    return min((int.from_bytes(digest.digest()) + 0.5) / _DRAWS, 1.0 - 2.0**-53)


def _score(version: ModelVersion, weight: float, key: str) -> float:
    return -weight / math.log(draw_of(version, key))
