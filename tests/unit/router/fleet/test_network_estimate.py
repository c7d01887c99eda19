from __future__ import annotations

from capamesh.router.fleet.network_estimate import MIN_RATED_BYTES, NetworkEstimate


def test_small_bodies_and_impossible_times_say_nothing_of_bandwidth() -> None:
    network = NetworkEstimate()
    network.transferred(MIN_RATED_BYTES - 1, elapsed_s=1.0, at_node_s=0.0)
    network.transferred(2_000_000, elapsed_s=0.5, at_node_s=0.6)
    assert network.bytes_per_s == 0.0
