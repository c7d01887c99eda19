from __future__ import annotations

from fleet_fakes import offer
from replicas import lose, replica

from capamesh.router.balancing.unhealthy import (
    MAX_VERDICTS,
    Ejected,
    Inhibited,
    Returned,
    UnhealthySet,
)
from capamesh.router.fleet.replica import Replica
from capamesh.router.resilience.health import CircuitState


def test_inhibited_endpoint_is_probed_at_growing_distances_while_its_link_is_up() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    assert not unhealthy.noted
    one.endpoint.health.failed(10.0, is_hard=True)
    unhealthy.note(one, 10.0)
    assert unhealthy.noted
    assert unhealthy.reprobes(10.04) == []
    assert unhealthy.reprobes(10.05) == [one]
    assert unhealthy.reprobes(10.10) == []
    link = one.endpoint.link
    lose(one)
    assert unhealthy.reprobes(10.15) == []
    one.endpoint.link = link
    assert unhealthy.reprobes(10.16) == [one]
    assert unhealthy.reprobes(10.17) == []


def test_replica_in_trouble_twice_is_probed_once() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    one.endpoint.health.failed(10.0, is_hard=True)
    one.health.failed(10.0, is_hard=True)
    unhealthy.note(one, 10.0)
    assert unhealthy.reprobes(10.05) == [one]


def test_events_are_reported_once_in_their_order() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    one.endpoint.health.failed(10.0, is_hard=True, cause="link_lost: reset")
    unhealthy.note(one, 10.0)
    unhealthy.note(one, 10.1)
    one.health.eject(10.2, "90% failed")
    unhealthy.note(one, 10.2)
    assert unhealthy.settle(10.3) == [
        Inhibited(one.endpoint.peer, "a:7000", "", "", "link_lost: reset"),
        Ejected(one.endpoint.peer, "a:7000", "m", "1", "90% failed"),
    ]
    assert unhealthy.settle(10.4) == []
    one.endpoint.health.probed(10.5)
    assert unhealthy.settle(10.5) == [
        Returned(one.endpoint.peer, "a:7000", "", "", "link_lost: reset")
    ]
    assert unhealthy.noted
    assert unhealthy.settle(41.0) == [Returned(one.endpoint.peer, "a:7000", "m", "1", "90% failed")]
    unhealthy.settle(60.0)
    assert not unhealthy.noted
    assert repr(unhealthy) == "UnhealthySet(0)"


def test_refusal_is_no_trouble_and_the_well_are_not_noted() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    unhealthy.note(one, 10.0)
    assert not unhealthy.noted


def test_replica_that_is_gone_is_forgotten_and_another_of_its_endpoint_takes_over() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    other = Replica(one.endpoint, offer("n"), one.advert)
    one.endpoint.health.failed(10.0, is_hard=True)
    unhealthy.note(one, 10.0)
    one.is_gone = True
    assert unhealthy.reprobes(10.05) == [
        one
    ]  # the endpoint is still there: any of its models will do
    unhealthy.note(other, 10.06)
    assert unhealthy.reprobes(10.30) == [other]
    one.endpoint.is_retired = True
    unhealthy.settle(10.4)
    assert not unhealthy.noted


def test_trouble_of_a_model_is_over_once_the_replica_is_gone() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    one.health.eject(10.0)
    unhealthy.note(one, 10.0)
    unhealthy.settle(10.1)
    assert unhealthy.noted
    one.is_gone = True
    unhealthy.settle(10.2)
    assert not unhealthy.noted


def test_trouble_of_an_endpoint_is_over_once_its_replica_and_its_link_are_gone() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    one.endpoint.health.failed(10.0, is_hard=True)
    unhealthy.note(one, 10.0)
    link = one.endpoint.link
    lose(one)
    unhealthy.settle(10.1)
    assert unhealthy.noted
    one.is_gone, one.endpoint.link = True, link
    unhealthy.settle(10.2)
    assert unhealthy.noted
    lose(one)
    unhealthy.settle(10.3)
    assert not unhealthy.noted


def test_first_of_an_endpoint_s_replicas_is_probed_while_it_is_there() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    other = Replica(one.endpoint, offer("n"), one.advert)
    one.endpoint.health.failed(10.0, is_hard=True)
    unhealthy.note(one, 10.0)
    unhealthy.note(other, 10.0)
    assert unhealthy.reprobes(10.05) == [one]


def test_link_that_takes_no_requests_is_not_probed() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    one.endpoint.health.failed(10.0, is_hard=True)
    unhealthy.note(one, 10.0)
    one.endpoint.link.is_usable = False  # type: ignore[union-attr,misc]
    assert unhealthy.reprobes(10.05) == []


def test_operator_s_hold_is_no_verdict_and_neither_is_its_end() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    one.health.hold(CircuitState.FORCED_OPEN)
    unhealthy.note(one, 10.0)
    assert unhealthy.settle(10.0) == []
    one.health.hold(None)
    assert unhealthy.settle(10.1) == []


def test_one_that_is_held_while_it_is_out_has_not_returned() -> None:
    unhealthy, one = UnhealthySet(), replica("a")
    one.health.eject(10.0, "90% failed")
    unhealthy.note(one, 10.0)
    unhealthy.settle(10.0)
    one.health.hold(CircuitState.FORCED_OPEN)
    assert unhealthy.settle(10.1) == []


def test_oldest_of_too_many_verdicts_are_dropped() -> None:
    unhealthy, replicas = UnhealthySet(), [replica(str(at)) for at in range(MAX_VERDICTS + 1)]
    for one in replicas:
        one.endpoint.health.failed(10.0, is_hard=True)
        unhealthy.note(one, 10.0)
    verdicts = unhealthy.settle(10.0)
    assert (len(verdicts), verdicts[0].peer) == (MAX_VERDICTS, "1")
