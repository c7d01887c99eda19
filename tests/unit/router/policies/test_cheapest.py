from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from replicas import SHAPE, lose, picks, replica

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.replica import Replica
from capamesh.router.policies.cheapest import Cheapest


def reported(
    peer: str, price: float, latency_us: int, *, rif: int = 0, in_flight: int = 0, limit: int = 4
) -> Replica:
    return replica(
        peer, price=price, rif=rif, load=LoadReport(in_flight, 0, limit, latency_us=latency_us)
    )


def only(*replicas: Replica, size_bytes: int = 8) -> str:
    """Return who is picked, which must be the same whatever the seed."""
    seen = {
        picks(Cheapest(random.Random(seed)), replicas, 1, SHAPE.replace(size_bytes=size_bytes))
        for seed in range(20)
    }
    assert len(seen) == 1
    return seen.pop()


def test_cheapest_within_the_band_of_the_fastest_is_picked() -> None:
    replicas = (reported("a", 3.0, 10_000), reported("b", 2.0, 15_000), reported("c", 1.0, 15_001))
    assert only(*replicas) == "b"
    lose(replicas[0])
    assert only(*replicas) == "c"  # the band is that of the fastest which is eligible


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 3), st.integers(0, 5)),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 2**32),
)
def test_pick_is_the_cheapest_in_the_band_and_not_full_while_another_is_not(
    drawn: list[tuple[int, int, int, int]], seed: int
) -> None:
    replicas = tuple(
        reported(str(index), float(price), latency_us, in_flight=in_flight, limit=limit)
        for index, (price, latency_us, in_flight, limit) in enumerate(drawn)
    )
    picked = Cheapest(random.Random(seed)).pick(replicas, lambda _: True, SHAPE, 0.0)
    assert picked is not None
    free = [one for one in replicas if not 0 < one.load.limit <= one.load.in_flight]
    if free:
        assert picked in free
        known = [one for one in free if one.load.latency_us]
        fastest_us = min((one.load.latency_us for one in known), default=0)
        limit_us = max(1.5 * fastest_us, fastest_us + 5000)
        band = [one for one in free if one.load.latency_us <= limit_us]
        assert picked in band
        assert picked.advert.price_per_million == min(o.advert.price_per_million for o in band)
