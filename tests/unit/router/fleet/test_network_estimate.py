from __future__ import annotations

from capamesh.router.fleet.network_estimate import MIN_RATED_BYTES, NetworkEstimate


def test_round_trip_is_the_least_of_this_window_and_the_one_before() -> None:
    network = NetworkEstimate()
    network.round_trip(0.010, 0.0)
    for now_s in range(2, 30, 2):  # the event loops are busy
        network.round_trip(0.144, float(now_s))
        assert network.rtt_s == 0.010
    network.round_trip(0.144, 59.0)
    assert network.rtt_s == 0.010
    network.round_trip(0.144, 90.0)  # the way has become longer
    assert network.rtt_s == 0.144
    network.round_trip(0.012, 92.0)
    assert network.rtt_s == 0.012


def test_small_bodies_and_impossible_times_say_nothing_of_bandwidth() -> None:
    network = NetworkEstimate()
    network.transferred(MIN_RATED_BYTES - 1, elapsed_s=1.0, at_node_s=0.0)
    network.transferred(2_000_000, elapsed_s=0.5, at_node_s=0.6)
    assert network.bytes_per_s == 0.0
