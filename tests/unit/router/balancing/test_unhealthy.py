from __future__ import annotations

from replicas import lose, replica

from capamesh.router.balancing.unhealthy import (
    Ejected,
    Inhibited,
    Returned,
    UnhealthySet,
)


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
