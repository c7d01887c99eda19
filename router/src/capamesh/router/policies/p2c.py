"""Power of two choices on requests in flight (Mitzenmacher 2001). Pure, seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from capamesh.router.policies.seam import LoadedT, RequestShape


class PowerOfTwo:
    """Of two different candidates drawn at random, the one with fewer requests in flight."""

    name: ClassVar[str] = "p2c"

    def __init__(self, chance: random.Random) -> None:
        self._random = chance.random

    def pick(self, candidates: Sequence[LoadedT], request: RequestShape) -> LoadedT:
        """Part of `Policy`."""
        del request
        count = len(candidates)
        if count == 1:
            return candidates[0]
        # random() is several times cheaper than sample(); a bias of 2**-53 is none
        first = int(self._random() * count)
        second = int(self._random() * (count - 1))
        if second >= first:
            second += 1
        a, b = candidates[first], candidates[second]
        return a if a.rif <= b.rif else b
