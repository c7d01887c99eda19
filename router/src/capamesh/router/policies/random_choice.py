"""Any replica, by chance: what the others are compared with. Pure, seeded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from capamesh.router.policies.drawing import draw_one
from capamesh.router.policies.policy import IsEligible, PolicyBase
from capamesh.router.policies.request_shape import RequestShape

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica


class RandomChoice(PolicyBase):
    """One of the eligible replicas, each as likely."""

    name: ClassVar[str] = "random"

    @override
    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        del request, now_s
        return draw_one(replicas, is_eligible, self._draw)
