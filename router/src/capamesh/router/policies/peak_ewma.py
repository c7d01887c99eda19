"""Power of two choices on latency and requests in flight, as Finagle's `p2cPeakEwma`. Pure, seeded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from capamesh.router.fleet.latency_ewma import load_s
from capamesh.router.policies.drawing import draw_two
from capamesh.router.policies.policy import IsEligible, PolicyBase
from capamesh.router.policies.request_shape import RequestShape

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica


class PeakEwma(PolicyBase):
    """Chooses, of two different replicas drawn at random, the one with the lesser average latency x (in flight + 1).

    The average itself is kept where answers arrive (`fleet.latency_ewma`).
    """

    name: ClassVar[str] = "peak-ewma"

    @override
    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        del request
        pair = draw_two(replicas, is_eligible, self._draw)
        if pair is None:
            return None
        first, second = pair
        return first if load_s(first, now_s) <= load_s(second, now_s) else second
