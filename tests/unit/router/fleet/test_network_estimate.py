from __future__ import annotations

import pytest

from capamesh.router.fleet.network_estimate import MIN_RATED_BYTES, NetworkEstimate


def test_endpoint_without_a_measurement_costs_nothing() -> None:
    network = NetworkEstimate()
    assert network.transfer_s(10**9) == 0.0
    assert network.budget_ms(40) == 40


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


def test_trip_of_late_follows_all_samples_by_an_eighth() -> None:
    network = NetworkEstimate()
    network.round_trip(0.080, 0.0)
    assert network.trip_s == 0.080
    network.round_trip(0.160, 1.0)
    assert network.trip_s == pytest.approx(0.090)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_trip_that_took_no_time_was_not_measured(seconds: float) -> None:
    network = NetworkEstimate()
    network.round_trip(seconds, 0.0)
    assert (network.rtt_s, network.trip_s) == (0.0, 0.0)


def test_bandwidth_is_what_is_left_of_the_time_beside_the_node_and_the_trip() -> None:
    network = NetworkEstimate()
    network.round_trip(0.1, 0.0)
    network.transferred(2_000_000, elapsed_s=1.6, at_node_s=0.5)
    assert network.bytes_per_s == pytest.approx(2_000_000)
    assert network.transfer_s(1_000_000) == pytest.approx(0.6)
    network.transferred(2_000_000, elapsed_s=1.1, at_node_s=0.5)  # 4 MB a second
    assert network.bytes_per_s == pytest.approx(2_500_000)


def test_small_bodies_and_impossible_times_say_nothing_of_bandwidth() -> None:
    network = NetworkEstimate()
    network.transferred(MIN_RATED_BYTES - 1, elapsed_s=1.0, at_node_s=0.0)
    network.transferred(2_000_000, elapsed_s=0.5, at_node_s=0.6)
    assert network.bytes_per_s == 0.0


def test_node_is_given_the_time_that_is_left_when_the_request_arrives() -> None:
    network = NetworkEstimate()
    network.round_trip(0.050, 0.0)
    assert network.budget_ms(1_000) == 975
    assert network.budget_ms(20) == 1
