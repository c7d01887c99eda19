"""The cheapest replica that is about as fast as the fastest. Pure, seeded.

Price is no summand of a score: what is nearly as fast as the fastest, by a factor or by a few milliseconds, is equally
good, and among equals the cheapest wins (the Prequal paper tried 13 weighted sums of two signals: ranking by one, then the other, beat all).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from capamesh.router.policies.drawing import draw_some
from capamesh.router.policies.policy import IsEligible, PolicyBase
from capamesh.router.policies.request_shape import RequestShape

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica

BAND = 1.5
"""A replica up to this many times slower than the fastest counts as equally good (guess)."""
FLOOR_S = 0.005
"""A replica at most this much slower than the fastest counts as equally good whatever the band says. For a model that runs
0.1 ms the band alone is narrower than the scatter of the measurements, and the dearest node that happens to measure
least would get all requests (guess: below what a caller over a network notices)."""
SAMPLE = 8
"""Replicas that are compared (guess): all of a small fleet; of a large one enough to meet a cheap one mostly."""


class Cheapest(PolicyBase):
    """Chooses the cheapest of a few replicas drawn at random that are about as fast as the fastest of them.

    About as fast is an expected latency of at most `BAND` times the least, or `FLOOR_S` more.

    A replica with as many in flight as it takes is left out while another is not. One of unknown latency is in the
    band while nothing is under way there. Equal prices: the fewest of this router's requests in flight.
    """

    name: ClassVar[str] = "cheapest"

    @override
    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        del now_s
        drawn = draw_some(replicas, is_eligible, self._draw, SAMPLE)
        if len(drawn) < 2:
            return drawn[0] if drawn else None
        size_bytes = request.size_bytes
        expected = [_expected_s(replica, size_bytes) for replica in drawn]
        fastest_s = min([s for s in expected if 0 < s < math.inf], default=0.0)
        limit_s = max(BAND * fastest_s, fastest_s + FLOOR_S)
        best: Replica | None = None
        best_price = math.inf
        for replica, seconds in zip(drawn, expected, strict=True):
            if seconds > limit_s or (seconds == 0 and replica.rif):
                continue
            price = replica.advert.price_per_million
            if (
                best is None
                or price < best_price
                or (price == best_price and replica.rif < best.rif)
            ):
                best, best_price = replica, price
        if best is None:  # all are full, or unknown with a request under way: rather these
            unknown = [h for h, seconds in zip(drawn, expected, strict=True) if seconds == 0]
            best = min(unknown or drawn, key=_rif)
        return best


def _expected_s(replica: Replica, size_bytes: int) -> float:
    """Return the latency to expect: 0 if unknown, infinite where one more would be refused.

    What this router has in flight beyond what the replica told of was sent since, and is served first.
    """
    load = replica.load
    rif = replica.rif
    unreported = rif - load.in_flight
    if 0 < load.limit <= (rif if unreported > 0 else load.in_flight):
        return math.inf
    service_s = replica.service_s
    if service_s == 0:
        return 0.0
    if unreported > 0:
        service_s *= 1 + unreported
    return service_s + replica.endpoint.network.transfer_s(size_bytes)


def _rif(replica: Replica) -> int:
    return replica.rif
