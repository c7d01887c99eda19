from __future__ import annotations

from fleet_fakes import offer
from replicas import host, lose

from capamesh.router.balancing.unhealthy import Ejected, Inhibited, Returned, Troubles
from capamesh.router.fleet.replica import Host


def test_an_inhibited_candidate_is_probed_at_growing_distances_while_its_link_is_up() -> None:
    troubles, one = Troubles(), host("a")
    assert not troubles
    one.candidate.health.failed(10.0, is_hard=True)
    troubles.note(one, 10.0)
    assert troubles
    assert troubles.reprobes(10.04) == []
    assert troubles.reprobes(10.05) == [one]
    assert troubles.reprobes(10.10) == []
    link = one.candidate.link
    lose(one)
    assert troubles.reprobes(10.15) == []
    one.candidate.link = link
    assert troubles.reprobes(10.16) == [one]
    assert troubles.reprobes(10.17) == []


def test_a_host_in_trouble_twice_is_probed_once() -> None:
    troubles, one = Troubles(), host("a")
    one.candidate.health.failed(10.0, is_hard=True)
    one.health.failed(10.0, is_hard=True)
    troubles.note(one, 10.0)
    assert troubles.reprobes(10.05) == [one]


def test_what_happens_is_told_once_in_its_order() -> None:
    troubles, one = Troubles(), host("a")
    one.candidate.health.failed(10.0, is_hard=True, cause="link_lost: reset")
    troubles.note(one, 10.0)
    troubles.note(one, 10.1)
    one.health.eject(10.2, "90% failed")
    troubles.note(one, 10.2)
    assert troubles.settle(10.3) == [
        Inhibited(one.candidate.peer, "a:7000", "", "", "link_lost: reset"),
        Ejected(one.candidate.peer, "a:7000", "m", "1", "90% failed"),
    ]
    assert troubles.settle(10.4) == []
    one.candidate.health.probed(10.5)
    assert troubles.settle(10.5) == [
        Returned(one.candidate.peer, "a:7000", "", "", "link_lost: reset")
    ]
    assert troubles
    assert troubles.settle(41.0) == [Returned(one.candidate.peer, "a:7000", "m", "1", "90% failed")]
    troubles.settle(60.0)
    assert not troubles
    assert repr(troubles) == "Troubles(0)"


def test_a_refusal_is_no_trouble_and_the_well_are_not_noted() -> None:
    troubles, one = Troubles(), host("a")
    troubles.note(one, 10.0)
    assert not troubles


def test_who_is_gone_is_forgotten_and_another_host_of_the_candidate_takes_over() -> None:
    troubles, one = Troubles(), host("a")
    other = Host(one.candidate, offer("n"), one.advert)
    one.candidate.health.failed(10.0, is_hard=True)
    troubles.note(one, 10.0)
    one.is_gone = True
    assert troubles.reprobes(10.05) == [
        one
    ]  # the candidate is still there: any of its models will do
    troubles.note(other, 10.06)
    assert troubles.reprobes(10.30) == [other]
    one.candidate.is_retired = True
    troubles.settle(10.4)
    assert not troubles
