"""Power of two choices on requests in flight (Mitzenmacher 2001). Pure, seeded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from capamesh.router.policies.drawing import draw_two
from capamesh.router.policies.policy import IsEligible, PolicyBase
from capamesh.router.policies.request_shape import RequestShape

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica


class PowerOfTwo(PolicyBase):
    """Chooses, of two different replicas drawn at random, the one with fewer of this router's requests in flight."""

    name: ClassVar[str] = "p2c"

    @override
    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        del request, now_s
        pair = draw_two(replicas, is_eligible, self._draw)
        if pair is None:
            return None
        first, second = pair
        return first if first.rif <= second.rif else second
