"""Any host, by chance: what the others are compared with. Pure, seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from capamesh.router.policies.drawing import draw_one
from capamesh.router.policies.policy import ByState, IsEligible, RequestShape

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Host


class RandomChoice(ByState):
    """One of the eligible hosts, each as likely."""

    name: ClassVar[str] = "random"

    def __init__(self, chance: random.Random) -> None:
        self._draw = chance.random

    def pick(
        self,
        hosts: Sequence[Host],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Host | None:
        """Part of `Policy`."""
        del request, now_s
        return draw_one(hosts, is_eligible, self._draw)
